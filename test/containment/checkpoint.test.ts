import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync, readlinkSync, writeFileSync } from 'node:fs';
import { test } from 'node:test';
import { type CheckpointOptions, checkpoint } from '../../src/checkpoint.js';
import { LeakError } from '../../src/errors.js';
import { inspect } from '../../src/inspect.js';
import { restart } from '../../src/restart.js';
import { sleepSync } from '../../src/sys/process.js';
import { findProgram, Job, lastingLeftovers, STASIS, skipWithoutBpf, workload } from '../roundtrip/job.js';

const skip = skipWithoutBpf;

test('a leak refuses a checkpoint, with nothing left and the target going on', { skip }, async (context) => {
  await using job = await new Job().startWorkload('sharing', ['file']);
  const pid = Number(job.read('inside'));
  await context.test('as an error of the library', async () => {
    await assert.rejects(checkpoint(pid, { output: job.image, leaks: 'refuse' }), (error) => {
      assert.ok(error instanceof LeakError);
      assert.equal(error.code, 'ERR_LEAK');
      assert.equal(error.errnoName, 'EAGAIN');
      assert.equal(error.leaks.length, 1);
      assert.match(
        error.reason ?? '',
        /file .*\/data: .* 2 references in the kernel, 1 inside; outside: sharing\[\d+\] fd \d+/,
      );
      assert.match(error.advice ?? '', /--allow-leak 'file:.*\/data'/);
      return true;
    });
    assert.ok(!existsSync(job.image));
    assert.deepEqual(await lastingLeftovers(pid), []);
  });
  await context.test('as exit status 3', () => {
    const { status, stderr } = stasis('checkpoint', '-o', job.image, '--leaks', 'refuse', String(pid));
    assert.equal(status, 3);
    assert.match(stderr, /checkpoint refused: 1 leak/);
    assert.ok(!existsSync(job.image));
  });
  await context.test('in a stream as its last record', () => {
    const { status, stdout } = spawnSync(
      process.execPath,
      [STASIS, 'checkpoint', '--leaks', 'refuse', String(pid)],
      { maxBuffer: 1 << 26 },
    );
    assert.equal(status, 3);
    writeFileSync(job.image, stdout);
    for (const command of ['inspect', 'restart']) {
      const refused = stasis(command, job.image);
      assert.equal(refused.status, 1);
      assert.match(
        refused.stderr,
        /the checkpoint that wrote it failed: checkpoint refused: 1 leak: file .*\(ERR_LEAK\)/,
      );
    }
  });
  await context.test('with a warning, or silently, for a subtree', async () => {
    const reported = stasis('checkpoint', '-f', '-o', job.image, String(pid));
    assert.equal(reported.status, 0);
    assert.match(reported.stderr, /warning: leak: file .*\/data/);
    const ignored = stasis('checkpoint', '-f', '-o', job.image, '--leaks', 'ignore', String(pid));
    assert.deepEqual([ignored.status, ignored.stderr], [0, '']);
  });
  await context.test('not when it is accepted: it is given anew at restart', async () => {
    const key = job.path('data');
    const options = { output: job.image, force: true, leaks: 'refuse', kill: true } as const;
    const report = await checkpoint(pid, { ...options, allowLeaks: [`file:${key}`] });
    assert.deepEqual(
      report.leaks.filter(({ harmless }) => !harmless).map(({ allowed }) => allowed),
      [true],
    );
    const { external } = await inspect(job.image);
    assert.deepEqual(external, [key]);
    writeFileSync(job.path('new end'), '');
    const restarted = await restart({ input: job.image, attach: { [key]: job.path('new end') } });
    const slots = spawnSync('ls', [`/proc/${pid}/fd`], { encoding: 'utf8' })
      .stdout.trim()
      .split('\n');
    assert.ok(slots.some((fd) => readlinkSync(`/proc/${pid}/fd/${fd}`) === job.path('new end')));
    job.stop();
    assert.deepEqual(await restarted.wait(), { kind: 'exited', status: 0 });
  });
});

test('a pid that is no container is refused as one', { skip }, async () => {
  await using job = await new Job().startWorkload('eventfds');
  await assert.rejects(checkpoint(job.pid, { output: job.image, container: true }), {
    code: 'ERR_TARGET',
    message: /is no container/,
  });
});

test('what Stasis itself has open is no leak, also where a task has it too', { skip }, async () => {
  await using job = await new Job().startWorkload('sharing', ['nothing']);
  const pid = Number(job.read('inside'));
  // The log of this command is a pipe's end that nobody inside has; its image is a file of its own.
  const report = await checkpoint(pid, { output: job.image, leaks: 'refuse' });
  assert.deepEqual(
    report.leaks.filter(({ harmless }) => !harmless),
    [],
  );
  // Tasks that were started with the log of the command which saves them.
  const inherited = `exec 7>>log; (exec setsid ${workload('sharing')} nothing </dev/null >/dev/null 2>&1) & echo $! > own; until [ -e go ]; do sleep 0.02; done; exec ${process.execPath} ${STASIS} checkpoint --leaks refuse -f -o '${job.image}' $(cat own) 2>&7`;
  await using shell = new Job().start('bash', ['-c', inherited]);
  await shell.until(() => existsSync(shell.path('ready')) && existsSync(shell.path('own')), 'ready');
  writeFileSync(shell.path('go'), '');
  assert.equal(await shell.end, 0, shell.read('log'));
});

