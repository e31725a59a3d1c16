import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs';
import { constants } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { checkpoint } from '../../src/checkpoint.js';
import { FreezeError, TargetError } from '../../src/errors.js';
import { FrozenTree } from '../../src/freezer/freeze.js';
import type { FreezeWay } from '../../src/freezer/groupFreezer.js';
import { cgroupsOf, directoryOf } from '../../src/objects/cgroups.js';
import { listTree } from '../../src/procfs/tree.js';
import { restart } from '../../src/restart.js';
import { sendSignal } from '../../src/sys/process.js';
import { Job, STASIS, skipUnlessRoot, sleep, threadsOf } from './job.js';

const STORM = 1000;
const KILLS = 12;

/** A control group of a test's own. */
class TestGroup implements AsyncDisposable {
  readonly directory: string;

  constructor(
    readonly way: Exclude<FreezeWay, 'ptrace'>,
    readonly path = `/stasis-test-${process.pid}`,
  ) {
    this.directory = join(rootOf(way) ?? '', path);
    mkdirSync(this.directory);
  }

  add(pid: number): void {
    writeFileSync(join(this.directory, 'cgroup.procs'), String(pid));
  }

  get isFrozen(): boolean {
    if (this.way === 'cgroup2') return this.read('cgroup.freeze') === '1';
    return this.read('freezer.state') !== 'THAWED';
  }

  set isFrozen(wanted: boolean) {
    if (this.way === 'cgroup2') writeFileSync(join(this.directory, 'cgroup.freeze'), wanted ? '1' : '0');
    else writeFileSync(join(this.directory, 'freezer.state'), wanted ? 'FROZEN' : 'THAWED');
  }

  read(name: string): string {
    return readFileSync(join(this.directory, name), 'latin1').trim();
  }

  /** Removes it. Tasks leave it some time after whoever waited for them was told of their end. */
  async [Symbol.asyncDispose](): Promise<void> {
    for (let attempt = 0; ; attempt++) {
      try {
        rmdirSync(this.directory);
        return;
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'EBUSY' || attempt === 500) throw error;
        await sleep(10);
      }
    }
  }
}

function rootOf(way: FreezeWay): string | undefined {
  const membership =
    way === 'cgroup2'
      ? { hierarchy: 0, controllers: [], path: '/' }
      : { hierarchy: 1, controllers: ['freezer'], path: '/' };
  return directoryOf(membership);
}

function skipWithout(way: FreezeWay): string | false {
  if (skipUnlessRoot) return skipUnlessRoot;
  const directory = rootOf(way);
  if (directory === undefined || !existsSync(directory)) return `${way} is not mounted here`;
  return false;
}

test('a fork storm is caught complete by ptrace alone', { skip: skipUnlessRoot }, async () => {
  await using job = await new Job().startWorkload('storm', [String(STORM)]);
  await catchStorm(job, 'ptrace');
});

