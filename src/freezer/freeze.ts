import { FreezeError, TargetError } from '../errors.js';
import { refuseTarget } from '../objects/target.js';
import { commandOf } from '../procfs/describe.js';
import { readProcIfAlive } from '../procfs/read.js';
import { parseStat } from '../procfs/stat.js';
import { parseStatus } from '../procfs/status.js';
import { listTree, type ProcessThreads } from '../procfs/tree.js';
import { awaitEnd, kcmp, reapTracees, sendSignal, setChildStopSignals, sleepSync } from '../sys/process.js';
import { kcmpType, PF_IO_WORKER, ptraceEvent, ptraceOption, signal } from '../sys/uapi.js';
import { isEventStop, Tracee } from '../tracee/tracee.js';
import { type FreezeWay, GroupFreezer, refuseFrozenGroup } from './groupFreezer.js';

/** After how many rounds of waiting tasks in vfork(2) are looked for. */
const VFORK_ROUNDS = 30;

/** How often is looked for tasks that are to be let go when they stop. */
const RELEASE_INTERVAL_MS = 10;

const DEFAULT_WAYS: readonly FreezeWay[] = ['cgroup2', 'cgroup1'];

/** A process of the tree, all of whose threads are held by ptrace. */
export interface HeldProcess {
  readonly pid: number;
  /** The thread of its parent whose child it is. */
  readonly parentThread: number;
  /** Those that live, the leader first. Empty for a zombie, and for this very process. */
  readonly threads: readonly Tracee[];
  /** It has ended; or it is this very process, which will have ended for whoever is restarted. */
  readonly zombie: boolean;
  readonly isSelf: boolean;
  /** By which signal it was stopped (SIGSTOP, job control) before it was held; 0 for none. */
  readonly stopSignal: number;
  /** Threads that were stopped by a signal while others of the process were not. */
  readonly stoppedApart: readonly number[];
  /** Threads that exist but can't be traced: a leader that has ended, and workers of io_uring. */
  readonly unheld: readonly number[];
}

export interface FreezeOptions {
  /** How long to wait for a task that can't be interrupted, milliseconds. */
  readonly timeoutMs: number;
  /** Ways that may be taken, in this order where they can be; ptrace alone always can. */
  readonly ways?: readonly FreezeWay[];
}

/**
 * Holds every task of the tree below `root` by ptrace. Being held is the CHECKPOINTING state of the 2009
 * series: nobody but SIGKILL can wake such a task.
 *
 * New tasks may be born while the pass is under way, so passes are repeated until one finds none. The
 * scope's end releases everything, also what {@link freeze} held before it failed; should this process die,
 * the kernel does.
 */
export class FrozenTree implements Disposable {
  private readonly held = new Map<number, Tracee>();
  private readonly stopSignals = new Map<number, number>();
  private readonly unheld = new Set<number>();
  private list: HeldProcess[] = [];
  private tree: readonly ProcessThreads[] = [];
  private chosenWay: FreezeWay = 'ptrace';
  /** The root is a child of this process. */
  private isOurs = false;
  private released = false;

  constructor(
    readonly root: number,
    private readonly options: FreezeOptions,
  ) {}

  /** Holds the tree: passes over it until one finds no new task. Throws TargetError, FreezeError. */
  freeze(): this {
    refuseFrozenGroup(this.root);
    const stat = readProcIfAlive(`/proc/${this.root}/stat`);
    this.isOurs = stat !== undefined && parseStat(stat).parent === process.pid;
    const group = GroupFreezer.find(this.root, this.options.ways ?? DEFAULT_WAYS);
    if (group !== undefined) {
      this.chosenWay = group.way;
      const fresh: Tracee[] = [];
      group.whileFrozen(() => {
        for (let found = this.attach(); found.length > 0; found = this.attach()) fresh.push(...found);
      });
      this.waitForAll(fresh);
    }
    for (let fresh = true; fresh; ) fresh = this.pass();
    return this;
  }

  /** How the tree was stopped. */
  get way(): FreezeWay {
    return this.chosenWay;
  }

  /** Parents before children. */
  get processes(): readonly HeldProcess[] {
    return this.list;
  }

