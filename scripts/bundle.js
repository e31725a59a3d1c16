// Bundles the command line into one file: importing protobuf from its many modules costs 85 ms a start.
import { chmodSync } from 'node:fs';
import { build } from 'esbuild';

const outfile = 'dist/stasis.js';
await build({
  entryPoints: ['dist/src/cli/main.js'],
  outfile,
  bundle: true,
  platform: 'node',
  format: 'esm',
  target: 'node20',
  // The native module is loaded from where npm put it.
  external: ['koffi'],
  banner: {
    js: "import { createRequire } from 'node:module'; const require = createRequire(import.meta.url);",
  },
  logLevel: 'warning',
});
chmodSync(outfile, 0o755);
