import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import {
  closeSync,
  cpSync,
  existsSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Walker } from '../../src/bpf/walk.js';
import { BpfUnavailableError, KernelTypesError, SystemCallError } from '../../src/errors.js';
import { readLinkIfAlive, readNumbersIfAlive, readProcIfAlive } from '../../src/procfs/read.js';
import { parseStat } from '../../src/procfs/stat.js';
import { parseStatus } from '../../src/procfs/status.js';
import { listTree } from '../../src/procfs/tree.js';

const ROOT = join(dirname(fileURLToPath(import.meta.url)), '..', '..', '..');
const BINARIES = join(ROOT, 'dist', 'workloads');
const READY_TIMEOUT_MS = 20_000;

/** The command line, as users run it. */
export const STASIS = join(ROOT, 'dist', 'stasis.cjs');

/** The path of a workload, which `scripts/build.js` has compiled. */
export function workload(name: string): string {
  return join(BINARIES, name);
}

/** A program that runs in a directory of its own, in a session of its own, until it is ended here. */
export class Job implements AsyncDisposable {
  readonly directory = mkdtempSync(join(tmpdir(), 'stasis-test-'));
  private readonly snapshot = `${this.directory}.snapshot`;
  private child: ChildProcess | undefined;
  private ended: Promise<number | string> = Promise.resolve(0);
  private stopsItself = false;
  private root: number | undefined;

  /** Starts a program; its standard input is empty, its output goes to the files `out` and `err`. */
  start(command: string, args: readonly string[] = [], environment: Record<string, string> = {}): this {
    const out = openSync(this.path('out'), 'a');
    const err = openSync(this.path('err'), 'a');
    const child = spawn(workload('launch'), [command, ...args], {
      cwd: this.directory,
      stdio: ['ignore', out, err],
      env: { ...process.env, ...environment },
    });
    for (const fd of [out, err]) closeSync(fd);
    this.child = child;
    this.ended = new Promise((resolve) => {
      child.on('exit', (code, signal) => resolve(code ?? signal ?? 'unknown'));
    });
    return this;
  }

