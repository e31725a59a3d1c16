// Compiles everything; with --workloads the C programs of the tests too.
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';

/** Compiles TypeScript and bundles the command line. */
export function build() {
  execFileSync('node_modules/.bin/tsc', ['-p', 'tsconfig.json'], { stdio: 'inherit' });
  execFileSync(process.execPath, ['scripts/bundle.js'], { stdio: 'inherit' });
}

/** Compiles the workloads that are newer than their binaries. */
export function buildWorkloads() {
  const source = 'test/roundtrip/workloads';
  const target = 'dist/workloads';
  mkdirSync(target, { recursive: true });
  const header = statSync(join(source, 'workload.h')).mtimeMs;
  for (const file of readdirSync(source).filter((name) => name.endsWith('.c'))) {
    const from = join(source, file);
    const to = join(target, file.slice(0, -2));
    if (existsSync(to) && statSync(to).mtimeMs > Math.max(header, statSync(from).mtimeMs)) continue;
    execFileSync('cc', ['-O1', '-Wall', '-Wextra', '-Werror', '-pthread', '-o', to, from], {
      stdio: 'inherit',
    });
  }
}
