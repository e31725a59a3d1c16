import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { test } from 'node:test';
import { checkpoint } from '../../src/checkpoint.js';
import { type RestartReport, restart } from '../../src/restart.js';
import { Job, skipUnlessRoot, sleep, threadsOf } from './job.js';

const SHAPES = [
  ['deep', 500],
  ['wide', 1000],
] as const;

for (const [shape, count] of SHAPES) {
  test(`a ${shape} tree of ${count} processes is restarted`, { skip: skipUnlessRoot }, async () => {
    await using job = await new Job().startWorkload('shape', [shape, String(count)]);
    await checkpoint(job.pid, { output: job.image, kill: true });
    await job.end;
    const report = await restart({ input: job.image });
    assert.equal(report.processes, count + 1);
    await sleep(50);
    job.stop();
    assert.equal(await job.result(), 'PASS');
    assert.deepEqual(await report.wait(), { kind: 'exited', status: 0 });
  });
}

const TIMES = 100;

test(`nothing drifts in ${TIMES} checkpoints and restarts of one tree`, {
  skip: skipUnlessRoot,
}, async () => {
  await using job = await new Job().startWorkload('survivor');
  // Until all of its threads have begun.
  await sleep(200);
  let end: Promise<unknown> = job.end;
  let first: Snapshot | undefined;
  let report: RestartReport | undefined;
  for (let time = 0; time < TIMES; time++) {
    const { processes, threads, pages } = await checkpoint(job.pid, {
      output: job.image,
      kill: true,
      force: true,
    });
    await end;
    report = await restart({ input: job.image });
    assert.deepEqual(report.warnings, []);
    end = report.wait();
    const now = { processes, threads, pages, ...lookAt(report.pid) };
    first ??= now;
    // The program itself goes on meanwhile: its stacks and heap may change by some pages.
    assert.ok(
      Math.abs(now.pages - first.pages) <= PAGES_OF_ITS_OWN,
      `${now.pages} pages, ${first.pages} before`,
    );
    assert.deepEqual({ ...now, pages: 0 }, { ...first, pages: 0 }, `after ${time + 1} restarts`);
  }
  job.stop();
  assert.equal(await job.result(), 'PASS');
  assert.deepEqual(await end, { kind: 'exited', status: 0 });
});

const PAGES_OF_ITS_OWN = 16;

interface Snapshot {
  readonly processes: number;
  readonly threads: number;
  readonly pages: number;
  readonly tids: readonly number[];
  readonly descriptors: readonly string[];
  readonly mappings: readonly string[];
}

/** What must not change from one restart to the next. */
function lookAt(pid: number): Pick<Snapshot, 'tids' | 'descriptors' | 'mappings'> {
  return {
    tids: threadsOf(pid),
    descriptors: readdirSync(`/proc/${pid}/fd`),
    mappings: readFileSync(`/proc/${pid}/maps`, 'latin1')
      .split('\n')
      .map((line) => line.split(' ').slice(0, 2).join(' ')),
  };
}