for (const way of ['cgroup2', 'cgroup1'] as const) {
  const skip = skipWithout(way);

  test(`a fork storm is caught complete in a ${way} of its own`, { skip }, async () => {
    await using group = new TestGroup(way);
    await using job = await new Job().startWorkload('storm', [String(STORM)]);
    group.add(job.pid);
    await catchStorm(job, way);
    assert.equal(group.isFrozen, false);
  });

  test(`no wait without a timeout ends because of a freeze of a ${way}`, { skip }, async () => {
    await using group = new TestGroup(way);
    await using job = await new Job().startWorkload('endless', ['outliving']);
    group.add(job.pid);
    await freezeAgainAndAgain(job, way);
  });

  test(`a ${way} with others in it is not frozen`, { skip }, async () => {
    await using group = new TestGroup(way);
    await using job = await new Job().startWorkload('eventfds');
    await using other = await new Job().startWorkload('eventfds');
    group.add(job.pid);
    group.add(other.pid);
    const { freezer } = await checkpoint(job.pid, { output: job.image });
    assert.equal(freezer, 'ptrace');
  });

  test(`a ${way} that is frozen is named, with how to thaw it`, { skip }, async () => {
    await using group = new TestGroup(way);
    await using job = await new Job().startWorkload('eventfds');
    group.add(job.pid);
    group.isFrozen = true;
    await assert.rejects(checkpoint(job.pid, { output: job.image }), (error: Error & { advice?: string }) => {
      assert.match(error.message, /is in a frozen control group/);
      assert.ok(error.advice?.includes(group.directory), error.advice);
      return true;
    });
    group.isFrozen = false;
  });

  test(`a ${way} is thawed when whoever has frozen it is killed at once`, { skip }, async (context) => {
    await using group = new TestGroup(way);
    await using job = await new Job().startWorkload('eventfds');
    group.add(job.pid);
    const freezing = spawn(process.execPath, ['--input-type=module', '-e', freezeForever(job.pid, way)], {
      stdio: 'ignore',
    });
    await job.until(() => group.isFrozen, 'freeze');
    const killedAt = performance.now();
    freezing.kill('SIGKILL');
    await job.until(() => !group.isFrozen, 'thaw');
    context.diagnostic(`thawed ${(performance.now() - killedAt).toFixed(1)} ms after the kill`);
    job.stop();
    assert.equal(await job.result(), 'PASS');
  });

  test(`a killed stasis leaves no ${way} frozen`, { skip }, async () => {
    await using group = new TestGroup(way);
    await using job = await new Job().startWorkload('survivor');
    for (const tid of threadsOf(job.pid))
      if (listTree(job.pid).some(({ pid }) => pid === tid)) group.add(tid);
    const took = await killAfter(job, Number.POSITIVE_INFINITY);
    for (let kill = 0; kill < KILLS; kill++) {
      await killAfter(job, took * (0.4 + Math.random() * 0.5));
      await job.until(() => !group.isFrozen, 'thaw');
    }
    assert.deepEqual(await job.leftovers(), []);
    job.stop();
    assert.equal(await job.result(), 'PASS');
  });

  test(`membership of a ${way} is restored, and its group made again`, { skip }, async () => {
    const path = `/stasis-test-${process.pid}-member`;
    await using job = await new Job().startWorkload('eventfds');
    const group = new TestGroup(way, path);
    group.add(job.pid);
    await checkpoint(job.pid, { output: job.image, kill: true });
    await job.end;
    await group[Symbol.asyncDispose]();
    const report = await restart({ input: job.image });
    assert.deepEqual(report.warnings, []);
    assert.ok(cgroupsOf(report.pid).some((membership) => membership.path === path));
    job.stop();
    assert.equal(await job.result(), 'PASS');
    await report.wait();
    await group[Symbol.asyncDispose]();
  });
}

test('no wait without a timeout ends because of a freeze by ptrace alone', {
  skip: skipUnlessRoot,
}, async () => {
  await using job = await new Job().startWorkload('endless', ['outliving']);
  await freezeAgainAndAgain(job, 'ptrace');
});

test('a handler ends a wait also when its signal came while it was held', {
  skip: skipUnlessRoot,
}, async () => {
  await using job = await new Job().startWorkload('endless', ['outliving']);
  {
    using _frozen = new FrozenTree(job.pid, { timeoutMs: 5000 }).freeze();
    sendSignal(job.pid, constants.signals.SIGUSR1);
    await sleep(20);
  }
  assert.match(await job.result(), / returned, with error 4$/);
});

test('a task that gets signals of a timer all the time is stopped every time', {
  skip: skipUnlessRoot,
}, async () => {
  await using job = await new Job().startWorkload('ticking');
  for (let i = 0; i < 1000; i++) {
    using frozen = new FrozenTree(job.pid, { timeoutMs: 2000 }).freeze();
    assert.equal(frozen.processes.length, 1);
  }
  assert.deepEqual(await job.leftovers(), []);
  job.stop();
  assert.equal(await job.result(), 'PASS');
});

