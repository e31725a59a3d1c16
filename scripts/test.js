// Builds, and runs all tests, or those whose path contains an argument.
import { spawnSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { build, buildWorkloads } from './build.js';

/** One file at a time: some keep both processors busy, and others measure what they interrupt. */
const CONCURRENCY = 1;
/** Far more than any test needs: one that hangs is to be seen. */
const TIMEOUT_MS = 300_000;

build();
buildWorkloads();
const wanted = process.argv.slice(2);
const files = readdirSync('dist/test', { recursive: true })
  .map(String)
  .filter((name) => name.endsWith('.test.js'))
  .filter((name) => wanted.length === 0 || wanted.some((part) => name.includes(part)))
  .map((name) => `dist/test/${name}`)
  .sort();
const { status } = spawnSync(
  'dist/workloads/reaper',
  [
    process.execPath,

    '--test',
    `--test-timeout=${TIMEOUT_MS}`,
    `--test-concurrency=${CONCURRENCY}`,
    '--test-reporter=spec',
    ...files,
  ],
  { stdio: 'inherit' },
);
process.exitCode = status ?? 1;
