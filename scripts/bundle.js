// Bundles the command line into one file: importing protobuf from its many modules costs 85 ms a start.
import { spawn, spawnSync } from 'node:child_process';
import { chmodSync, copyFileSync, renameSync, rmSync } from 'node:fs';
import { build } from 'esbuild';

const LAUNCHER = 'dist/stasis.cjs';
const BUNDLE = 'dist/stasis-bundle.cjs';
const CACHE = 'dist/stasis-bundle.cache';

await build({
  entryPoints: ['dist/src/cli/main.js'],
  outfile: BUNDLE,
  bundle: true,
  platform: 'node',
  format: 'cjs',
  target: 'node20',
  // The native module is loaded from where npm put it.
  external: ['koffi'],
  banner: { js: '(function (exports, require, module, __filename, __dirname) {' },
  footer: { js: '})' },
  logLevel: 'warning',
});
copyFileSync('scripts/launcher.cjs', LAUNCHER);
chmodSync(LAUNCHER, 0o755);
rmSync(CACHE, { force: true });
writeCodeCache();

/**
 * Runs a real checkpoint of a small process, so that the cache has what the commands use. Where that is
 * not permitted the cache has what a refusal uses, and later code is compiled when it is needed.
 */
function writeCodeCache() {
  const target = spawn('sleep', ['60'], { stdio: 'ignore' });
  const run = (...args) =>
    spawnSync(process.execPath, [LAUNCHER, ...args], {
      stdio: 'ignore',
      env: { ...process.env, STASIS_WRITE_CODE_CACHE: `${CACHE}.new` },
    });
  run('checkpoint', '-o', '/dev/null', String(target.pid));
  target.kill('SIGKILL');
  renameSync(`${CACHE}.new`, CACHE);
}
