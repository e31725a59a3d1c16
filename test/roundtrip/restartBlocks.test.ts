import assert from 'node:assert/strict';
import { closeSync, openSync } from 'node:fs';
import { test } from 'node:test';
import { checkpoint } from '../../src/checkpoint.js';
import { RestartBlock_Kind } from '../../src/image/generated/process_pb.js';
import { loadImage } from '../../src/resources/loadImage.js';
import { restart } from '../../src/restart.js';
import { Job, skipWithoutBpf, sleep } from './job.js';

const { SLEEP, POLL, FUTEX, FUTEX_UNTIL } = RestartBlock_Kind;
/** Nanoseconds. */
const WHOLE = 1_000_000_000_000n;

interface Waiting {
  readonly kind: RestartBlock_Kind;
  readonly clock: number;
  readonly remaining: bigint;
}

test('what remains of a timeout only gets less, over restarts and thaws', {
  skip: skipWithoutBpf,
}, async () => {
  await using job = await new Job().startWorkload('asleep');
  let before = new Map<number, Waiting>();
  let end: Promise<unknown> = job.end;
  for (const kill of [false, true, false, true]) {
    await checkpoint(job.pid, { output: job.image, kill, force: true });
    const now = await waitingThreads(job.image);
    assert.deepEqual(
      [...now.values()].map(({ kind, clock }) => [kind, clock]),
      [
        [SLEEP, 1],
        [SLEEP, 1],
        [SLEEP, 7],
        [POLL, 1],
        [FUTEX, 1],
        [FUTEX_UNTIL, 1],
      ],
    );
    for (const [tid, { remaining }] of now) {
      const earlier = before.get(tid)?.remaining ?? WHOLE;
      assert.ok(remaining < earlier, `thread ${tid}: ${remaining} ns are left, ${earlier} before`);
      assert.ok(remaining > WHOLE / 2n, `thread ${tid}: ${remaining} ns are left`);
    }
    before = now;
    if (kill) {
      await end;
      const report = await restart({ input: job.image });
      end = report.wait();
    }
    await sleep(10);
  }
  job.stop();
  assert.equal(await job.result(), 'PASS');
  assert.deepEqual(await end, { kind: 'exited', status: 0 });
});

/** By tid; the leader, which takes naps, left out. */
async function waitingThreads(image: string): Promise<Map<number, Waiting>> {
  const fd = openSync(image, 'r');
  try {
    const { processes } = await loadImage(fd);
    const threads = processes.flatMap(({ threads: own }) => own.slice(1));
    return new Map(
      threads.map(({ message: { tid, restartBlock } }) => [
        tid,
        {
          kind: restartBlock?.kind ?? RestartBlock_Kind.KIND_UNSPECIFIED,
          clock: restartBlock?.clock ?? 0,
          remaining: restartBlock?.remainingNanoseconds ?? 0n,
        },
      ]),
    );
  } finally {
    closeSync(fd);
  }
}
