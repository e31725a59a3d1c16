import { hostname, release } from 'node:os';
import { type Obstacle, StasisError, UnsupportedError } from './errors.js';
import { FrozenTree } from './freezer/freeze.js';
import { recordType } from './image/format.js';
import { HeaderSchema } from './image/generated/image_pb.js';
import { ImageOutput } from './image/output.js';
import { ImageWriter } from './image/writer.js';
import { requirePrivileges } from './objects/privileges.js';
import { type StepEvent, Steps, type StepTime } from './objects/steps.js';
import { refuseOwnTree, refuseTarget } from './objects/target.js';
import { readVdso } from './objects/vdso.js';
import { TreeCheckpoint } from './resources/tree/checkpoint.js';
import { PAGE_SIZE } from './sys/uapi.js';
import { VERSION } from './version.js';

export interface CheckpointOptions {
  /** A path, or a descriptor that is open for writing. */
  readonly output: string | number;
  /** End the processes when their image is complete. */
  readonly kill?: boolean;
  /** Replace a file of that name. */
  readonly force?: boolean;
  /** How long to wait for a task that can't be interrupted, milliseconds; default 10,000. */
  readonly timeoutMs?: number;
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
  /** How long the processes were held, milliseconds. */
  readonly frozenMs: number;
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
  refuseOwnTree(pid);
  using output =
    typeof options.output === 'number'
      ? ImageOutput.descriptor(options.output, `descriptor ${options.output}`)
      : ImageOutput.file(options.output, options.force === true);
  await using writer = new ImageWriter(output.fd, output.name);
  try {
    return await saveTree(pid, options, steps, writer, output);
  } catch (error) {
    // Whoever reads a stream learns why it ends. A file is not there at all.
    if (typeof options.output === 'number' && error instanceof StasisError && error.code !== 'ERR_OUTPUT') {
      await writer.error(
        error.code,
        [error.message, error.reason?.split('\n').join('; ')].filter(Boolean).join(': '),
      );
    }
    throw error;
  }
}

async function saveTree(
  pid: number,
  options: CheckpointOptions,
  steps: Steps,
  writer: ImageWriter,
  output: ImageOutput,
): Promise<CheckpointReport> {
  writeHeader(pid, options, writer);
  const heldAt = performance.now();
  const timeoutMs = options.timeoutMs ?? DEFAULT_TIMEOUT_MS;
  using frozen = new FrozenTree(pid, { timeoutMs });
  steps.run('freeze', () => frozen.freeze());
  using tree = new TreeCheckpoint(frozen);
  steps.run('collect', () => tree.collect());
  const obstacles: Obstacle[] = steps.run('examine', () => tree.refuse());
  if (obstacles.length > 0) throw new UnsupportedError(obstacles);
  steps.run('ask', () => tree.ask());
  steps.run('save', () => tree.save(writer));
  const pages = await steps.runAsync('pages', () => tree.savePages(writer, () => steps.breathe()));
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
    frozenMs: (options.kill ? performance.now() : releasedAt) - heldAt,
    steps: steps.times,
  };
}

function writeHeader(pid: number, options: CheckpointOptions, writer: ImageWriter): void {
  const vdso = readVdso();
  writer.record(recordType.header, 0, HeaderSchema, {
    stasisVersion: VERSION,
    architecture: 'x86_64',
    kernelRelease: release(),
    hostname: hostname(),
    createdAt: BigInt(Date.now()),
    rootPid: pid,
    killed: options.kill === true,
    pageSize: PAGE_SIZE,
    vdsoSize: vdso?.size ?? 0,
    vdsoSha256: vdso?.sha256 ?? new Uint8Array(),
  });
}
