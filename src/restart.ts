import { closeSync, writeFileSync } from 'node:fs';
import { RestartFailedError, RestartRefusedError } from './errors.js';
import { openImage } from './image/input.js';
import { requirePrivileges } from './objects/privileges.js';
import type { VerifyContext } from './objects/slice.js';
import { type StepEvent, Steps, type StepTime } from './objects/steps.js';
import { type LoadedImage, loadImage } from './resources/loadImage.js';
import { type Attachments, OutsideEnds } from './resources/tree/attachments.js';
import { type BirthPlan, planBirths } from './resources/tree/births.js';
import { restartFailed, TreeRestart } from './resources/tree/restart.js';
import { takenPids, verifyImage } from './resources/tree/verify.js';
import { waitFor, waitInBackground } from './sys/process.js';
import { wait } from './sys/uapi.js';
import { decodeStatus } from './tracee/tracee.js';

export interface RestartOptions {
  /** A path, or a descriptor that is open for reading; a stream is read to its end first. */
  readonly input: string | number;
  /** New ends for what led outside, by key: `fd:N`, a path, or `null`. */
  readonly attach?: Attachments;
  /**
   * Restart a subtree in a pid namespace of its own, with its pids inside and a /proc that shows them. A container
   * gets one anyway.
   */
  readonly pidNamespace?: boolean;
  /** Put the processes into the control groups in which they were; default true. */
  readonly cgroups?: boolean;
  /** Restart though open or mapped files have changed. */
  readonly force?: boolean;
  readonly signal?: AbortSignal;
  readonly onStep?: (event: StepEvent) => void;
}

/** How a process ended. */
export type ExitStatus =
  | { readonly kind: 'exited'; readonly status: number }
  | { readonly kind: 'killed'; readonly signal: number };

export interface RestartReport {
  /** The root of the tree, which is a child of this process now, as this process sees it. */
  readonly pid: number;
  readonly processes: number;
  readonly threads: number;
  readonly pages: number;
  /** Size of the image. */
  readonly bytes: number;
  readonly steps: readonly StepTime[];
  /** What could not be brought back exactly, such as a hard limit. */
  readonly warnings: readonly string[];
  /** Resolves when the root has ended. Call it once; the root stays a zombie until then. */
  wait(): Promise<ExitStatus>;
}

/** How long the pids of a tree that was just ended may take to become free, milliseconds. */
const PIDS_FREE_TIMEOUT_MS = 2000;

/**
 * Restarts the tree of processes in an image: it goes on where it was, under the same pids. Nothing is
 * started before the whole image proved readable and the machine fit for it; when it fails afterwards,
 * nothing is left behind.
 *
 * Throws ImageError, RestartRefusedError (with everything that stands in the way), RestartFailedError,
 * UsageError, PermissionError, or the signal's reason.
 */
export async function restart(options: RestartOptions): Promise<RestartReport> {
  const steps = new Steps(options.onStep, options.signal);
  requirePrivileges('a restart');
  const fd = steps.run('open', () => openImage(options.input));
  try {
    const image = await steps.runAsync('read', () => loadImage(fd));
    const plan = planBirths(image.members);
    const { container, innerPids } = image.header;
    const newPidNamespace = container || innerPids || options.pidNamespace === true;
    if (!newPidNamespace) await waitForPids(image, plan, steps);
    const slots = slotsByFile(image);
    using outside = new OutsideEnds(image, slots, options.attach ?? {});
    steps.run('verify', () => {
      const obstacles = verifyImage(
        image,
        plan,
        verifyContext(options.force === true, slots, outside),
        newPidNamespace,
      );
      if (obstacles.length > 0) throw new RestartRefusedError(obstacles);
      outside.open();
    });
    using tree = new TreeRestart(image, plan, fd, outside, {
      newPidNamespace,
      cgroups: options.cgroups !== false,
    });
    await buildTree(tree, image.header.restartMarker, steps);
    return report(image, tree, steps);
  } finally {
    closeSync(fd);
  }
}

async function buildTree(tree: TreeRestart, marker: string, steps: Steps): Promise<void> {
  try {
    steps.run('helper', () => tree.startHelper());
    steps.run('processes', () => tree.makeProcesses());
    steps.run('objects', () => tree.openObjects());
    await steps.breathe();
    await steps.runAsync('memory', () => tree.buildMemory());
    await steps.breathe();
    steps.run('settle', () => tree.settle());
    steps.run('state', () => tree.restoreState());
    steps.run('complete', () => tree.complete());
    if (marker !== '') steps.run('mark', () => makeMarker(marker));
    steps.run('release', () => tree.release());
  } catch (error) {
    throw restartFailed(error);
  }
}

/** The program finds it when it goes on. */
function makeMarker(path: string): void {
  try {
    writeFileSync(path, `restarted ${new Date().toISOString()}\n`);
  } catch (cause) {
    throw new RestartFailedError(`${path} can't be made`, {
      reason: cause instanceof Error ? cause.message : String(cause),
      advice: 'the program was to find that file: make its directory, or make room',
      cause,
    });
  }
}

/** An image that was made with --kill may be read before its processes are all gone. */
async function waitForPids(image: LoadedImage, plan: BirthPlan, steps: Steps): Promise<void> {
  if (!image.header.killed) return;
  const deadline = Date.now() + PIDS_FREE_TIMEOUT_MS;
  await steps.runAsync('wait', async () => {
    while (takenPids(image, plan).length > 0 && Date.now() < deadline) {
      await new Promise((resolve) => setTimeout(resolve, 5));
      await steps.breathe();
    }
  });
}

function slotsByFile(image: LoadedImage): ReadonlyMap<number, readonly number[]> {
  const slots = new Map<number, Set<number>>();
  for (const { files } of image.processes) {
    for (const { fd, file } of files.descriptors) {
      const known = slots.get(file);
      if (known === undefined) slots.set(file, new Set([fd]));
      else known.add(fd);
    }
  }
  return new Map([...slots].map(([file, fds]) => [file, [...fds].sort((a, b) => a - b)]));
}

function verifyContext(
  force: boolean,
  slots: ReadonlyMap<number, readonly number[]>,
  outside: OutsideEnds,
): VerifyContext {
  return {
    force,
    isAttached: (key) => outside.isAttached(key),
    slotsOf: (objref) => slots.get(objref) ?? [],
  };
}

function report(image: LoadedImage, tree: TreeRestart, steps: Steps): RestartReport {
  const { root: pid, init } = tree.pids;
  let pages = 0;
  for (const records of image.pages.values()) {
    for (const { runs } of records) for (const run of runs) pages += run.pages;
  }
  return {
    pid,
    processes: image.processes.length,
    threads: image.processes.reduce((sum, { threads }) => sum + threads.length, 0),
    pages,
    bytes: image.size,
    steps: steps.times,
    warnings: tree.warnings,
    async wait() {
      const status = await waitInBackground(pid);
      if (init !== undefined) reapLater(init);
      if (status === 'gone') return { kind: 'exited', status: 0 };
      const end = decodeStatus(status);
      return end.kind === 'killed' ? end : { kind: 'exited', status: end.kind === 'exited' ? end.status : 0 };
    },
  };
}

/** How often somebody looks whether the init of a pid namespace has ended, milliseconds. */
const REAP_INTERVAL_MS = 200;

/** It ends when all who were left to it have: nobody waits for that. */
function reapLater(init: number): void {
  const timer = setInterval(() => {
    if (waitFor(init, wait.WNOHANG) !== 'none') clearInterval(timer);
  }, REAP_INTERVAL_MS);
  timer.unref();
}
