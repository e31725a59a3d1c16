// Compiles the package, and the C programs of its tests.
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';

const FLAGS = ['-O1', '-Wall', '-Wextra', '-Werror'];

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
    // A workload may ask for flags of its own, which not every compiler has: its test is then skipped.
    const own = /^\/\/ cc: (.*)$/m.exec(readFileSync(from, 'utf8'))?.[1]?.split(' ');
    const { status } = spawnSync('cc', [...FLAGS, ...(own ?? ['-pthread']), '-o', to, from], {
      stdio: own === undefined ? 'inherit' : 'ignore',
    });
    if (status !== 0 && own === undefined) throw new Error(`${from} does not compile`);
  }
}