  /** Starts a workload and waits until it is set up. */
  async startWorkload(name: string, args: readonly string[] = [], container = false): Promise<this> {
    try {
      if (container) {
        this.start(workload('contain'), [workload(name), ...args]);
        // It is made before it is written.
        await this.until(() => existsSync(this.path('root')) && this.read('root') !== '', 'container');
        this.root = Number(this.read('root'));
      } else this.start(workload(name), args);
      this.stopsItself = name === 'stopped';
      await this.until(() => existsSync(this.path('ready')), 'ready');
      return this;
    } catch (error) {
      // Nobody has it yet who could end it.
      await this[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** The root of its tree: of a container, its init. */
  get pid(): number {
    const pid = this.root ?? this.child?.pid;
    if (pid === undefined) throw new Error('the job was not started');
    return pid;
  }

  /** Resolves when the program that was started has ended: its status, or the signal that killed it. */
  get end(): Promise<number | string> {
    return this.ended;
  }

  path(name: string): string {
    return join(this.directory, name);
  }

  /** Where an image of the job is put: outside of its directory, inside what is cleaned up. */
  get image(): string {
    return `${this.directory}.stasis`;
  }

  read(name: string): string {
    return readFileSync(this.path(name), 'utf8');
  }

  readBytes(name: string): Buffer {
    return readFileSync(this.path(name));
  }

  /** Keeps the directory as it is now, with all times. */
  takeSnapshot(): void {
    rmSync(this.snapshot, { recursive: true, force: true });
    execFileSync('cp', ['-a', this.directory, this.snapshot]);
  }

  /** Puts the directory back as it was, under the same path. */
  restoreSnapshot(): void {
    for (const name of execFileSync('ls', ['-A', this.directory], { encoding: 'utf8' }).split('\n')) {
      if (name !== '') rmSync(this.path(name), { recursive: true });
    }
    cpSync(this.snapshot, this.directory, { recursive: true, preserveTimestamps: true });
    execFileSync('cp', ['-a', `${this.snapshot}/.`, this.directory]);
  }

  /** Tells a workload to verify for the last time and end. */
  stop(): void {
    writeFileSync(this.path('stop'), '');
  }

  /** Waits until a workload has told its result. A copy of it may be about to tell it again. */
  async result(): Promise<string> {
    let result = '';
    const isTold = (): boolean => {
      if (existsSync(this.path('result'))) result = this.read('result');
      return result !== '';
    };
    await this.until(isTold, 'result');
    return result;
  }

  async until(condition: () => boolean, what: string): Promise<void> {
    const deadline = Date.now() + READY_TIMEOUT_MS;
    while (!condition()) {
      if (existsSync(this.path('result')) && this.read('result').startsWith('FAIL'))
        throw new Error(this.read('result'));
      if (Date.now() > deadline)
        throw new Error(`${basename(this.directory)}: no ${what} in time: ${treeText(this.pid)}`);
      await sleep(2);
    }
  }

  /** It was restarted: that is its root now. */
  restarted(root: number): void {
    this.root = root;
  }

  /** As {@link lastingLeftovers}, for all of it, before or after a restart. */
  leftovers(): Promise<string[]> {
    return lastingLeftovers(this.pid, this.stopsItself);
  }

  /** Ends what the job started and is still there, by pid: whatever works in the job's own directory. */
  async [Symbol.asyncDispose](): Promise<void> {
    for (const pid of readNumbersIfAlive('/proc') ?? []) {
      if (workingDirectory(pid)?.startsWith(this.directory)) killIfAlive(pid);
    }
    for (const path of [this.directory, this.snapshot, this.image]) {
      rmSync(path, { recursive: true, force: true });
    }
  }
}

/** What shows that a checkpoint has not let a task go as it was. Some jobs stop processes of theirs themselves. */
export function leftovers(root: number, stopsItself = false): string[] {
  const problems: string[] = [];
  for (const { pid, threads } of listTree(root)) {
    for (const tid of threads) {
      const status = readProcIfAlive(`/proc/${pid}/task/${tid}/status`);
      const stat = readProcIfAlive(`/proc/${pid}/task/${tid}/stat`);
      if (status === undefined || stat === undefined) continue;
      const { tracer, blockedSignals } = parseStatus(status);
      const { state } = parseStat(stat);
      if (tracer !== 0) problems.push(`${tid} is traced by ${tracer}`);
      if (state === 't' || (state === 'T' && !stopsItself)) problems.push(`${tid} is stopped`);
      if (blockedSignals > 0x7fff_ffff_ffff_f000n)
        problems.push(`${tid} blocks ${blockedSignals.toString(16)}`);
    }
  }
  return problems;
}

/**
 * As {@link leftovers}, after whatever was under way had time to come to its end: a task whose tracer died
 * finishes the program that it is in, and the C library blocks signals for moments of its own.
 */
export async function lastingLeftovers(root: number, stopsItself = false): Promise<string[]> {
  let problems = leftovers(root, stopsItself);
  for (let attempt = 0; attempt < 300 && problems.length > 0; attempt++) {
    await sleep(10);
    problems = leftovers(root, stopsItself);
  }
  return problems;
}

/** All threads of a tree. */
export function threadsOf(root: number): number[] {
  return listTree(root).flatMap(({ pid }) => readNumbersIfAlive(`/proc/${pid}/task`) ?? []);
}

export function sleep(milliseconds: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}

/** Whether a program is on this machine. */
export function findProgram(name: string): string | undefined {
  return (process.env.PATH ?? '')
    .split(':')
    .map((directory) => join(directory, name))
    .find((path) => existsSync(path));
}

/** The reason for which a test that runs as root on the real kernel is skipped; false when it is not. */
export const skipUnlessRoot: string | false = process.getuid?.() === 0 ? false : 'needs root';

function treeText(root: number): string {
  return listTree(root)
    .map(
      ({ pid, threads }) =>
        `${pid} (${threads.length} threads) ${readProcIfAlive(`/proc/${pid}/wchan`) ?? ''}`,
    )
    .join('; ');
}

/** Undefined for a process that has ended, or that nobody may look at. */
function workingDirectory(pid: number): string | undefined {
  try {
    return readLinkIfAlive(`/proc/${pid}/cwd`);
  } catch (error) {
    if (error instanceof SystemCallError && error.errnoName === 'EACCES') return undefined;
    throw error;
  }
}

function killIfAlive(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch (error) {
    if (!(error instanceof Error && 'code' in error && error.code === 'ESRCH')) throw error;
  }
}

/** As {@link skipUnlessRoot}, for tests that compare the kernel's own counts. */
export const skipWithoutBpf: string | false = skipUnlessRoot || reasonWithoutBpf();

function reasonWithoutBpf(): string | false {
  try {
    Walker.load();
    return false;
  } catch (error) {
    if (error instanceof BpfUnavailableError || error instanceof KernelTypesError) return error.message;
    throw error;
  }
}
