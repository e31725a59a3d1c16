import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { test } from 'node:test';
import { checkpoint } from '../../src/checkpoint.js';
import type { Leak } from '../../src/errors.js';
import { findLeaks, type LeakReport } from '../../src/leaks.js';
import { readProc } from '../../src/procfs/read.js';
import { listTree } from '../../src/procfs/tree.js';
import { findProgram, Job, STASIS, skipWithoutBpf, sleep, workload } from '../roundtrip/job.js';

/** What is counted of a leak: in the kernel, inside, visibly outside, and hidden. */
interface Expected {
  readonly kind: string;
  readonly name?: RegExp;
  readonly kernel?: number;
  readonly inside: number;
  readonly outside: number;
  readonly hidden?: number;
  readonly hiddenIn?: RegExp;
}

interface Case {
  readonly mode: string;
  readonly leaks: readonly Expected[];
  /** Leaks of its contained twin; none, but for what can't be avoided. */
  readonly twin?: readonly Expected[];
  /** What `/proc` and kcmp see, where that is not the same. */
  readonly seenByProc?: readonly string[];
}

const cases: readonly Case[] = [
  { mode: 'nothing', leaks: [] },
  { mode: 'file', leaks: [{ kind: 'file', name: /\/data$/, kernel: 2, inside: 1, outside: 1 }] },
  { mode: 'directory', leaks: [{ kind: 'file', kernel: 2, inside: 1, outside: 1 }] },
  { mode: 'mapping', leaks: [] },
  { mode: 'device', leaks: [] },
  { mode: 'path', leaks: [] },
  {
    mode: 'writableMapping',
    // Whether a mapping is of the same open file can't be told there.
    seenByProc: [],
    leaks: [{ kind: 'file', name: /\/data$/, kernel: 2, inside: 1, outside: 1 }],
  },
  {
    mode: 'anonymous',
    leaks: [{ kind: 'file', name: /^\/dev\/zero \(deleted\)$/, kernel: 2, inside: 1, outside: 1 }],
  },
  {
    mode: 'memfd',
    leaks: [{ kind: 'sharedMemory', name: /^\/memfd:shared/, kernel: 2, inside: 1, outside: 1 }],
  },
  { mode: 'table', leaks: [{ kind: 'filesStruct', kernel: 2, inside: 1, outside: 1 }] },
  { mode: 'fs', leaks: [{ kind: 'fs', kernel: 2, inside: 1, outside: 1 }] },
  { mode: 'mm', leaks: [{ kind: 'mm', kernel: 2, inside: 1, outside: 1 }] },
  {
    mode: 'sighand',
    leaks: [
      { kind: 'mm', kernel: 2, inside: 1, outside: 1 },
      { kind: 'sighand', kernel: 2, inside: 1, outside: 1 },
    ],
  },
  { mode: 'pipe', leaks: [{ kind: 'pipe', name: /^pipe:\[\d+\]$/, kernel: 2, inside: 1, outside: 1 }] },
  { mode: 'fifo', leaks: [{ kind: 'pipe', name: /\/fifo$/, kernel: 2, inside: 1, outside: 1 }] },
  {
    mode: 'unix',
    leaks: [{ kind: 'unixSocket', name: /^socket:\[\d+\]$/, kernel: 1, inside: 0, outside: 1 }],
  },
  { mode: 'listener', leaks: [{ kind: 'unixSocket', kernel: 0, inside: 0, outside: 0 }] },
  { mode: 'datagram', leaks: [{ kind: 'unixSocket', kernel: 1, inside: 0, outside: 1 }] },
  { mode: 'flight', leaks: [] },
  {
    mode: 'sent',
    leaks: [
      { kind: 'file', name: /\/data$/, kernel: 2, inside: 1, outside: 1 },
      { kind: 'unixSocket', kernel: 1, inside: 0, outside: 1 },
    ],
    // Of what is in flight only the count tells.
    seenByProc: ['unixSocket'],
  },
  { mode: 'segment', leaks: [{ kind: 'sharedSegment', kernel: 2, inside: 1, outside: 1 }] },
  { mode: 'semaphores', leaks: [{ kind: 'semaphores', inside: 1, outside: 1 }] },
  { mode: 'queue', leaks: [{ kind: 'messageQueue', inside: 1, outside: 1 }] },
  {
    mode: 'terminal',
    leaks: [{ kind: 'terminal', name: /^\/dev\/pts\/\d+$/, kernel: 2, inside: 1, outside: 1 }],
  },
  {
    mode: 'session',
    leaks: [
      { kind: 'session', kernel: 2, inside: 1, outside: 1 },
      { kind: 'processGroup', kernel: 2, inside: 1, outside: 1 },
    ],
  },
  { mode: 'group', leaks: [{ kind: 'processGroup', kernel: 2, inside: 1, outside: 1 }] },
  { mode: 'tracer', leaks: [{ kind: 'tracer', inside: 1, outside: 1 }] },
  { mode: 'lock', leaks: [{ kind: 'fileLock', name: /\/data$/, inside: 1, outside: 1 }] },
  {
    mode: 'futex',
    leaks: [
      { kind: 'file', kernel: 3, inside: 1, outside: 2 },
      { kind: 'futex', inside: 0, outside: 0 },
    ],
  },
  ...['uts', 'ipc', 'net', 'mnt', 'cgroup', 'user'].map((name) => ({
    mode: name,
    leaks: [{ kind: `${name}Namespace`, name: new RegExp(`^${name}:\\[\\d+\\]$`), inside: 1, outside: 1 }],
  })),
  { mode: 'time', leaks: [{ kind: 'timeNamespace', inside: 1, outside: 1 }] },
  {
    mode: 'uring',
    seenByProc: [],
    leaks: [
      {
        kind: 'file',
        name: /\/data$/,
        kernel: 2,
        inside: 1,
        outside: 0,
        hidden: 1,
        hiddenIn: /io_uring of pid/,
      },
    ],
  },
  { mode: 'keyring', leaks: [] },
];