/** What the process outside does, and what is said of it. */
const races = [
  { name: 'opens a file', mode: 'table', request: 'open', reply: 'opened', meaning: /opened from outside/ },
  {
    name: 'closes one',
    mode: 'table',
    before: 'open',
    request: 'close',
    reply: 'closed',
    meaning: /is gone/,
  },
  {
    name: 'passes a descriptor in',
    mode: 'unix',
    request: 'send',
    reply: 'sent',
    meaning: /came into the socket/,
  },
] as const;

for (const { name, mode, request, reply, meaning, ...more } of races) {
  for (const { at, seenAfter } of [
    { at: 'save', seenAfter: 'save' },
    { at: 'pages', seenAfter: 'pages' },
  ]) {
    test(`a race: before the step ${at} a process outside ${name}`, { skip }, async () => {
      await using job = await new Job().startWorkload('sharing', [mode]);
      const pid = Number(job.read('inside'));
      const ask = (what: string, answer: string): void => {
        writeFileSync(job.path(what), '');
        for (let i = 0; i < 2000 && !existsSync(job.path(answer)); i++) sleepSync(2);
        assert.ok(existsSync(job.path(answer)), `the process outside did not ${what}`);
      };
      if ('before' in more) ask(more.before, 'opened');
      const options: CheckpointOptions = {
        output: job.image,
        leaks: 'refuse',
        allowLeaks: ['filesStruct', 'unixSocket'],
        onStep: ({ step, state }) => {
          if (step === at && state === 'begin') ask(request, reply);
        },
      };
      await assert.rejects(checkpoint(pid, options), (error) => {
        assert.ok(error instanceof LeakError, String(error));
        const leak = error.leaks.find(({ reverse }) => reverse === seenAfter);
        assert.match(leak?.meaning ?? '', meaning);
        assert.match(leak?.name ?? '', /^pid \d+ fd \d+$/);
        return true;
      });
      assert.ok(!existsSync(job.image));
      assert.deepEqual(await lastingLeftovers(pid), []);
      // Nothing of it is left: the next one finds all of it collected.
      await checkpoint(pid, { ...options, onStep: () => undefined });
    });
  }
}

const PIPELINE = 'while [ ! -e stop ]; do seq 200 | sort -n | tail -1 > last; sleep 0.01; done';
const PYTHON = `
import mmap, os, threading, time
memory = mmap.mmap(-1, 65536)
data = open('data', 'w+')
def work():
    while not os.path.exists('stop'):
        memory[0] = (memory[0] + 1) % 256
        data.seek(0); data.write(str(memory[0])); time.sleep(0.001)
threads = [threading.Thread(target=work) for _ in range(3)]
for thread in threads: thread.start()
while not os.path.exists('stop'):
    child = os.fork()
    if child == 0:
        memory[1] = 1
        time.sleep(0.02)
        os._exit(0)
    os.waitpid(child, 0)
`;
/** Opens, maps, forks, and reads all of /proc, which takes references for moments. */
const BUSY =
  'while :; do ls -l /proc/[0-9]*/fd; cat /proc/[0-9]*/maps /proc/[0-9]*/cmdline; (:); done >/dev/null 2>&1';
const ROUNDS = 200;

test(`${ROUNDS} checkpoints of contained trees on a busy machine: no false alarm`, { skip }, async () => {
  await using pipeline = new Job().start('bash', ['-c', PIPELINE]);
  await using python = new Job().start('python3', ['-c', PYTHON]);
  await using many = await new Job().startWorkload('many', ['199']);
  await using busy = new Job().start('bash', ['-c', BUSY]);
  await using second = new Job().start('bash', ['-c', BUSY]);
  const jobs = [pipeline, ...(findProgram('python3') === undefined ? [] : [python]), many];
  let done = 0;
  for (let attempt = 0; done < ROUNDS; attempt++) {
    const job = jobs[attempt % jobs.length] as Job;
    try {
      const report = await checkpoint(job.pid, { output: job.image, force: true, leaks: 'refuse' });
      assert.equal(report.leaks.filter(({ reverse }) => reverse !== undefined).length, 0);
      done++;
    } catch (error) {
      // A zombie, or a task in vfork, for the moment.
      if ((error as { code?: string }).code !== 'ERR_UNSUPPORTED') throw error;
      assert.ok(attempt < 5 * ROUNDS, `mostly not supported: ${error}`);
    }
  }
  assert.ok(busy.pid > 0 && second.pid > 0);
});

test('in a user namespace, without BPF, the same is found', {
  skip: skip || (findProgram('unshare') ? false : 'no unshare'),
}, async () => {
  const script = `${workload('sharing')} file & until [ -e ready ]; do sleep 0.02; done; exec ${process.execPath} ${STASIS} leaks --json $(cat inside)`;
  await using job = new Job().start('unshare', ['-Ur', 'bash', '-c', script]);
  assert.equal(await job.end, 3, job.read('err'));
  const report = JSON.parse(job.read('out'));
  assert.equal(report.method, 'proc');
  assert.deepEqual(
    report.leaks
      .filter((leak: { harmless: boolean }) => !leak.harmless)
      .map(({ kind }: { kind: string }) => kind),
    ['file'],
  );
  assert.match(JSON.stringify(report.notVerified), /EPERM/);
  job.stop();
});

function stasis(...args: string[]): { status: number | null; stderr: string } {
  return spawnSync(process.execPath, [STASIS, ...args], { encoding: 'utf8' });
}