  /** Lets all tasks run on; those that have not stopped yet as soon as they do. */
  [Symbol.dispose](): void {
    if (this.released) return;
    this.released = true;
    const left = [...this.held.values()].filter((tracee) => !tracee.detachIfAlive() && !this.letGo(tracee));
    if (left.length > 0) this.releaseLater(left);
  }

  /**
   * A task can only be let go where it has stopped, and one that has ended is a zombie until its tracer has waited
   * for it. When this process ends, the kernel sees to both.
   */
  private releaseLater(tracees: readonly Tracee[]): void {
    // libuv takes any news of a child for its end.
    const flags = setChildStopSignals(false);
    for (const tracee of tracees) tracee.interruptIfAlive();
    let left = tracees;
    const timer = setInterval(() => {
      left = left.filter((tracee) => !this.letGo(tracee));
      if (left.length > 0) return;
      clearInterval(timer);
      setChildStopSignals(flags);
    }, RELEASE_INTERVAL_MS);
    timer.unref();
  }

  /** Whether a task could be let go, or has ended. */
  private letGo(tracee: Tracee): boolean {
    for (let stop = tracee.tryWait(); stop !== undefined; stop = tracee.tryWait()) {
      if (stop.kind === 'exited' || stop.kind === 'killed') return true;
      if (tracee.detachIfAlive(stop.kind === 'signal' ? stop.signal : 0)) return true;
    }
    // Somebody else in this process may have taken the news.
    return tracee.detachIfAlive();
  }

  /** Ends all tasks and returns when they are gone (or zombies that wait for a parent outside). */
  kill(): void {
    this.released = true;
    for (const { pid, zombie } of this.list) if (!zombie) sendSignal(pid, signal.SIGKILL);
    const tids = this.list.flatMap(({ threads }) => threads.map(({ tid }) => tid));
    reapTracees(tids.filter((tid) => !this.isOurs || tid !== this.root));
    if (this.isOurs) awaitEnd(this.root);
  }

  private pass(): boolean {
    const fresh = this.attach();
    this.waitForAll(fresh);
    if (this.tree.length === 0) refuseTarget(this.root);
    this.list = this.tree.map((member) => this.describe(member));
    return fresh.length > 0;
  }

  /** Asks all tasks to stop that are not held yet. */
  private attach(): Tracee[] {
    const fresh: Tracee[] = [];
    const tree = listTree(this.root, process.pid);
    for (const { pid, threads } of tree) {
      if (pid === process.pid) continue;
      for (const tid of threads) {
        if (this.held.has(tid) || this.unheld.has(tid)) continue;
        const tracee = this.seize(pid, tid);
        if (tracee !== undefined) fresh.push(tracee);
      }
    }
    for (const tracee of fresh) tracee.interruptIfAlive();
    this.tree = tree;
    return fresh;
  }

  private describe({ pid, parentThread, threads }: ProcessThreads): HeldProcess {
    const held = threads.flatMap((tid) => this.held.get(tid) ?? []);
    const stopped = held.map(({ tid }) => tid).filter((tid) => this.stopSignals.has(tid));
    return {
      pid,
      parentThread,
      threads: held,
      zombie: held.length === 0,
      isSelf: pid === process.pid,
      stopSignal: threads.map((tid) => this.stopSignals.get(tid)).find((stop) => stop !== undefined) ?? 0,
      stoppedApart: stopped.length === held.length ? [] : stopped,
      unheld: threads.filter((tid) => !this.held.has(tid)),
    };
  }

  private seize(pid: number, tid: number): Tracee | undefined {
    // The status of a child of this process is for whoever waits for it here.
    const seized = Tracee.trySeize(tid, 0, tid === this.root && this.isOurs ? 'left' : 'taken');
    if (seized === 'gone') return undefined;
    if (seized !== 'denied') {
      this.held.set(tid, seized);
      return seized;
    }
    const text = readProcIfAlive(`/proc/${pid}/task/${tid}/stat`);
    if (text === undefined) return undefined;
    const stat = parseStat(text);
    if (stat.state === 'Z' || stat.state === 'X' || (stat.flags & PF_IO_WORKER) !== 0) {
      this.unheld.add(tid);
      return undefined;
    }
    throw deniedError(tid, pid);
  }