for (const { mode, leaks, twin = [], seenByProc } of cases) {
  test(`${mode}: what leaks is counted exactly`, { skip: skipWithoutBpf }, async (context) => {
    await using job = await new Job().startWorkload('sharing', [mode]);
    if (mode === 'uring' && Number(job.read('uring')) < 0) {
      context.skip('this machine does not permit io_uring');
      return;
    }
    const inside = Number(job.read('inside'));
    assertLeaks(await findLeaks(inside), leaks);
    const seen = await findLeaks(inside, { method: 'proc' });
    const unknown = seen.notVerified.some(
      ({ kind, reason }) => kind === 'unixSocket' && /unix_diag/.test(reason),
    );
    const visible = (seenByProc ?? leaks.map(({ kind }) => kind)).filter(
      (kind) => !unknown || kind !== 'unixSocket',
    );
    assert.deepEqual(kindsOf(seen), visible);
    assert.match(seen.notVerified.map(({ reason }) => reason).join(), /BPF was switched off/);
    job.stop();
    assert.equal(await job.result(), 'PASS');
  });
  test(`${mode}: its contained twin does not leak`, { skip: skipWithoutBpf }, async () => {
    await using job = await new Job().startWorkload('sharing', [mode, 'own']);
    const inside = Number(job.read('inside'));
    assertLeaks(await findLeaks(inside), twin);
    assert.deepEqual(
      kindsOf(await findLeaks(inside, { method: 'proc' })),
      twin.map(({ kind }) => kind),
    );
    job.stop();
    assert.equal(await job.result(), 'PASS');
  });
}

test('inside a container, pids are those that are seen there', { skip: skipWithoutBpf }, async () => {
  await using job = new Job();
  const script = `exec 3>data; sleep 100 & ${process.execPath} ${STASIS} leaks --json $! > leaks.json; kill $!; test -s leaks.json`;
  job.start(workload('contain'), ['/bin/sh', '-c', script]);
  assert.equal(await job.end, 0, job.read('err'));
  const { method, leaks } = JSON.parse(job.read('leaks.json')) as LeakReport;
  assert.equal(method, 'bpf');
  const leak = leaks.find(({ key }) => key === `file:${job.path('data')}`);
  assert.ok(leak);
  // One is that of stasis.
  assert.deepEqual([leak.kernelCount, leak.users, leak.own, leak.hidden], [3, 1, 1, 0]);
  assert.deepEqual(leak.inside, [{ pid: 2, comm: 'sleep', fd: 3 }]);
  assert.deepEqual(leak.outside, [{ pid: 1, comm: 'sh', fd: 3 }]);
});

