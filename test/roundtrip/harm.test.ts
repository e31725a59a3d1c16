import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, readdirSync } from 'node:fs';
import { basename, dirname } from 'node:path';
import { test } from 'node:test';
import { checkpoint } from '../../src/checkpoint.js';
import { listTree } from '../../src/procfs/tree.js';
import { Job, lastingLeftovers, STASIS, skipUnlessRoot, sleep, threadsOf } from './job.js';

/** Beats of the survivor: one for each of three threads of three processes, and a token for each process. */
const BEATS = 12;
const KILLS = 300;
/** Parts of the time that an undisturbed command takes: before the first Node.js has not even started. */
const KILL_AFTER = { least: 0.3, most: 1.1 };

test(`${KILLS} kills of stasis checkpoint at random moments harm nobody`, {
  skip: skipUnlessRoot,
}, async () => {
  // Two trees at a time, one for each processor.
  const harmed = await Promise.allSettled([killAgainAndAgain(KILLS / 2), killAgainAndAgain(KILLS / 2)]);
  for (const tree of harmed) if (tree.status === 'rejected') throw tree.reason;
});

/** Goes on until so many checkpoints were killed before they were done. */
async function killAgainAndAgain(kills: number): Promise<void> {
  await using job = await new Job().startWorkload('survivor');
  await assertAllBeat(job);
  const threads = threadsOf(job.pid).sort();
  let took = await undisturbedMs(job);
  for (let killed = 0; killed < kills; ) {
    const undisturbed = await killedCheckpoint(job, took);
    // One that came to its end tells how long a checkpoint takes now.
    if (undisturbed === undefined) killed++;
    else took = undisturbed;
    assert.deepEqual(await lastingLeftovers(job.pid), [], `after ${killed} kills`);
    if (killed % 10 === 0) await assertAllBeat(job);
  }
  await assertAllBeat(job);
  assert.deepEqual(threadsOf(job.pid).sort(), threads);
  // An image is complete or not there.
  const residue = readdirSync(dirname(job.image)).filter((name) =>
    name.startsWith(`.${basename(job.image)}`),
  );
  assert.deepEqual(residue, []);
  job.stop();
  assert.equal(await job.result(), 'PASS');
}

async function undisturbedMs(job: Job): Promise<number> {
  const begin = performance.now();
  const stasis = startCheckpoint(job);
  await new Promise((resolve) => stasis.on('exit', resolve));
  return performance.now() - begin;
}

function startCheckpoint(job: Job): ChildProcess {
  return spawn(process.execPath, [STASIS, 'checkpoint', '-o', job.image, '--force', String(job.pid)], {
    stdio: 'ignore',
  });
}

/** Returns the milliseconds that a checkpoint took which was done before it was killed. */
async function killedCheckpoint(job: Job, took: number): Promise<number | undefined> {
  const begin = performance.now();
  const stasis = startCheckpoint(job);
  const ended = new Promise<number | undefined>((resolve) => {
    stasis.on('exit', (_code, signal) =>
      resolve(signal === 'SIGKILL' ? undefined : performance.now() - begin),
    );
  });
  const { least, most } = KILL_AFTER;
  await sleep(took * (least + Math.random() * (most - least)));
  stasis.kill('SIGKILL');
  return await ended;
}

async function assertAllBeat(job: Job): Promise<void> {
  const beats = () => new BigUint64Array(Uint8Array.from(job.readBytes('beats')).buffer).slice(0, BEATS);
  const before = beats();
  await job.until(() => beats().every((beat, index) => beat > (before[index] ?? 0n)), 'beat of every thread');
}

test('a checkpoint that fails at any step lets its target go as it was', {
  skip: skipUnlessRoot,
}, async () => {
  await using job = await new Job().startWorkload('survivor');
  const steps: string[] = [];
  await checkpoint(job.pid, { output: job.image, onStep: ({ step }) => steps.push(step) });
  for (const failing of new Set(steps)) {
    for (const state of ['begin', 'end']) {
      const attempt = checkpoint(job.pid, {
        output: job.image,
        force: true,
        kill: true,
        onStep: (event) => {
          // After the last step the processes are ended, as asked.
          if (event.step === failing && event.state === state && event.step !== 'kill')
            throw new Error('at a step');
          if (event.step === 'kill') throw new Error('at a step');
        },
      });
      await assert.rejects(attempt, /at a step/);
      assert.deepEqual(await lastingLeftovers(job.pid), [], `${failing} ${state}`);
    }
  }
  await assertAllBeat(job);
  assert.equal(listTree(job.pid).length, 3);
  job.stop();
  assert.equal(await job.result(), 'PASS');
});

test('an abort ends a checkpoint and lets its target go', { skip: skipUnlessRoot }, async () => {
  await using job = await new Job().startWorkload('survivor');
  const controller = new AbortController();
  const attempt = checkpoint(job.pid, {
    output: job.image,
    signal: controller.signal,
    onStep: ({ step }) => {
      if (step === 'ask') controller.abort(new Error('enough'));
    },
  });
  await assert.rejects(attempt, /enough/);
  assert.deepEqual(await lastingLeftovers(job.pid), []);
  assert.ok(!existsSync(job.image));
  await assertAllBeat(job);
});

test('an abort while pages are being written waits for the write', { skip: skipUnlessRoot }, async () => {
  await using job = await new Job().startWorkload('big', ['300']);
  const controller = new AbortController();
  const descriptors = readdirSync('/proc/self/fd').length;
  const attempt = checkpoint(job.pid, {
    output: job.image,
    kill: true,
    signal: controller.signal,
    onStep: ({ step, state }) => {
      if (step === 'pages' && state === 'begin') setImmediate(() => controller.abort(new Error('enough')));
    },
  });
  await assert.rejects(attempt, /enough/);
  assert.equal(readdirSync('/proc/self/fd').length, descriptors);
  assert.ok(!existsSync(job.image));
  assert.deepEqual(await lastingLeftovers(job.pid), []);
  job.stop();
  assert.equal(await job.result(), 'PASS');
});

test('a full disk, seen while the image is written, leaves the target running', {
  skip: skipUnlessRoot,
}, async () => {
  await using job = await new Job().startWorkload('survivor');
  await assert.rejects(checkpoint(job.pid, { output: '/dev/full', kill: true }), {
    code: 'ERR_OUTPUT',
    reason: 'no space is left there',
  });
  assert.deepEqual(await lastingLeftovers(job.pid), []);
  await assertAllBeat(job);
});
