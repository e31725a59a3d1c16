import { fstatSync, rmSync } from 'node:fs';
import { hostname, release } from 'node:os';
import { resolve } from 'node:path';
import { type Leak, LeakError, type Obstacle, StasisError, TargetError, UnsupportedError } from './errors.js';
import { FrozenTree } from './freezer/freeze.js';
import type { FreezeWay } from './freezer/groupFreezer.js';
import { recordType } from './image/format.js';
import { HeaderSchema } from './image/generated/image_pb.js';
import { ImageOutput } from './image/output.js';
import { ImageWriter } from './image/writer.js';
import type { NotVerified } from './objects/census.js';
import { type CensusMethod, makeCensusTaker } from './objects/censusTaker.js';
import { rehearseReading } from './objects/frozenProcess.js';
import { HeldTasks } from './objects/heldTasks.js';
import { requirePrivileges } from './objects/privileges.js';
import { type StepEvent, Steps, type StepTime } from './objects/steps.js';
import { isBelow, isPidNamespaceInit, refuseSelf, refuseTarget } from './objects/target.js';
import { readVdso } from './objects/vdso.js';
import { readProc } from './procfs/read.js';
import { parseStatus } from './procfs/status.js';
import { Containment } from './resources/containment/containment.js';
import { blocking, type Findings, LeakPolicy } from './resources/containment/judge.js';
import { lookAtRunning } from './resources/containment/running.js';
import { TreeCheckpoint } from './resources/tree/checkpoint.js';
import { PAGE_SIZE } from './sys/uapi.js';
import { VERSION } from './version.js';

export interface CheckpointOptions {
  /** A path, or a descriptor that is open for writing. */
  readonly output: string | number;
  /**
   * A file by which the program tells whether it was restarted: it is removed now, and made by every restart of
   * the image before the program goes on.
   */
  readonly restartMarker?: string;
  /** End the processes when their image is complete. */
  readonly kill?: boolean;
  /** Replace a file of that name. */
  readonly force?: boolean;
  /** How long to wait for a task that can't be interrupted, milliseconds; default 10,000. */
  readonly timeoutMs?: number;
  /**
   * How to stop the tree: in a control group, if it has one of its own, or by ptrace alone. By default what is
   * possible, in the order cgroup2, cgroup1, ptrace.
   */
  readonly freezer?: FreezeWay;
  /** Refuse a root that is not the init of a pid namespace. */
  readonly container?: boolean;
  /**
   * What to do about leaks: by default those of a container refuse it, and those of a subtree are reported.
   * With `ignore` nobody looks.
   */
  readonly leaks?: 'refuse' | 'report' | 'ignore';
  /** Leaks that are accepted: a kind, `kind:name`, `kind:pid:fd`, or `stdio`. */
  readonly allowLeaks?: readonly string[];
  /** How to look for leaks: by BPF, by `/proc` and kcmp(2), or by what is possible. */
  readonly leakMethod?: CensusMethod;
  readonly signal?: AbortSignal;
  readonly onStep?: (event: StepEvent) => void;
}

export interface CheckpointReport {
  readonly pid: number;
  readonly processes: number;
  readonly threads: number;
  /** Pages saved. */
  readonly pages: number;
  /** Size of the image. */
  readonly bytes: number;
  /** How the tree was stopped. */
  readonly freezer: FreezeWay;
  /** How long the processes were held, milliseconds. */
  readonly frozenMs: number;
  /** Everything that crosses the border, harmless and accepted ones included; empty where nobody looked. */
  readonly leaks: readonly Leak[];
  readonly notVerified: readonly NotVerified[];
  readonly steps: readonly StepTime[];
}

const DEFAULT_TIMEOUT_MS = 10_000;

/**
 * Saves the tree of processes below `pid` as an image. The processes go on as if nothing had happened,
 * whatever happens here, unless `kill` is set and the image is complete.
 *
 * Throws TargetError, PermissionError, FreezeError, UnsupportedError (with everything that stands in the
 * way), OutputError, or the signal's reason.
 */
export async function checkpoint(pid: number, options: CheckpointOptions): Promise<CheckpointReport> {
  const steps = new Steps(options.onStep, options.signal);
  requirePrivileges('a checkpoint');
  refuseTarget(pid);
  refuseSelf(pid);
  refuseOwnPipe(pid, options.output);
  const container = isPidNamespaceInit(pid);
  if (options.container === true && !container) {
    throw new TargetError(pid, `process ${pid} is no container`, {
      reason: 'it is not the init of a pid namespace of its own',
      advice: 'name the init of the container, or leave out --container for a subtree',
    });
  }
  const mode = options.leaks ?? (container ? 'refuse' : 'report');
  const border = mode === 'ignore' ? undefined : await approach(pid, mode, options, steps);
  using output =
    typeof options.output === 'number'
      ? ImageOutput.descriptor(options.output, `descriptor ${options.output}`)
      : ImageOutput.file(options.output, options.force === true);
  await using writer = new ImageWriter(output.fd, output.name);
  try {
    return await saveTree(pid, options, steps, writer, output, border);
  } catch (error) {
    // Whoever reads a stream learns why it ends. A file is not there at all.
    if (typeof options.output === 'number' && error instanceof StasisError && error.code !== 'ERR_OUTPUT') {
      await writer.error(
        error.code,
        [error.message, error.reason?.split('\n').join('; ')].filter(Boolean).join(': '),
        error instanceof LeakError ? error.errno : 0,
      );
    }
    throw error;
  }
}

