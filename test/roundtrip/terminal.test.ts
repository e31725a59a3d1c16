import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync, writeFileSync } from 'node:fs';
import { test } from 'node:test';
import { checkpoint } from '../../src/checkpoint.js';
import { inspect } from '../../src/inspect.js';
import { restart } from '../../src/restart.js';
import { findProgram, Job, lastingLeftovers, STASIS, skipUnlessRoot } from './job.js';

/** script(1) runs a command on a terminal of its own. */
const skip =
  skipUnlessRoot || (findProgram('script') === undefined ? 'script is not on this machine' : false);

test('an image is not written to a terminal', { skip }, async () => {
  await using job = await new Job().startWorkload('eventfds');
  const command = `${process.execPath} ${STASIS} checkpoint ${job.pid}`;
  const { status, stdout } = spawnSync('script', ['-qec', command, '/dev/null'], { encoding: 'utf8' });
  assert.equal(status, 2);
  assert.match(stdout, /an image is not written to a terminal/);
  assert.deepEqual(await lastingLeftovers(job.pid), []);
});

test('a job on a terminal is given another end, and its shell is refused', { skip }, async (context) => {
  await using job = new Job();
  const inner = 'until [ -e stop ]; do sleep 0.01; done; echo finished';
  writeFileSync(job.path('shell.sh'), `echo $$ > shell\nsh -c '${inner}' &\necho $! > pid\nwait\n`);
  job.start('script', ['-qec', 'exec sh shell.sh', 'typescript']);
  await job.until(() => existsSync(job.path('pid')) && job.read('pid') !== '', 'pid');
  const pid = Number(job.read('pid'));
  await context.test('the shell leads a session with a controlling terminal', async () => {
    await assert.rejects(
      checkpoint(Number(job.read('shell')), { output: job.image }),
      (error: { reason?: string }) =>
        /its session \d+ is in the tree and has a controlling terminal/.test(error.reason ?? ''),
    );
  });
  for (let tries = 0; ; tries++) {
    try {
      await checkpoint(pid, { output: job.image, kill: true });
      break;
    } catch (error) {
      // For a moment the shell is in vfork, or its sleep is a zombie.
      if (tries === 50 || (error as { code?: string }).code !== 'ERR_UNSUPPORTED') throw error;
    }
  }
  const [key = ''] = (await inspect(job.image)).external;
  assert.match(key, /^\/dev\/pts\/\d+$/);
  writeFileSync(job.path('new end'), '');
  const { wait } = await restart({ input: job.image, attach: { [key]: job.path('new end') } });
  job.stop();
  assert.deepEqual(await wait(), { kind: 'exited', status: 0 });
  assert.equal(job.read('new end'), 'finished\n');
});
