import { InternalError } from '../../errors.js';
import type { ImageWriter } from '../../image/writer.js';
import type { FrozenProcess, FrozenThread } from '../../objects/frozenProcess.js';
import { sendSignal } from '../../sys/process.js';
import { signal } from '../../sys/uapi.js';
import { type AddressRange, remoteAddress } from '../../tracee/address.js';
import { Injection } from '../../tracee/injection.js';
import type { RemoteCalls } from '../../tracee/remoteCalls.js';
import { processKinds, threadKinds } from '../index.js';
import type { MemoryCheckpoint } from '../mm/checkpoint.js';

/** Writes records from answers that were got. */
export type Save = (writer: ImageWriter) => void;

/** Asks the tasks of one process for what only they can tell. The scope's end leaves them as they were. */
export class Inquiry implements Disposable {
  private readonly injection: Injection;
  private readonly leader: FrozenThread;
  private readonly saves: Save[] = [];
  private calls: RemoteCalls | undefined;

  constructor(
    private readonly process: FrozenProcess,
    private readonly memory: MemoryCheckpoint,
    /** The objref of its address space. */
    private readonly space: number,
  ) {
    const [leader] = process.threads;
    if (leader === undefined) throw new InternalError(`process ${process.pid} has no threads`);
    this.leader = leader;
    this.injection = new Injection({
      pid: process.pid,
      leader,
      memory: process.memory,
      used: process.mappings.map(rangeOf),
      vdso: process.mappings.filter(({ name }) => name === '[vdso]').map(rangeOf)[0],
      caughtSignals: process.status.caughtSignals,
      pendingSignals: process.threads.reduce(
        (all, { status }) => all | status.pendingSignals,
        process.status.sharedPendingSignals,
      ),
    });
  }

  /** Sets off the preparation. */
  begin(): void {
    this.injection.begin();
  }

  /** Sets off the questions to the leader: those about the process, and those about the thread. */
  askLeader(): void {
    this.injection.ready();
    const { leader } = this;
    const calls = this.injection.callsOf(leader);
    const space = this.memory.ask(this.process, calls);
    this.saves.push((writer) => space(writer, this.space));
    for (const kind of processKinds) {
      const save = kind.ask(this.process, calls);
      this.saves.push((writer) => save(writer, this.process.objref));
    }
    for (const kind of threadKinds) {
      const save = kind.ask(leader, calls);
      this.saves.push((writer) => save(writer, leader.objref));
    }
    calls.start();
    this.calls = calls;
  }

  /** Waits for the leader's answers, asks the other threads, and sets off the end. */
  finish(): readonly Save[] {
    this.calls?.finish();
    for (const thread of this.process.threads.slice(1)) {
      const calls = this.injection.callsOf(thread);
      for (const kind of threadKinds) {
        const save = kind.ask(thread, calls);
        this.saves.push((writer) => save(writer, thread.objref));
      }
      calls.flush();
      this.injection.leave(thread);
    }
    this.injection.end();
    return this.saves;
  }

  [Symbol.dispose](): void {
    this.injection[Symbol.dispose]();
    if (this.injection.stopRequested) sendSignal(this.process.pid, signal.SIGSTOP);
  }
}

function rangeOf({ start, end }: { readonly start: bigint; readonly end: bigint }): AddressRange {
  return { start: remoteAddress(start), end: remoteAddress(end) };
}