test('a task that can not be interrupted is named, and everything goes on', {
  skip: skipUnlessRoot,
}, async () => {
  await using job = await new Job().startWorkload('stuck');
  await assert.rejects(checkpoint(job.pid, { output: job.image, timeoutMs: 200 }), (error) => {
    assert.ok(error instanceof FreezeError, String(error));
    assert.equal(error.tid, job.pid);
    assert.match(error.message, /^task \d+ \(.*stuck.*\) did not stop within 0\.2 s$/);
    assert.match(error.reason ?? '', /^it waits without being interruptible in \w+$/);
    assert.match(error.advice ?? '', /--timeout/);
    return true;
  });
  // It could not be let go where it was, and is when it comes out, though this process lives on.
  job.stop();
  assert.equal(await job.result(), 'PASS');
  assert.equal(await job.end, 0);
});

test('a child that ends while it is held is not taken from whoever waits for it', {
  skip: skipUnlessRoot,
}, async (context) => {
  for (const name of ['threads', 'eventfds']) {
    await context.test(name, async () => {
      await using job = await new Job().startWorkload(name);
      {
        using _frozen = new FrozenTree(job.pid, { timeoutMs: 5000 }).freeze();
        sendSignal(job.pid, constants.signals.SIGKILL);
        await sleep(5);
      }
      assert.equal(await job.end, 'SIGKILL');
    });
  }
  await context.test('while it is about to stop', async () => {
    for (let attempt = 0; attempt < 50; attempt++) {
      await using job = new Job().start('/bin/true');
      for (let alive = true; alive; ) {
        try {
          using _frozen = new FrozenTree(job.pid, { timeoutMs: 5000 }).freeze();
          alive = _frozen.processes.some(({ zombie }) => !zombie);
        } catch (error) {
          if (!(error instanceof TargetError)) throw error;
          alive = false;
        }
        await sleep(0);
      }
      assert.equal(await job.end, 0);
    }
  });
});

/** A program that freezes the group of a process and does not go on. */
function freezeForever(pid: number, way: FreezeWay): string {
  const here = import.meta.url;
  return `
    import { GroupFreezer } from '${new URL('../../src/freezer/groupFreezer.js', here)}';
    import { sleepSync } from '${new URL('../../src/sys/process.js', here)}';
    GroupFreezer.find(${pid}, ['${way}']).whileFrozen(() => sleepSync(60_000));`;
}

async function freezeAgainAndAgain(job: Job, way: FreezeWay): Promise<void> {
  for (let i = 0; i < 20; i++) {
    using frozen = new FrozenTree(job.pid, { timeoutMs: 5000, ways: [way] }).freeze();
    assert.equal(frozen.way, way);
    await sleep(3);
  }
  assert.deepEqual(await job.leftovers(), []);
  job.stop();
  assert.equal(await job.result(), 'PASS');
}

/** Freezes while processes are born, and sees that none is born any more. */
async function catchStorm(job: Job, way: FreezeWay): Promise<void> {
  writeFileSync(job.path('go'), '');
  let largest = 0;
  for (let attempt = 0; largest < STORM; attempt++) {
    assert.ok(attempt < 2000, `${largest} processes after ${attempt} attempts`);
    {
      using frozen = new FrozenTree(job.pid, { timeoutMs: 10_000, ways: [way] }).freeze();
      assert.equal(frozen.way, way);
      const held = frozen.processes.map(({ pid }) => pid).sort((a, b) => a - b);
      await sleep(5);
      assert.deepEqual(
        listTree(job.pid)
          .map(({ pid }) => pid)
          .sort((a, b) => a - b),
        held,
      );
      assert.ok(frozen.processes.every(({ zombie }) => !zombie));
      largest = held.length;
    }
    await sleep(Math.random() * 5);
  }
  job.stop();
  assert.equal(await job.result(), 'PASS');
}

/** Starts a checkpoint and kills it; returns how long it took, milliseconds. */
async function killAfter(job: Job, milliseconds: number): Promise<number> {
  const begin = performance.now();
  const stasis = spawn(process.execPath, [STASIS, 'checkpoint', '-f', '-o', job.image, String(job.pid)], {
    stdio: 'ignore',
  });
  const ended = new Promise((resolve) => stasis.on('exit', resolve));
  if (Number.isFinite(milliseconds)) {
    await sleep(milliseconds);
    stasis.kill('SIGKILL');
  }
  await ended;
  return performance.now() - begin;
}
