// What a fresh machine with Node.js needs before the main job (setup.js main-job) or the tests (setup.js tests):
// the packages of package-lock.json, and the programs named below, from Debian's packages where that works.
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { delimiter, join } from 'node:path';

/** Program or file, and the Debian package that has it. */
const PROGRAMS = {
  'main-job': { xz: 'xz-utils' },
  tests: {
    xz: 'xz-utils',
    cc: 'gcc',
    '/usr/include/stdio.h': 'libc6-dev',
    make: 'make',
    objdump: 'binutils',
    bash: 'bash',
    gzip: 'gzip',
    perl: 'perl',
    python3: 'python3',
    setpriv: 'util-linux',
    sqlite3: 'sqlite3',
    zstd: 'zstd',
    go: 'golang-go',
    '/usr/bin/chromium': 'chromium',
  },
};

const wanted = PROGRAMS[process.argv[2] ?? 'tests'] ?? {};
const missing = Object.entries(wanted)
  .filter(([program]) => !isThere(program))
  .map(([, name]) => name);
if (missing.length > 0) install([...new Set(missing)]);
if (!existsSync('node_modules/.package-lock.json')) run('npm', ['ci', '--no-audit', '--no-fund']);

function isThere(program) {
  if (program.startsWith('/')) return existsSync(program);
  return (process.env.PATH ?? '').split(delimiter).some((directory) => existsSync(join(directory, program)));
}

function install(names) {
  const canInstall = process.getuid?.() === 0 && isThere('apt-get');
  if (!canInstall) {
    process.stderr.write(`missing: ${names.join(', ')}; install them, or run this as root on Debian\n`);
    return;
  }
  run('apt-get', ['update', '-qq']);
  run('apt-get', ['install', '-y', '-qq', '--no-install-recommends', ...names]);
}

function run(command, args) {
  const { status } = spawnSync(command, args, {
    stdio: 'inherit',
    env: { ...process.env, DEBIAN_FRONTEND: 'noninteractive' },
  });
  if (status !== 0) throw new Error(`${command} ${args.join(' ')} ended with status ${status}`);
}
