import assert from 'node:assert/strict';
import { closeSync, openSync, writeSync } from 'node:fs';
import { test } from 'node:test';
import { checkpoint } from '../../src/checkpoint.js';
import { restart } from '../../src/restart.js';
import { Job, skipUnlessRoot, sleep } from './job.js';

const TIMES = 20;

test('a restartable sequence is aborted by a checkpoint, and by a restart', {
  skip: skipUnlessRoot,
}, async () => {
  await using job = await new Job().startWorkload('rseq');
  let epoch = 0;
  const countUp = (): void => {
    const file = openSync(job.path('epoch'), 'r+');
    writeSync(file, new BigInt64Array([BigInt(++epoch)]), 0, 8, 0);
    closeSync(file);
  };
  let end: Promise<unknown> = job.end;
  for (let time = 0; time < TIMES; time++) {
    await checkpoint(job.pid, {
      output: job.image,
      force: true,
      // All is held then, and has been asked.
      onStep: ({ step, state }) => {
        if (step === 'pages' && state === 'begin') countUp();
      },
    });
    await sleep(5);
    await checkpoint(job.pid, { output: job.image, force: true, kill: true });
    await end;
    countUp();
    // The file of the epochs was changed: that is meant.
    const { wait } = await restart({ input: job.image, force: true });
    end = wait();
    await sleep(5);
  }
  assert.equal(epoch, 2 * TIMES);
  job.stop();
  assert.equal(await job.result(), 'PASS');
  assert.deepEqual(await end, { kind: 'exited', status: 0 });
});