test('what calls under way hold is no leak', { skip: skipWithoutBpf }, async () => {
  await using job = await new Job().startWorkload('polling');
  for (let time = 0; time < 10; time++) {
    const { leaks } = await findLeaks(job.pid);
    assert.deepEqual(
      leaks.filter(({ harmless }) => !harmless).map(({ key }) => key),
      [],
    );
  }
  // Interrupted once, poll(2) goes on as another call.
  for (let time = 0; time < 2; time++) {
    const { leaks } = await checkpoint(job.pid, {
      output: job.image,
      leaks: time === 0 ? 'refuse' : 'report',
      force: true,
    });
    assert.deepEqual(
      leaks.filter(({ harmless }) => !harmless),
      [],
    );
    await sleep(20);
  }
  job.stop();
  assert.equal(await job.result(), 'PASS');
});

test('a process that was brought into a container is named, with its parent', {
  skip: skipWithoutBpf || (findProgram('nsenter') === undefined ? 'nsenter is not on this machine' : false),
}, async () => {
  await using job = new Job().start('unshare', ['--fork', '--pid', '--kill-child', 'sleep', '1000']);
  const init = () => listTree(job.pid).at(1)?.pid;
  await job.until(() => init() !== undefined && readProc(`/proc/${init()}/comm`) === 'sleep\n', 'init');
  const pid = init() ?? 0;
  const before = await findLeaks(pid, { allow: ['stdio'] });
  assert.ok(before.container);
  assert.ok(before.contained);
  await using visitor = new Job().start('nsenter', ['--target', String(pid), '--pid', 'sleep', '1001']);
  const guest = () => listTree(visitor.pid).at(1)?.pid;
  await visitor.until(
    () => guest() !== undefined && readProc(`/proc/${guest()}/comm`) === 'sleep\n',
    'guest',
  );
  const { leaks } = await findLeaks(pid, { allow: ['stdio'] });
  const found = leaks.filter(({ harmless, allowed }) => !harmless && !allowed);
  assert.deepEqual(
    found.map(({ kind, outside }) => [kind, outside.map((holder) => holder.pid)]),
    [
      ['parent', [guest()]],
      ['pidNamespace', [guest()]],
    ],
  );
  process.kill(pid, 'SIGKILL');
});

test('watching ends when nothing leaks any more', { skip: skipWithoutBpf }, async () => {
  await using job = await new Job().startWorkload('sharing', ['file']);
  const watching = spawn(process.execPath, [STASIS, 'leaks', '--watch', job.read('inside')]);
  let output = '';
  watching.stdout.on('data', (data) => {
    output += data;
  });
  const ended = new Promise((resolve) => watching.on('exit', resolve));
  await job.until(() => output.includes('NOT CONTAINED: 1 leak'), 'report');
  process.kill(job.pid, 'SIGKILL');
  assert.equal(await ended, 0);
  assert.match(output, /^contained: nothing of tree \d+ leaks/m);
});

/** Every number of every object: those that leak as expected, and all others without anything hidden. */
function assertLeaks(report: LeakReport, expected: readonly Expected[]): void {
  const found = report.leaks.filter(({ harmless }) => !harmless);
  assert.equal(report.contained, expected.length === 0, describe(found));
  assert.deepEqual(
    found.map(({ kind }) => kind),
    expected.map(({ kind }) => kind),
    describe(found),
  );
  for (const [index, { name, kernel, inside, outside, hidden = 0, hiddenIn }] of expected.entries()) {
    const leak = found[index] as Leak;
    if (name !== undefined) assert.match(leak.name, name);
    assert.equal(leak.users, inside, `inside: ${describe([leak])}`);
    assert.equal(leak.kernelCount, kernel, describe([leak]));
    assert.equal(leak.hidden, hidden, describe([leak]));
    if (kernel !== undefined) assert.equal(kernel - inside - hidden - leak.own, outside, describe([leak]));
    if (hiddenIn !== undefined) assert.match(leak.hiddenIn.join(), hiddenIn);
    else assert.ok(leak.outside.length > 0, `somebody outside is named: ${describe([leak])}`);
  }
  // The kernel's own tasks have the host's namespaces; nothing else has references that nobody shows.
  const unseen = report.leaks.filter(
    ({ hidden, harmless, kind }) => harmless && hidden > 0 && kind !== 'nsproxy',
  );
  assert.deepEqual(unseen, []);
}

function kindsOf({ leaks }: LeakReport): string[] {
  return leaks.filter(({ harmless }) => !harmless).map(({ kind }) => kind);
}

function describe(leaks: readonly Leak[]): string {
  return JSON.stringify(leaks, null, 1);
}
