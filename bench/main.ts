/** Measures checkpoint and restart, and CRIU beside them where `CRIU` names its command. Run as root. */
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Walker } from '../src/bpf/walk.js';
import type { CheckpointReport } from '../src/checkpoint.js';
import { inspect } from '../src/inspect.js';
import { findLeaks } from '../src/leaks.js';
import { tableText } from '../src/present/text.js';
import { listTree } from '../src/procfs/tree.js';
import { Job, STASIS } from '../test/roundtrip/job.js';

const CRIU = process.env.CRIU;
const RUNS = Number(process.env.RUNS ?? 5);
const GIGABYTE_MIB = 1024;
const CURVE = [1, 10, 100, 300, 1000];
const LEAK_CURVE = [100, 1000, 5000, 20_000];

interface Measurement {
  readonly what: string;
  readonly value: number;
  readonly unit: string;
  /** What it is to stay below, where there is such a limit. */
  readonly limit?: number;
}

const results: Measurement[] = [];

if (process.argv.includes('--curve')) await curve();
else if (process.argv.includes('--leaks')) await leakDetection();
else if (process.argv.includes('--one'))
  await one('one small process', 'many', '0', { frozen: 6, checkpoint: 120, restart: 120 });
else {
  add(
    'the start of Node.js',
    median(Array.from({ length: RUNS }, () => timed(() => execFileSync(process.execPath, ['-e', '0'])))),
  );
  await one('one small process', 'many', '0', { frozen: 6, checkpoint: 120, restart: 120 });
  await one('201 small processes', 'many', '200', { frozen: 300, restart: 400 });
  await gigabyte();
  await leakDetection();
  await curve();
}
print();

/** Median times of whole commands, and of being held. */
async function one(
  name: string,
  program: string,
  argument: string,
  limits: { readonly frozen?: number; readonly checkpoint?: number; readonly restart?: number },
): Promise<void> {
  const times = { frozen: [] as number[], checkpoint: [] as number[], restart: [] as number[] };
  await using job = await new Job().startWorkload(program, [argument]);
  const { pid } = job;
  for (let run = 0; run < RUNS; run++) {
    // The one goes on, and is held as short as can be; the other is ended.
    const held = command(['checkpoint', '--json', '--force', '-o', job.image, String(pid)]);
    times.frozen.push((JSON.parse(held.errors) as CheckpointReport).frozenMs);
    times.checkpoint.push(held.milliseconds);
    command(['checkpoint', '--force', '--kill', '-o', job.image, String(pid)]);
    if (run === 0) await job.end;
    await gone(pid);
    times.restart.push(command(['restart', '--detach', job.image]).milliseconds);
  }
  for (const what of ['frozen', 'checkpoint', 'restart'] as const)
    add(`${name}: ${what}`, median(times[what]), limits[what]);
  if (CRIU !== undefined) criu(name, pid, job.directory);
}

/** A gigabyte, against dd writing and reading the same bytes on the same file system. */
async function gigabyte(): Promise<void> {
  const times = {
    checkpoint: [] as number[],
    restart: [] as number[],
    write: [] as number[],
    read: [] as number[],
  };
  await using job = await new Job().startWorkload('big', [String(GIGABYTE_MIB)]);
  const { pid } = job;
  const copy = `${job.image}.dd`;
  for (let run = 0; run < Math.min(RUNS, 3); run++) {
    rmSync(job.image, { force: true });
    times.checkpoint.push(command(['checkpoint', '--kill', '-o', job.image, String(pid)]).milliseconds);
    if (run === 0) await job.end;
    await gone(pid);
    rmSync(copy, { force: true });
    times.write.push(
      timed(() => execFileSync('dd', [`if=${job.image}`, `of=${copy}`, 'bs=1M'], { stdio: 'ignore' })),
    );
    rmSync(copy, { force: true });
    times.read.push(
      timed(() =>
        execFileSync('dd', [`if=${job.image}`, 'of=/dev/shm/stasis-bench', 'bs=1M'], { stdio: 'ignore' }),
      ),
    );
    rmSync('/dev/shm/stasis-bench');
    times.restart.push(command(['restart', '--detach', job.image]).milliseconds);
  }
  const size = statSync(job.image).size / (1 << 20);
  add(`1 GB: checkpoint (${size.toFixed(0)} MiB)`, median(times.checkpoint), 1.2 * median(times.write));
  add('1 GB: dd writes the same', median(times.write));
  add('1 GB: restart', median(times.restart), 1.2 * median(times.read) + 100);
  add('1 GB: dd reads the image into memory', median(times.read));
  if (CRIU !== undefined) criu('1 GB', pid, job.directory);
}

