import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync, readlinkSync } from 'node:fs';
import { test } from 'node:test';
import { checkpoint } from '../../src/checkpoint.js';
import { UnsupportedError } from '../../src/errors.js';
import { Job, lastingLeftovers, STASIS, skipUnlessRoot, threadsOf, workload } from './job.js';

/** What the workload `refused` makes, and how the refusal has to name it. */
const REFUSED: Readonly<Record<string, RegExp>> = {
  socket: /fd \d+: a socket \(socket:\[\d+\]\)/,
  epoll:
    /fd \d+: an epoll set that watches what was added to it as descriptor \d+, which the tree has closed/,
  timerfd: /fd \d+: \[timerfd\]/,
  signalfd: /fd \d+: \[signalfd\]/,
  inotify: /fd \d+: inotify/,
  memfd: /fd \d+: the memory file \/memfd:scratch/,
  unlinked: /fd \d+: the file .*gone \(deleted\) has been removed/,
  fifo: /fd \d+: the named pipe .*fifo/,
  procfile: /fd \d+: \/proc\/uptime, which the kernel makes up/,
  'packet pipe': /fd \d+: pipe:\[\d+\] is a pipe in packet mode/,
  'thread timer': /POSIX timer 0: it counts the processor time of a thread/,
  seccomp: /seccomp filter 0: it asks a supervisor in user space/,
  namespace: /a namespace of its own: uts/,
  sysv: /mapping [0-9a-f-]+: a System V shared memory segment/,
  'device memory': /mapping [0-9a-f-]+: memory of the device \/dev\/zero/,
  'shared across':
    /its working directory \(CLONE_FS\) is shared with process \d+, and not by way of its parent/,
  'syscall dispatch': /it handles system calls itself \(PR_SET_SYSCALL_USER_DISPATCH\)/,
  'hardware breakpoint': /it has hardware breakpoints, which a debugger has left/,
  'thread apart': /thread \d+: a file table of its own/,
  'lost directory': /the working directory has been removed/,
  'left group': /its process group \d+ was left by its leader, which is in another one/,
  lease: /a LEASE on .*leased/,
};

for (const [thing, wanted] of Object.entries(REFUSED)) {
  test(`${thing} is refused by name, and the target runs on`, { skip: skipUnlessRoot }, async () => {
    await using job = await new Job().startWorkload('refused', [thing]);
    const threads = threadsOf(job.pid);
    await assert.rejects(checkpoint(job.pid, { output: job.image, kill: true }), (error) => {
      assert.ok(error instanceof UnsupportedError, String(error));
      assert.match(error.reason ?? '', wanted);
      for (const { advice, pid } of error.obstacles) assert.ok(advice !== '' && pid !== undefined);
      return true;
    });
    assert.ok(!existsSync(job.image));
    assert.deepEqual(threadsOf(job.pid), threads);
    assert.deepEqual(await lastingLeftovers(job.pid), []);
  });
}

test('all obstacles come in one report', { skip: skipUnlessRoot }, async () => {
  const things = [
    'socket',
    'epoll',
    'unlinked',
    'thread timer',
    'seccomp',
    'left group',
    'sysv',
    'shared across',
  ];
  await using job = await new Job().startWorkload('refused', things);
  const { status, stderr } = spawnSync(STASIS, ['checkpoint', '-o', job.image, String(job.pid)], {
    encoding: 'utf8',
  });
  assert.equal(status, 1);
  for (const thing of things) assert.match(stderr, REFUSED[thing] ?? /^$/);
  assert.match(stderr, /^stasis: checkpoint refused: \d+ obstacles$/m);
  assert.match(stderr, /-> the target runs on unchanged/);
  assert.deepEqual(await lastingLeftovers(job.pid), []);
});

test('a task that somebody else traces is named with its tracer', { skip: skipUnlessRoot }, async () => {
  await using job = await new Job().startWorkload('refused', ['traced']);
  await assert.rejects(checkpoint(job.pid, { output: job.image }), {
    code: 'ERR_TARGET',
    reason: new RegExp(`process ${job.pid} \\(.*refused traced\\) traces it`),
  });
});

test('targets that can not be are refused in plain words', { skip: skipUnlessRoot }, async (context) => {
  const run = (...args: string[]) =>
    spawnSync(STASIS, ['checkpoint', '-o', '/dev/null', ...args], { encoding: 'utf8' });
  await context.test('no such process', () => {
    const { status, stderr } = run('4194000');
    assert.equal(status, 1);
    assert.match(stderr, /there is no process 4194000/);
  });
  await context.test('a kernel task', () => {
    assert.match(run('2').stderr, /process 2 is a kernel task/);
  });
  await context.test('oneself, and an ancestor through a pipe', async () => {
    await assert.rejects(checkpoint(process.pid, { output: '/dev/null' }), { reason: 'it is stasis itself' });
    const script = `${STASIS} checkpoint -o - $$ 2>err | cat > /dev/null; cat err >&2`;
    await using job = new Job();
    const { stderr } = spawnSync('sh', ['-c', script], { encoding: 'utf8', cwd: job.directory });
    assert.match(stderr, /can't be saved into a pipe from inside/);
  });
  await context.test('no number', () => {
    const { status, stderr } = run('abc');
    assert.equal(status, 2);
    assert.match(stderr, /"abc" is no pid/);
  });
  await context.test('without privileges', async () => {
    await using job = await new Job().startWorkload('eventfds');
    const { status, stderr } = spawnSync(
      'setpriv',
      [
        '--reuid=65534',
        '--clear-groups',
        process.execPath,
        STASIS,
        'checkpoint',
        '-o',
        '/dev/null',
        String(job.pid),
      ],
      { encoding: 'utf8' },
    );
    assert.equal(status, 1);
    assert.match(
      stderr,
      /a checkpoint is not permitted\n {2}this process lacks CAP_SYS_PTRACE and CAP_SYS_ADMIN/,
    );
  });
  await context.test('a directory, or a file that is there', async () => {
    await using job = await new Job().startWorkload('eventfds');
    await assert.rejects(checkpoint(job.pid, { output: job.directory }), { message: /is a directory/ });
    await assert.rejects(checkpoint(job.pid, { output: job.path('ready') }), { message: /exists/ });
    await assert.rejects(checkpoint(job.pid, { output: job.path('no/such/place') }), {
      message: /can't be written/,
    });
  });
});

test('a 32-bit task is refused by name', { skip: skipUnlessRoot || skipUnless32Bit() }, async () => {
  await using job = new Job();
  job.start(workload('bits32'));
  await job.until(() => readlinkSync(`/proc/${job.pid}/exe`) === workload('bits32'), 'start');
  await assert.rejects(checkpoint(job.pid, { output: job.image }), (error) => {
    assert.ok(error instanceof UnsupportedError);
    return /a 32-bit task/.test(error.reason ?? '');
  });
});

function skipUnless32Bit(): string | false {
  return existsSync(workload('bits32')) ? false : 'this compiler makes no 32-bit programs';
}