  private waitForAll(fresh: readonly Tracee[]): void {
    const deadline = Date.now() + this.options.timeoutMs;
    let waiting = [...fresh];
    for (let round = 0; waiting.length > 0; round++) {
      waiting = waiting.filter((tracee) => !this.hasStopped(tracee));
      const first = waiting[0];
      if (first === undefined) return;
      if (Date.now() > deadline) throw stuckError(first.tid, this.options.timeoutMs);
      if (round % VFORK_ROUNDS === VFORK_ROUNDS - 1) {
        waiting = [...waiting, ...waiting.flatMap(({ tid }) => this.letVforkChildrenGoOn(tid))];
      }
      // Nearly all stop at once; the pause keeps a long wait from burning a processor.
      if (round > 20) sleepSync(round > 200 ? 5 : 0.1);
    }
  }

  /**
   * A parent in vfork(2) can't be stopped before its child has executed a program or ended, and the child
   * may be held already: it goes on until then. Returns the children that were let go on. A parent that only
   * takes its time, and whose child shares its memory for good, does not sleep without being interruptible.
   */
  private letVforkChildrenGoOn(parent: number): Tracee[] {
    const text = readProcIfAlive(`/proc/${parent}/stat`);
    if (text === undefined || parseStat(text).state !== 'D') return [];
    return [...this.held.values()].filter((tracee) => {
      const stat = readProcIfAlive(`/proc/${tracee.tid}/stat`);
      if (stat === undefined) return false;
      const { parent: its, state } = parseStat(stat);
      if (its !== parent || state !== 't' || kcmp(tracee.tid, parent, kcmpType.KCMP_VM) !== 0) return false;
      tracee.setOptions(ptraceOption.PTRACE_O_TRACEEXEC);
      tracee.resume();
      return true;
    });
  }

  /** Whether a task has stopped, or ended. Signals on their way are delivered first, as they would have been. */
  private hasStopped(tracee: Tracee): boolean {
    for (let stop = tracee.tryWait(); stop !== undefined; stop = tracee.tryWait()) {
      if (isEventStop(stop) && stop.kind === 'event') {
        if (stop.signal !== signal.SIGTRAP) this.stopSignals.set(tracee.tid, stop.signal);
        else tracee.resumeEndlessWait();
        return true;
      }
      // A child of vfork(2) that was let go on has its own memory now, and its parent stops.
      if (stop.kind === 'event' && stop.event === ptraceEvent.PTRACE_EVENT_EXEC) return true;
      if (stop.kind === 'exited' || stop.kind === 'killed') {
        this.held.delete(tracee.tid);
        return true;
      }
      // The kernel takes any stop for the one that was asked for, and while it sets a timer again whose signal it
      // delivers, it is asked for in vain.
      tracee.interruptIfAlive();
      tracee.resume(stop.kind === 'signal' ? stop.signal : 0);
    }
    return false;
  }
}

function deniedError(tid: number, pid: number): TargetError {
  const text = readProcIfAlive(`/proc/${pid}/task/${tid}/status`);
  const tracer = text === undefined ? 0 : parseStatus(text).tracer;
  if (tracer !== 0) {
    return new TargetError(pid, `task ${tid} can't be held`, {
      reason: `process ${tracer} (${commandOf(tracer) ?? 'unknown'}) traces it`,
      advice: 'detach the debugger or tracer first',
    });
  }
  return new TargetError(pid, `task ${tid} can't be held`, {
    reason: 'the kernel does not allow it to be traced',
    advice: 'run as root, and see that no security module forbids ptrace',
  });
}

function stuckError(tid: number, timeoutMs: number): FreezeError {
  const channel = readProcIfAlive(`/proc/${tid}/wchan`)?.trim();
  const place = channel === undefined || channel === '' || channel === '0' ? '' : ` in ${channel}`;
  return new FreezeError(
    tid,
    `task ${tid} (${commandOf(tid) ?? 'gone'}) did not stop within ${timeoutMs / 1000} s`,
    {
      reason: `it waits without being interruptible${place}`,
      advice: 'try again when it has gone on, or give it more time with --timeout',
    },
  );
}
