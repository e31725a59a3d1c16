// Runs tests on stock kernels of Debian in small virtual machines, by software emulation: to see that what
// older kernels do not have is done without. `npm run test:kernels [-- VERSION...]`.
import { execFileSync, spawnSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, dirname, join, resolve } from 'node:path';
import { build, buildWorkloads } from './build.js';

/** Meta-packages that name the newest kernel of a series; 6.1 is the oldest that Stasis promises. */
const KERNELS = { 6.1: 'linux-image-cloud-amd64', 6.12: 'linux-image-6.12-cloud-amd64' };
const TESTS = ['containment/leaks.test.js', 'roundtrip/workloads.test.js'];
const PACKAGES = { 'qemu-system-x86_64': 'qemu-system-x86', busybox: 'busybox-static', cpio: 'cpio' };
/** Emulation is ten to twenty times slower than the machine. */
const TIMEOUT_MS = 900_000;
const MEMORY_MIB = 3072;
/** Where the project is in the virtual machine. */
const HOME = '/stasis';

/** What the tests need and this machine's packages do not have: they are skipped then. */
class Unavailable extends Error {}

const wanted = process.argv.slice(2).length > 0 ? process.argv.slice(2) : Object.keys(KERNELS);
build();
buildWorkloads();
let failed = 0;
for (const version of wanted) {
  const directory = mkdtempSync(join(tmpdir(), 'stasis-kernel-'));
  try {
    installPackages();
    if (!runOn(version, directory)) failed++;
  } catch (error) {
    if (!(error instanceof Unavailable)) throw error;
    process.stdout.write(`kernel ${version}: skipped: ${error.message}\n`);
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}
process.exitCode = failed === 0 ? 0 : 1;

function runOn(version, directory) {
  const meta = KERNELS[version];
  if (meta === undefined)
    throw new Error(`no kernel ${version}; known are ${Object.keys(KERNELS).join(', ')}`);
  const image = fetchKernel(meta, directory);
  const initramfs = makeInitramfs(directory);
  const begin = performance.now();
  const { stdout } = spawnSync(
    'qemu-system-x86_64',
    [
      ...['-accel', 'tcg,thread=multi', '-cpu', 'max', '-smp', '2', '-m', String(MEMORY_MIB)],
      ...['-kernel', image, '-initrd', initramfs, '-nographic', '-no-reboot', '-nic', 'none'],
      ...['-append', 'console=ttyS0 quiet panic=-1'],
    ],
    { timeout: TIMEOUT_MS, stdio: ['ignore', 'pipe', 'inherit'], maxBuffer: 1 << 28 },
  );
  // biome-ignore lint/suspicious/noControlCharactersInRegex: the runner's colours end with escapes
  const output = stdout.toString('utf8').replace(/\x1b\[[0-9;]*m|\r/g, '');
  const status = /^stasis-status: (\d+)$/m.exec(output)?.[1];
  const passed = status === '0';
  const seconds = ((performance.now() - begin) / 1000).toFixed(0);
  const lines = output.split('\n').filter((line) => /^ℹ (tests|pass|fail|skipped)|✖|^Linux /.test(line));
  process.stdout.write(`${passed ? /Linux \d\S+/.exec(output)?.[0] : output}\n${lines.join('\n')}\n`);
  process.stdout.write(`kernel ${version}: ${passed ? 'passed' : 'FAILED'} in ${seconds} s\n`);
  return passed;
}

/** The kernel of the newest package of its series; returns where it is. */
function fetchKernel(meta, directory) {
  const name = packaged('apt-cache', ['depends', '--important', meta])
    .split('\n')
    .map((line) => /Depends: (linux-image-\S+)/.exec(line)?.[1])
    .find((found) => found !== undefined);
  if (name === undefined) throw new Unavailable(`${meta} is no package of this machine's sources`);
  // As root, since apt's own user may not write there.
  packaged('apt-get', ['download', '-qq', '-o', 'APT::Sandbox::User=root', name], { cwd: directory });
  const archive = readdirSync(directory).find((file) => file.endsWith('.deb'));
  execFileSync('dpkg-deb', ['-x', archive, 'kernel'], { cwd: directory });
  const boot = join(directory, 'kernel', 'boot');
  return join(
    boot,
    readdirSync(boot).find((file) => file.startsWith('vmlinuz')),
  );
}

/** busybox, Node.js with its libraries, and what is built. */
function makeInitramfs(directory) {
  const root = join(directory, 'root');
  for (const name of ['bin', 'proc', 'sys', 'dev', 'tmp', 'etc', 'root']) {
    mkdirSync(join(root, name), { recursive: true });
  }
  copy(which('busybox'), join(root, 'bin', 'busybox'));
  copy(process.execPath, join(root, 'bin', 'node'));
  const binaries = readdirSync('dist/workloads').map((name) => join('dist/workloads', name));
  // Those of busybox do less: its cp drops the nanoseconds of times.
  const tools = ['cp', 'unshare', 'nsenter'].map(which);
  for (const tool of tools) copy(tool, join(root, 'sbin', basename(tool)));
  for (const library of libraries([process.execPath, ...tools, ...binaries]))
    copy(library, join(root, library));
  for (const name of ['dist', 'package.json', 'node_modules/koffi', 'node_modules/@koromix']) {
    cpSync(name, join(root, HOME, name), { recursive: true, dereference: true });
  }
  for (const name of ['@bufbuild/protobuf', 'commander']) {
    cpSync(join('node_modules', name), join(root, HOME, 'node_modules', name), { recursive: true });
  }
  const tests = TESTS.map((name) => join('dist/test', name)).filter((path) => existsSync(path));
  writeFileSync(
    join(root, 'init'),
    `#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts
mount -t devpts devpts /dev/pts
mount -t tmpfs tmp /tmp
export PATH=/sbin:/bin HOME=/root NO_COLOR=1 NODE_DISABLE_COLORS=1
uname -sr
cd ${HOME}
dist/workloads/reaper node --test --test-timeout=800000 --test-concurrency=1 --test-reporter=spec ${tests.join(' ')}
echo "stasis-status: $?"
poweroff -f
`,
    { mode: 0o755 },
  );
  const initramfs = join(directory, 'initramfs');
  execFileSync('sh', ['-c', `find . | cpio -o -H newc --quiet > ${initramfs}`], { cwd: root });
  return initramfs;
}

function libraries(binaries) {
  const found = new Set();
  for (const binary of binaries) {
    const { stdout } = spawnSync('ldd', [binary], { encoding: 'utf8' });
    for (const [path] of stdout.matchAll(/\/\S+\.so\S*/g)) found.add(path);
  }
  return found;
}

function copy(from, to) {
  mkdirSync(dirname(to), { recursive: true });
  cpSync(resolve(from), to, { dereference: true });
}

function which(program) {
  return execFileSync('sh', ['-c', `command -v ${program}`], { encoding: 'utf8' }).trim();
}

function installPackages() {
  const missing = Object.entries(PACKAGES)
    .filter(([program]) => spawnSync('sh', ['-c', `command -v ${program}`]).status !== 0)
    .map(([, name]) => name);
  if (missing.length === 0) return;
  packaged('apt-get', ['update', '-qq']);
  packaged('apt-get', ['install', '-y', '-qq', '--no-install-recommends', ...missing]);
}

/** Runs a command of Debian's package manager. */
function packaged(command, args, options = {}) {
  const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' };
  const { status, stdout, error } = spawnSync(command, args, {
    ...options,
    env,
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  if (status === 0) return stdout;
  throw new Unavailable(`${command} ${args[0]} failed${error === undefined ? '' : `: ${error.message}`}`);
}
