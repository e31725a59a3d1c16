// The gate: format, lint, types, layers, generated code, unit tests. In seconds.
import { execFileSync, spawnSync } from 'node:child_process';
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { build } from './build.js';
import { findViolations } from './layers.js';

const run = (command, ...args) => execFileSync(command, args, { stdio: 'inherit' });

run('node_modules/.bin/biome', 'check', '--error-on-warnings', '.');
build();
const violations = findViolations();
if (violations.length > 0) throw new Error(`imports against the layers:\n  ${violations.join('\n  ')}`);
compareGenerated();
const files = readdirSync('dist/test', { recursive: true })
  .map(String)
  .filter((name) => name.endsWith('.test.js') && !/^(roundtrip|containment)/.test(name))
  .map((name) => `dist/test/${name}`);
const { status } = spawnSync(process.execPath, ['--test', '--test-reporter=spec', ...files], {
  stdio: 'inherit',
});
process.exitCode = status ?? 1;

/** The code below src/image/generated is what the schemas say. */
function compareGenerated() {
  const directory = mkdtempSync(join(tmpdir(), 'stasis-generated-'));
  try {
    for (const name of ['proto', 'buf.yaml', 'buf.gen.yaml'])
      cpSync(name, join(directory, name), { recursive: true });
    execFileSync(join(process.cwd(), 'node_modules/.bin/buf'), ['generate'], {
      cwd: directory,
      env: { ...process.env, PATH: `${process.cwd()}/node_modules/.bin:${process.env.PATH}` },
    });
    const made = join(directory, 'src/image/generated');
    const files = new Set([...readdirSync(made), ...readdirSync('src/image/generated')]);
    for (const file of files) {
      const wanted = readFileSync(join(made, file), 'utf8');
      if (readFileSync(join('src/image/generated', file), 'utf8') !== wanted) {
        throw new Error(`src/image/generated/${file} is not what proto/ says: npm run generate`);
      }
    }
  } finally {
    rmSync(directory, { recursive: true });
  }
}
