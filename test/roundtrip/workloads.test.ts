import assert from 'node:assert/strict';
import { readlinkSync } from 'node:fs';
import { type TestContext, test } from 'node:test';
import { type CheckpointOptions, checkpoint } from '../../src/checkpoint.js';
import { UnsupportedError } from '../../src/errors.js';
import { FrozenTree } from '../../src/freezer/freeze.js';
import { restart } from '../../src/restart.js';
import { Job, skipUnlessRoot, skipWithoutBpf, sleep } from './job.js';

/** Every workload verifies itself; each runs in all modes. */
const WORKLOADS = [
  'memory',
  'threads',
  'tree',
  'files',
  'pipes',
  'signals',
  'handlers',
  'identity',
  'locks',
  'eventfds',
  'epolls',
  'endless',
  'waiting',
  'zombies',
  'orphans',
  'stopped',
  'shared',
  'nested',
  'timers',
  'ticking',
  'seccomp',
];

/** What is tried as a container as well. */
const IN_CONTAINER = [
  'threads',
  'tree',
  'signals',
  'handlers',
  'waiting',
  'zombies',
  'orphans',
  'stopped',
  'shared',
  'nested',
];

/** What is refused because the kernel does not tell enough. */
const TOO_OLD = /use Linux [\d.]+ or later/;

type Mode = (job: Job) => Promise<void>;

/** How a workload is disturbed between being set up and being told to end. */
const MODES: Readonly<Record<string, Mode>> = {
  async plain(job) {
    await finish(job);
  },

  async 'freeze and thaw'(job) {
    for (let i = 0; i < 5; i++) {
      using frozen = new FrozenTree(job.pid, { timeoutMs: 5000 }).freeze();
      assert.ok(frozen.processes.length > 0);
      await sleep(3);
    }
    assert.deepEqual(await job.leftovers(), []);
    await finish(job);
  },

  async 'checkpoint and continue'(job) {
    for (let i = 0; i < 3; i++) {
      await save(job, { force: true });
      assert.deepEqual(await job.leftovers(), []);
      await sleep(10);
    }
    await finish(job);
  },

  async 'kill and restart'(job) {
    // What was interrupted once goes on otherwise than what was not.
    await save(job, { force: true });
    await sleep(10);
    await save(job, { kill: true, force: true });
    assert.equal(await job.end, 'SIGKILL');
    await restartAndFinish(job);
  },

  async 'restart twice'(job) {
    await save(job, { kill: true });
    await job.end;
    job.takeSnapshot();
    await restartAndFinish(job);
    job.restoreSnapshot();
    await restartAndFinish(job);
  },
};

for (const name of WORKLOADS) {
  for (const mode of Object.keys(MODES)) {
    test(`${name}: ${mode}`, { skip: skipUnlessRoot }, (context) => run(context, name, mode, false));
  }
}

for (const name of IN_CONTAINER) {
  for (const mode of ['checkpoint and continue', 'restart twice']) {
    test(`${name} in a container: ${mode}`, { skip: skipUnlessRoot }, (context) =>
      run(context, name, mode, true),
    );
  }
}

for (const name of ['tree', 'orphans', 'threads']) {
  test(`${name}: restarted beside the original, and once more`, { skip: skipUnlessRoot }, async () => {
    await using job = await new Job().startWorkload(name);
    await save(job, {});
    const second = await restart({ input: job.image, pidNamespace: true });
    assert.notEqual(second.pid, job.pid);
    assert.notEqual(namespaceOf(second.pid), namespaceOf(job.pid));
    await sleep(30);
    // Its pids are those of another namespace: they need not be free here.
    await checkpoint(second.pid, { output: job.image, kill: true, force: true });
    assert.deepEqual(await second.wait(), { kind: 'killed', signal: 9 });
    const third = await restart({ input: job.image });
    const end = third.wait();
    await sleep(30);
    job.stop();
    assert.equal(await job.result(), 'PASS');
    assert.equal(await job.end, 0);
    assert.deepEqual(await end, { kind: 'exited', status: 0 });
  });
}

function namespaceOf(pid: number): string {
  return readlinkSync(`/proc/${pid}/ns/pid`);
}

async function run(context: TestContext, name: string, mode: string, container: boolean): Promise<void> {
  await using job = new Job();
  await job.startWorkload(name, skipWithoutBpf === false ? ['bpf'] : [], container);
  try {
    await MODES[mode]?.(job);
  } catch (error) {
    if (!(error instanceof UnsupportedError) || !TOO_OLD.test(error.reason ?? '')) throw error;
    context.skip(error.reason?.split('\n')[0]);
  }
}

/** A program that reads of itself in /proc has files open, for moments, that can't be saved. */
async function save(job: Job, options: Omit<CheckpointOptions, 'output'>): Promise<void> {
  for (let attempt = 0; ; attempt++) {
    try {
      await checkpoint(job.pid, { output: job.image, ...options });
      return;
    } catch (error) {
      const passes =
        error instanceof UnsupportedError && /when the program has closed it/.test(error.reason ?? '');
      if (!passes || attempt === 50) throw error;
    }
  }
}

async function finish(job: Job): Promise<void> {
  await sleep(20);
  job.stop();
  assert.equal(await job.result(), 'PASS');
  assert.equal(await job.end, 0);
}

async function restartAndFinish(job: Job): Promise<void> {
  const root = await restart({ input: job.image });
  job.restarted(root.pid);
  const end = root.wait();
  await sleep(30);
  assert.deepEqual(await job.leftovers(), []);
  job.stop();
  assert.equal(await job.result(), 'PASS');
  assert.deepEqual(await end, { kind: 'exited', status: 0 });
}
