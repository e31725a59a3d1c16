// Builds, and runs the bench under a reaper, so that ended trees are gone at once.
import { spawnSync } from 'node:child_process';
import { build, buildWorkloads } from './build.js';

build();
buildWorkloads();
const command = [process.execPath, 'dist/bench/main.js', ...process.argv.slice(2)];
process.exitCode = spawnSync('dist/workloads/reaper', command, { stdio: 'inherit' }).status ?? 1;