/** What looking for leaks takes: the command, what it adds to the time held, and how it grows. */
async function leakDetection(): Promise<void> {
  {
    await using job = await new Job().startWorkload('many', ['99']);
    const looks: number[] = [];
    const starts: number[] = [];
    for (let run = 0; run < 2 * RUNS; run++) {
      starts.push(timed(() => execFileSync(process.execPath, ['-e', '0'])));
      looks.push(command(['leaks', String(job.pid)]).milliseconds);
    }
    add('leaks of 100 processes: beyond the start of Node.js', median(looks) - median(starts), 60);
  }
  {
    await using job = await new Job().startWorkload('many', ['200']);
    const held = { refuse: [] as number[], ignore: [] as number[] };
    for (let run = 0; run < 2 * RUNS; run++) {
      for (const leaks of ['refuse', 'ignore'] as const) {
        const { errors } = command([
          'checkpoint',
          '--json',
          '--leaks',
          leaks,
          '--force',
          '-o',
          job.image,
          String(job.pid),
        ]);
        held[leaks].push((JSON.parse(errors) as CheckpointReport).frozenMs);
      }
    }
    add('leaks of 201 processes: added to the time held', median(held.refuse) - median(held.ignore), 25);
  }
  for (const count of LEAK_CURVE) {
    await using job = await new Job().startWorkload('many', [String(count - 1)]);
    const walks: number[] = [];
    const verdicts: { all: number[]; one: number[] } = { all: [], one: [] };
    const walker = Walker.load();
    const child = listTree(job.pid).at(-1)?.pid ?? job.pid;
    for (let run = 0; run < RUNS; run++) {
      walks.push(timed(() => walker.walk()));
      for (const [scope, pid] of [
        ['all', job.pid],
        ['one', child],
      ] as const) {
        const { steps } = await findLeaks(pid);
        const look = steps.filter(({ step }) => step === 'walk' || step === 'judge').slice(0, 2);
        verdicts[scope].push(look.reduce((sum, { milliseconds }) => sum + milliseconds, 0));
      }
    }
    const last = count === LEAK_CURVE.at(-1);
    add(`${count} processes: walk`, median(walks), last ? 500 : undefined);
    add(`${count} processes: walk and verdict, all inside`, median(verdicts.all), last ? 1000 : undefined);
    add(`${count} processes: walk and verdict, one inside`, median(verdicts.one), last ? 1000 : undefined);
  }
}

/** What a process costs, from one to a thousand of them. */
async function curve(): Promise<void> {
  for (const count of CURVE) {
    await using job = await new Job().startWorkload('many', [String(count - 1)]);
    const held = command(['checkpoint', '--json', '-o', job.image, String(job.pid)]);
    const report = JSON.parse(held.errors) as CheckpointReport;
    const { processes } = await inspect(job.image);
    const mappings = processes.reduce((sum, { mappings: own }) => sum + own.length, 0);
    command(['checkpoint', '--force', '--kill', '-o', job.image, String(job.pid)]);
    await job.end;
    await gone(job.pid);
    const restarted = command(['restart', '--detach', job.image]);
    add(`${count} processes: frozen, each`, report.frozenMs / count);
    add(`${count} processes: frozen, each mapping`, report.frozenMs / mappings);
    add(`${count} processes: restart, each`, restarted.milliseconds / count);
  }
}

function criu(name: string, pid: number, directory: string): void {
  const images = mkdtempSync(join(tmpdir(), 'stasis-criu-'));
  try {
    mkdirSync(images, { recursive: true });
    const dump = ['dump', '-t', String(pid), '-D', images, '-v0'];
    add(
      `${name}: CRIU dump`,
      timed(() => execFileSync(CRIU ?? 'criu', dump, { cwd: directory })),
    );
    const restore = ['restore', '-d', '-D', images, '-v0'];
    add(
      `${name}: CRIU restore`,
      timed(() => execFileSync(CRIU ?? 'criu', restore, { cwd: directory })),
    );
  } finally {
    rmSync(images, { recursive: true });
  }
}

function command(args: readonly string[]): { milliseconds: number; errors: string } {
  const begin = performance.now();
  const { status, stderr } = spawnSync(process.execPath, [STASIS, ...args], { encoding: 'utf8' });
  const milliseconds = performance.now() - begin;
  if (status !== 0) throw new Error(`stasis ${args.join(' ')}: ${stderr}`);
  return { milliseconds, errors: stderr };
}

/** Waits until no task of a tree is left, its zombies included. */
async function gone(pid: number): Promise<void> {
  while (spawnSync('kill', ['-0', String(pid)]).status === 0)
    await new Promise((resolve) => setTimeout(resolve, 5));
}

function timed(work: () => unknown): number {
  const begin = performance.now();
  work();
  return performance.now() - begin;
}

function median(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[values.length >> 1] ?? 0;
}

function add(what: string, value: number, limit?: number): void {
  results.push({ what, value, unit: 'ms', ...(limit === undefined ? {} : { limit }) });
}

function print(): void {
  const rows = results.map(({ what, value, unit, limit }) => [
    what,
    value.toFixed(2),
    unit,
    limit === undefined ? '' : `${value <= limit ? 'within' : 'OVER'} ${limit.toFixed(0)}`,
  ]);
  process.stdout.write(`${tableText(rows, [1])}\n`);
  const path = process.env.JSON_FILE;
  if (path === undefined) process.stdout.write(`${JSON.stringify(results)}\n`);
  else writeFileSync(path, JSON.stringify(results, null, 2));
}
