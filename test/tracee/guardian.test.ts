import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { test } from 'node:test';

/** More than what a page of code kills. */
const CHARGES = 300;

/** A process that stands by to kill others, may dismiss its guardian, and waits to be killed itself. */
const guarding = (pids: readonly number[], dismissed: boolean) => `
  import { Guardian } from '${new URL('../../src/tracee/guardian.js', import.meta.url)}';
  const guardian = Guardian.toKill(${JSON.stringify(pids)});
  ${dismissed ? 'guardian[Symbol.dispose]();' : ''}
  console.log('ready');
  setInterval(() => {}, 1000);`;

/** Starts processes, kills who guards them, and says how they ended. */
async function endsOf(dismissed: boolean): Promise<Set<NodeJS.Signals | null>> {
  // They end by themselves when their input does.
  const charges = Array.from({ length: CHARGES }, () =>
    spawn('cat', { stdio: ['pipe', 'ignore', 'inherit'] }),
  );
  const ends = charges.map((charge) => once(charge, 'exit'));
  const pids = charges.map(({ pid }: ChildProcess) => pid ?? assert.fail('cat was not started'));
  const guard = spawn(process.execPath, ['--input-type=module', '-e', guarding(pids, dismissed)], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const guardEnded = once(guard, 'exit');
  try {
    await once(guard.stdout, 'data');
  } finally {
    guard.kill('SIGKILL');
    await guardEnded;
    if (dismissed) for (const { stdin } of charges) stdin.end();
  }
  return new Set((await Promise.all(ends)).map(([, signal]) => signal));
}

test('a guardian kills its charges when whoever has started it is killed', async () => {
  assert.deepEqual(await endsOf(false), new Set(['SIGKILL']));
});

test('a guardian that was dismissed does nothing', async () => {
  assert.deepEqual(await endsOf(true), new Set([null]));
});
