import { TaskLostError } from '../../errors.js';
import { cloneArgs } from '../../sys/structs.js';
import type { RemoteMemory } from '../../tracee/memory.js';
import type { RemoteCalls } from '../../tracee/remoteCalls.js';
import type { Scratch } from '../../tracee/scratch.js';
import { callsOfNewTask } from '../../tracee/stub.js';
import { describeStop, isEventStop, Tracee } from '../../tracee/tracee.js';

/** The id of a task in each pid namespace in which it is to have a certain one. */
export interface TaskIds {
  /** In the tree's own namespace; undefined where it does not matter. */
  readonly id: number | undefined;
  /** In those below, outermost first. */
  readonly nested: readonly number[];
}

/** What is to be made by clone3(2). */
export interface CloneRequest {
  readonly ids: TaskIds;
  /** `CLONE_…`. */
  readonly flags: number;
  readonly exitSignal: number;
}

/** A task of a new tree, which can make others. */
export class NewTask {
  readonly calls: RemoteCalls;
  private readonly born: number[] = [];

  /**
   * @param ownPid the id of its process as it sees it itself
   * @param ownTid likewise its own
   * @param onBirth is told of every task that it makes, as this process sees it
   */
  constructor(
    readonly tracee: Tracee,
    readonly ownPid: number,
    readonly ownTid: number,
    memory: RemoteMemory,
    scratch: Scratch,
    onBirth: (tid: number) => void,
  ) {
    this.calls = callsOfNewTask(tracee, ownPid, ownTid, memory, scratch, (tid) => {
      onBirth(tid);
      this.born.push(tid);
    });
  }

  /** Its id as this process sees it. */
  get tid(): number {
    return this.tracee.tid;
  }

  /** Makes tasks, in that order, after whatever is queued. Each stands before its first instruction. */
  make(requests: readonly CloneRequest[]): Tracee[] {
    for (const request of requests) queueClone(this.calls, request);
    this.calls.flush();
    const born = this.born.splice(0);
    return requests.map(({ ids }, index) => {
      const tid = born[index];
      if (tid === undefined) throw new TaskLostError(ids.id ?? 0, `task ${ids.id ?? ''} was not made`);
      return adopt(tid);
    });
  }
}

/** Source: clone3(2). */
function queueClone(calls: RemoteCalls, { ids, flags, exitSignal }: CloneRequest): void {
  // Innermost first.
  const numbers = [...(ids.id === undefined ? [] : [ids.id]), ...ids.nested].reverse();
  const wanted = Buffer.alloc(numbers.length * 4);
  numbers.forEach((number, index) => {
    wanted.writeInt32LE(number, index * 4);
  });
  const bytes = cloneArgs.encode({
    flags: BigInt(flags),
    exit_signal: BigInt(exitSignal),
    set_tid_size: BigInt(numbers.length),
  });
  const pointers = numbers.length === 0 ? [] : [{ at: cloneArgs.offsets.set_tid, to: wanted }];
  calls.call('clone3', [{ bytes, pointers }, cloneArgs.size], {
    purpose: `making task ${ids.id ?? 'that is needed for a moment'}`,
  });
}

/** Takes over a task that was just born, and waits until it stands before its first instruction. */
function adopt(tid: number): Tracee {
  const tracee = Tracee.adopt(tid);
  const stop = tracee.wait();
  if (!isEventStop(stop)) {
    throw new TaskLostError(tid, `task ${tid} did not start`, { reason: describeStop(stop) });
  }
  return tracee;
}