/** Who reads the image from a pipe may be held as well, and would be waited for in vain. */
function refuseOwnPipe(pid: number, output: string | number): void {
  if (typeof output === 'string' || !fstatSync(output).isFIFO() || !isBelow(pid)) return;
  throw new TargetError(pid, `process ${pid} can't be saved into a pipe from inside`, {
    reason: 'stasis runs below it, and who reads the pipe may be held too',
    advice: 'write the image to a file with -o FILE',
  });
}

/** What is to be known of the border between the tree and the outside. */
interface Border {
  /** Compares the held tree with the kernel's counts; undefined where leaks are only reported. */
  readonly containment: Containment | undefined;
  /** Whether leaks refuse the checkpoint. */
  readonly refuses: boolean;
  /** What was found while the tree ran; undefined where it will be proven. */
  readonly seen: Findings | undefined;
}

/**
 * Prepares for looking at the held tree. Leaks that are only reported are looked for now, while it runs: it is
 * held no longer for that.
 */
async function approach(
  pid: number,
  mode: 'refuse' | 'report',
  options: CheckpointOptions,
  steps: Steps,
): Promise<Border> {
  const policy = new LeakPolicy(options.allowLeaks ?? []);
  const taker = steps.run('prepare', () => makeCensusTaker(options.leakMethod ?? 'auto'));
  const refuses = mode === 'refuse';
  if (refuses || policy.allowsAny) {
    return { containment: new Containment(taker, pid, policy), refuses, seen: undefined };
  }
  const { findings } = await lookAtRunning(taker, pid, policy, steps);
  return { containment: undefined, refuses, seen: findings };
}

async function saveTree(
  pid: number,
  options: CheckpointOptions,
  steps: Steps,
  writer: ImageWriter,
  output: ImageOutput,
  border: Border | undefined,
): Promise<CheckpointReport> {
  if (options.restartMarker !== undefined) rmSync(options.restartMarker, { force: true });
  writeHeader(pid, options, writer);
  // A census goes through all tasks of the machine: it is taken of a held tree only where it is needed.
  const containment = border?.containment;
  const held = steps.run('load', () => HeldTasks.prepare());
  steps.run('rehearse', () => {
    rehearseReading(pid);
    containment?.rehearse();
  });
  const heldAt = performance.now();
  const timeoutMs = options.timeoutMs ?? DEFAULT_TIMEOUT_MS;
  const ways = options.freezer === undefined ? {} : { ways: [options.freezer] };
  using frozen = new FrozenTree(pid, { timeoutMs, ...ways });
  steps.run('freeze', () => frozen.freeze());
  using tree = new TreeCheckpoint(frozen, held, containment);
  steps.run('collect', () => tree.collect());
  const found = containment ? steps.run('compare', () => containment.compare()) : border?.seen;
  const leaks = [...(found?.leaks ?? [])];
  const obstacles: Obstacle[] = steps.run('examine', () => tree.refuse());
  const refused = border?.refuses ? blocking({ leaks }) : [];
  if (refused.length > 0) throw new LeakError(refused, obstacles);
  if (obstacles.length > 0) throw new UnsupportedError(obstacles);
  /** What changed since it was collected, though nothing inside ran. */
  const prove = (step: string): void => {
    if (containment === undefined) return;
    const changes = steps.run('prove', () => containment.changes(step));
    if (border?.refuses && changes.length > 0) throw new LeakError(changes);
    leaks.push(...changes);
  };
  steps.run('ask', () => tree.ask());
  steps.run('save', () => tree.save(writer));
  // Where something is shared after all, what others change meanwhile is found where it happened.
  if (leaks.some(({ harmless }) => !harmless)) prove('save');
  const pages = await steps.runAsync('pages', () => tree.savePages(writer, () => steps.breathe()));
  prove('pages');
  if (!options.kill) steps.run('release', () => frozen[Symbol.dispose]());
  const releasedAt = performance.now();
  steps.run('complete', () => {
    writer.tail();
    output.commit();
  });
  if (options.kill) steps.run('kill', () => frozen.kill());
  return {
    pid,
    processes: tree.processes.length,
    threads: tree.processes.reduce((sum, { threads }) => sum + threads.length, 0),
    pages,
    bytes: writer.size,
    freezer: frozen.way,
    frozenMs: (options.kill ? performance.now() : releasedAt) - heldAt,
    leaks,
    notVerified: found?.notVerified ?? [],
    steps: steps.times,
  };
}

function writeHeader(pid: number, options: CheckpointOptions, writer: ImageWriter): void {
  const pids = parseStatus(readProc(`/proc/${pid}/status`)).namespacePids;
  const vdso = readVdso();
  writer.record(recordType.header, 0, HeaderSchema, {
    stasisVersion: VERSION,
    architecture: 'x86_64',
    kernelRelease: release(),
    hostname: hostname(),
    createdAt: BigInt(Date.now()),
    rootPid: pids.at(-1) ?? pid,
    container: isPidNamespaceInit(pid),
    innerPids: pids.length > 1,
    restartMarker: options.restartMarker === undefined ? '' : resolve(options.restartMarker),
    killed: options.kill === true,
    pageSize: PAGE_SIZE,
    vdsoSize: vdso?.size ?? 0,
    vdsoSha256: vdso?.sha256 ?? new Uint8Array(),
  });
}
