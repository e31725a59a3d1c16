// Bundles the command line into one file: importing protobuf from its many modules costs 85 ms a start.
import { spawn, spawnSync } from 'node:child_process';
import { chmodSync, copyFileSync, existsSync, renameSync, rmSync } from 'node:fs';
import { build } from 'esbuild';

const LAUNCHER = 'dist/stasis.cjs';
const BUNDLE = 'dist/stasis-bundle.cjs';
const WORKER = 'dist/pageChecksumsWorker.js';
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
  // Where modules look for what lies beside them.
  define: { 'import.meta.url': 'bundleUrl' },
  banner: {
    js: `(function (exports, require, module, __filename, __dirname) {
const bundleUrl = require('node:url').pathToFileURL(__filename);`,
  },
  footer: { js: '})' },
  logLevel: 'warning',
});
await build({
  entryPoints: ['dist/src/image/pageChecksumsWorker.js'],
  outfile: WORKER,
  bundle: true,
  platform: 'node',
  format: 'esm',
  target: 'node20',
  logLevel: 'warning',
});
copyFileSync('scripts/launcher.cjs', LAUNCHER);
chmodSync(LAUNCHER, 0o755);
rmSync(CACHE, { force: true });
writeCodeCache();

/**
 * Runs the commands on a small process, each with the cache of those before, so that it has what all of them
 * use. Where that is not permitted the cache has what a refusal uses, and later code is compiled when it is
 * needed.
 */
function writeCodeCache() {
  const target = spawn('sleep', ['60'], { stdio: 'ignore' });
  const pid = String(target.pid);
  for (const args of [
    ['leaks', pid],
    ['checkpoint', '-o', '/dev/null', pid],
  ]) {
    spawnSync(process.execPath, [LAUNCHER, ...args], {
      stdio: 'ignore',
      env: { ...process.env, STASIS_WRITE_CODE_CACHE: `${CACHE}.new` },
    });
    if (existsSync(`${CACHE}.new`)) renameSync(`${CACHE}.new`, CACHE);
  }
  target.kill('SIGKILL');
}
