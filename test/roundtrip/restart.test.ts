import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import {
  copyFileSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { basename } from 'node:path';
import { after, before, test } from 'node:test';
import { crc32 } from 'node:zlib';
import { checkpoint } from '../../src/checkpoint.js';
import { ImageError, RestartRefusedError, type StasisError } from '../../src/errors.js';
import { inspect } from '../../src/inspect.js';
import { readNumbersIfAlive, readProc, readProcIfAlive } from '../../src/procfs/read.js';
import { parseMappings } from '../../src/procfs/smaps.js';
import { restart } from '../../src/restart.js';
import { Job, lastingLeftovers, STASIS, skipUnlessRoot, sleep, workload } from './job.js';

const skip = skipUnlessRoot;

/** Pids whose parent is this process, zombies included. */
function children(): string[] {
  return (readProcIfAlive(`/proc/self/task/${process.pid}/children`) ?? '')
    .split(' ')
    .filter((pid) => pid !== '');
}

/** Checks a refusal, and that it started nothing and left nothing open. */
async function assertRefused(
  attempt: () => Promise<unknown>,
  type: new (...args: never[]) => Error,
  wanted: RegExp,
): Promise<void> {
  const descriptors = readNumbersIfAlive('/proc/self/fd');
  const before = children();
  await assert.rejects(attempt(), (error) => {
    assert.ok(error instanceof type, String(error));
    assert.match(`${error.message}\n${(error as StasisError).reason}`, wanted);
    return true;
  });
  assert.deepEqual(
    children().filter((pid) => !before.includes(pid)),
    [],
  );
  assert.deepEqual(readNumbersIfAlive('/proc/self/fd'), descriptors);
}

test('a pid that is taken is named with its command', { skip }, async () => {
  await using job = await new Job().startWorkload('threads');
  await checkpoint(job.pid, { output: job.image });
  await assertRefused(
    () => restart({ input: job.image }),
    RestartRefusedError,
    new RegExp(`pid ${job.pid}: the pid is taken by .*threads; end that process`),
  );
});

test('changed and missing files are named with what differs', { skip }, async (context) => {
  await using job = await new Job().startWorkload('files');
  await checkpoint(job.pid, { output: job.image, kill: true });
  await job.end;
  job.takeSnapshot();
  await context.test('another size', async () => {
    truncateSync(job.path('data'), 100);
    await assertRefused(
      () => restart({ input: job.image }),
      RestartRefusedError,
      /data has changed: size 100 instead of 160000 bytes, mtime .* instead of /,
    );
  });
  await context.test('another time', async () => {
    job.restoreSnapshot();
    utimesSync(job.path('log'), 1, 1);
    await assertRefused(
      () => restart({ input: job.image }),
      RestartRefusedError,
      /log has changed: mtime 1970-01-01T00:00:01.000000000Z instead of 20/,
    );
  });
  await context.test('missing', async () => {
    job.restoreSnapshot();
    rmSync(job.path('data'));
    await assertRefused(() => restart({ input: job.image }), RestartRefusedError, /data is missing/);
  });
  await context.test('changed, and accepted with --force', async () => {
    job.restoreSnapshot();
    utimesSync(job.path('log'), 1, 1);
    const { wait } = await restart({ input: job.image, force: true });
    job.stop();
    assert.equal(await job.result(), 'PASS');
    await wait();
  });
});

test('a changed executable is named with its build-id', { skip }, async () => {
  await using job = new Job();
  const copy = job.path('program');
  copyFileSync(workload('eventfds'), copy);
  job.start('/bin/sh', ['-c', `exec ${copy}`]);
  await job.until(() => readdirSync(job.directory).includes('ready'), 'ready');
  await checkpoint(job.pid, { output: job.image, kill: true });
  await job.end;
  const times = statSync(copy);
  copyFileSync(workload('pipes'), copy);
  await assertRefused(
    () => restart({ input: job.image }),
    RestartRefusedError,
    /program has changed: .*build-id [0-9a-f]{40} instead of [0-9a-f]{40}/,
  );
  // The same content at another time is the same program.
  copyFileSync(workload('eventfds'), copy);
  assert.notEqual(statSync(copy).mtimeMs, times.mtimeMs);
  const { wait } = await restart({ input: job.image });
  job.stop();
  assert.equal(await job.result(), 'PASS');
  await wait();
});

test('a damaged image is refused with offset and field, and touches no process', {
  skip,
}, async (context) => {
  await using job = await new Job().startWorkload('memory');
  await checkpoint(job.pid, { output: job.image, kill: true });
  await job.end;
  const whole = readFileSync(job.image);
  const damaged = (name: string, wanted: RegExp, change: (bytes: Buffer) => Buffer): Promise<void> =>
    context.test(name, async () => {
      writeFileSync(job.image, change(Buffer.from(whole)));
      await assertRefused(() => restart({ input: job.image }), ImageError, wanted);
    });
  await damaged('cut off', /at byte \d+: the stream ends here/, (bytes) =>
    bytes.subarray(0, bytes.length / 2),
  );
  await damaged('empty', /preamble at byte 0: the stream ends here/, () => Buffer.alloc(0));
  await damaged('foreign', /preamble.magic at byte 0: this is no Stasis image/, () =>
    Buffer.alloc(4096, 'x'),
  );
  await damaged('newer', /preamble.version at byte 8: format 99/, () => newerVersion(whole));
  await damaged('with bytes behind it', /bytes follow behind the tail/, (bytes) =>
    Buffer.concat([bytes, bytes]),
  );
  for (let i = 0; i < 40; i++) {
    const at = Math.floor(Math.random() * whole.length);
    await damaged(`with bit ${i % 8} of byte ${at} flipped`, /image refused: .* at byte \d+: /, (bytes) => {
      bytes[at] = (bytes[at] ?? 0) ^ (1 << (i % 8));
      return bytes;
    });
  }
});

test('what is no file to read is refused in plain words', () => {
  const words: Readonly<Record<string, RegExp>> = {
    '/nowhere/job.stasis':
      /^stasis: \/nowhere\/job\.stasis can't be read\n {2}ENOENT: .*\n {2}-> name a file/,
    '/tmp': /^stasis: \/tmp is a directory\n {2}-> name a file/,
  };
  for (const [path, wanted] of Object.entries(words)) {
    for (const command of ['restart', 'inspect']) {
      const { status, stderr } = spawnSync(STASIS, [command, path], { encoding: 'utf8' });
      assert.match(stderr, wanted);
      assert.equal(status, 2);
    }
  }
});

test('a stream whose checkpoint failed says why', { skip }, async () => {
  await using job = await new Job().startWorkload('refused', ['socket']);
  const made = spawnSync(STASIS, ['checkpoint', String(job.pid)], { maxBuffer: 1 << 26 });
  assert.equal(made.status, 1);
  const read = spawnSync(STASIS, ['inspect'], { input: made.stdout, encoding: 'utf8' });
  assert.equal(read.status, 1);
  assert.match(
    read.stderr,
    /the checkpoint that wrote it failed: checkpoint refused: 2 obstacles: .*fd \d+: a socket.*\(ERR_UNSUPPORTED\)/,
  );
});

let piped: Job;
before(() => {
  piped = new Job();
});
after(() => piped[Symbol.asyncDispose]());

test('pipes to somebody outside are recorded by key and given a new end', { skip }, async () => {
  const inner = [
    'echo $$ > pid; exec 7>&1 8>&2 >/dev/null 2>&1; echo begun >&7',
    'until [ -e stop ]; do sleep 0.01; done; echo done >&7; echo over >&8',
  ].join('; ');
  // Two pipes lead from the inner shell to two others outside.
  const script = `{ ${workload('launch')} /bin/sh -c '${inner}' 2>&3 | cat > collected; } 3>&1 | cat > errors`;
  piped.start('/bin/sh', ['-c', script]);
  await piped.until(
    () => readdirSync(piped.directory).includes('collected') && piped.read('collected') === 'begun\n',
    'begin',
  );
  const pid = Number(piped.read('pid'));
  await retry(() => checkpoint(pid, { output: piped.image, kill: true, force: true }));
  const { external } = await inspect(piped.image);
  assert.equal(external.length, 2);
  const [seven = '', eight = ''] = external;
  assert.match(seven, /^pipe:\[\d+\]$/);
  for (const fd of [7, 8]) {
    const wanted = new RegExp(
      `descriptor ${fd}: pipe:\\[\\d+\\] leads outside and has no new end; give it one with --attach`,
    );
    await assertRefused(() => restart({ input: piped.image }), RestartRefusedError, wanted);
  }
  const attach = { [seven]: piped.path('new end'), [eight]: 'null' };
  await assert.rejects(restart({ input: piped.image, attach: { ...attach, [eight]: '/no/such/file' } }), {
    code: 'ERR_USAGE',
  });
  await assert.rejects(restart({ input: piped.image, attach: { ...attach, other: 'null' } }), {
    message: 'nothing in the image has the key other',
  });
  writeFileSync(piped.path('new end'), '');
  const { wait } = await restart({ input: piped.image, attach });
  piped.stop();
  assert.deepEqual(await wait(), { kind: 'exited', status: 0 });
  assert.equal(piped.read('new end'), 'done\n');
});

test('a restart that fails, or is killed, leaves no process behind', { skip }, async (context) => {
  await using job = await new Job().startWorkload('survivor');
  const tids = await inspectTids(await checkpointed(job));
  const alive = (): number[] => tids.filter((tid) => readProcIfAlive(`/proc/${tid}/stat`) !== undefined);

  await context.test('a failure at any step', async () => {
    const steps = ['helper', 'processes', 'objects', 'memory', 'state', 'complete'];
    for (const step of steps) {
      for (const state of ['begin', 'end']) {
        const attempt = restart({
          input: job.image,
          onStep: (event) => {
            if (event.step === step && event.state === state) throw new Error('at a step');
          },
        });
        await assert.rejects(attempt, /at a step/);
        await job.until(() => alive().length === 0, `end of ${step} ${state}`);
      }
    }
  });

  await context.test('60 kills at random moments', async () => {
    let partly = 0;
    let took = 200;
    for (let early = 0; early < 60; ) {
      const begin = performance.now();
      const stasis = spawn(process.execPath, [STASIS, 'restart', '--detach', job.image], {
        stdio: ['ignore', 'pipe', 'ignore'],
      });
      const ended = new Promise<NodeJS.Signals | null>((resolve) =>
        stasis.on('exit', (_, signal) => resolve(signal)),
      );
      await sleep(took * (0.3 + Math.random() * 0.8));
      stasis.kill('SIGKILL');
      // One that came to its end tells how long a restart takes now.
      if ((await ended) === 'SIGKILL') early++;
      else took = performance.now() - begin;
      // What is killed takes a while to be gone.
      let left = alive();
      for (let i = 0; i < 100 && left.length > 0 && left.length < tids.length; i++) {
        await sleep(10);
        left = alive();
      }
      // Either all of the tree was released before the kill, and runs, or there is nothing of it.
      if (left.length === tids.length) assert.deepEqual(await lastingLeftovers(Math.min(...tids)), []);
      else if (left.length > 0) partly++;
      for (const tid of left) kill(tid);
      await job.until(() => alive().length === 0, `end after ${early} kills: ${left}`);
      job.restoreSnapshot();
    }
    assert.equal(partly, 0, 'kills that left a part of the tree');
  });
  assert.deepEqual(
    readdirSync('/tmp').filter((name) => name.startsWith(`.${basename(job.image)}`)),
    [],
  );
});

/** Workloads that map nothing any more once they are set up. */
for (const name of ['waiting', 'files', 'pipes']) {
  test(`${name}: /proc/PID/maps is as before`, { skip }, async () => {
    await using job = await new Job().startWorkload(name);
    await sleep(50);
    const before = mapsOf(job.pid);
    await checkpoint(job.pid, { output: job.image, kill: true });
    await job.end;
    const { pid, wait } = await restart({ input: job.image });
    assert.deepEqual(mapsOf(pid), before);
    job.stop();
    assert.equal(await job.result(), 'PASS');
    await wait();
  });
}

/** Neighbours that are alike may have been two mappings, or one; shared memory has a new inode. */
function mapsOf(pid: number): string[] {
  const lines: { end: bigint; kind: string; text: string }[] = [];
  for (const mapping of parseMappings(readProc(`/proc/${pid}/maps`))) {
    const { start, end, read, write, execute, shared, name, inode } = mapping;
    const kind = `${[read, write, execute, shared].map(Number).join('')} ${name}`;
    const previous = lines.at(-1);
    if (inode === 0n && previous?.end === start && previous.kind === kind) previous.end = end;
    else lines.push({ end, kind, text: `${start.toString(16)} ${mapping.offset}` });
  }
  return lines.map(({ end, kind, text }) => `${text} ${end.toString(16)} ${kind}`);
}

test('the same tree restarted again and again does not drift', { skip }, async () => {
  await using job = await new Job().startWorkload('survivor');
  // Until all of its threads are there.
  await sleep(200);
  await checkpoint(job.pid, { output: job.image, kill: true });
  await job.end;
  const first = await inspect(job.image);
  for (let round = 0; round < 10; round++) {
    const { pid, wait } = await restart({ input: job.image });
    const end = wait();
    await sleep(20);
    await checkpoint(pid, { output: job.image, kill: true, force: true });
    assert.deepEqual(await end, { kind: 'killed', signal: 9 });
  }
  const last = await inspect(job.image);
  assert.deepEqual(
    last.processes.map(({ pid, parent, threads, descriptors, mappings }) => [
      pid,
      parent,
      threads,
      descriptors.length,
      mappings.length,
    ]),
    first.processes.map(({ pid, parent, threads, descriptors, mappings }) => [
      pid,
      parent,
      threads,
      descriptors.length,
      mappings.length,
    ]),
  );
  const { wait } = await restart({ input: job.image });
  job.stop();
  assert.equal(await job.result(), 'PASS');
  await wait();
});

async function checkpointed(job: Job): Promise<string> {
  await sleep(50);
  await checkpoint(job.pid, { output: job.image, kill: true });
  await job.end;
  job.takeSnapshot();
  return job.image;
}

async function inspectTids(image: string): Promise<number[]> {
  const { processes } = await inspect(image);
  return processes.flatMap(({ threads }) => threads.map(({ tid }) => tid));
}

function kill(tid: number): void {
  try {
    process.kill(tid, 'SIGKILL');
  } catch (error) {
    if (!(error instanceof Error && 'code' in error && error.code === 'ESRCH')) throw error;
  }
}

/** The preamble of a later format, with a checksum that fits. */
function newerVersion(whole: Buffer): Buffer {
  const bytes = Buffer.from(whole);
  bytes.writeUInt32LE(99, 8);
  bytes.writeUInt32LE(crc32(bytes.subarray(0, 12)), 12);
  return bytes;
}

/** Tries again while the tree has, for a moment, what is not supported: a zombie, a vfork under way. */
async function retry<T>(attempt: () => Promise<T>): Promise<T> {
  for (let tries = 0; ; tries++) {
    try {
      return await attempt();
    } catch (error) {
      if (tries === 50 || !(error instanceof Error && 'code' in error && error.code === 'ERR_UNSUPPORTED'))
        throw error;
      await sleep(7);
    }
  }
}
