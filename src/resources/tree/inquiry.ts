import { InternalError } from '../../errors.js';
import type { ImageWriter } from '../../image/writer.js';
import type { FrozenProcess, FrozenThread } from '../../objects/frozenProcess.js';
import type { Objref } from '../../objects/objectTable.js';
import type { TaskKind } from '../../objects/slice.js';
import { sendSignal } from '../../sys/process.js';
import { type AddressRange, remoteAddress } from '../../tracee/address.js';
import { Injection } from '../../tracee/injection.js';
import type { RemoteCalls } from '../../tracee/remoteCalls.js';
import { processKinds, seccompKind, structureKinds, threadKinds } from '../index.js';
import type { MemoryCheckpoint } from '../mm/checkpoint.js';
import type { SharedStructures } from './births.js';

/** Writes records from answers that were got. */
export type Save = (writer: ImageWriter) => void;

/** A structure that processes may share. */
export interface StructureReference {
  readonly objref: Objref;
  /** This process is the first that has it: it tells of it. */
  readonly fresh: boolean;
  readonly shared: boolean;
}

export type Structures = Readonly<Record<keyof SharedStructures, StructureReference>>;

/** Asks the tasks of one process for what only they can tell. The scope's end leaves them as they were. */
export class Inquiry implements Disposable {
  private readonly injection: Injection;
  private readonly leader: FrozenThread;
  private readonly saves: Save[] = [];
  private calls: RemoteCalls | undefined;
  private closed = false;

  constructor(
    private readonly process: FrozenProcess,
    private readonly memory: MemoryCheckpoint,
    private readonly structures: Structures,
  ) {
    const [leader] = process.threads;
    if (leader === undefined) throw new InternalError(`process ${process.pid} has no threads`);
    this.leader = leader;
    this.injection = new Injection({
      pid: process.pid,
      ownPid: process.ids.at(-1) ?? process.pid,
      leader,
      memory: process.memory,
      used: process.mappings.map(rangeOf),
      vdso: process.mappings.filter(({ name }) => name === '[vdso]').map(rangeOf)[0],
      caughtSignals: process.status.caughtSignals,
      ignoredSignals: process.status.ignoredSignals,
      pendingSignals: process.threads.reduce(
        (all, { status }) => all | status.pendingSignals,
        process.status.sharedPendingSignals,
      ),
      stopped: process.stopped !== undefined,
    });
  }

  /** Asks everything at once, and leaves the tasks as they were. */
  whole(): readonly Save[] {
    this.begin();
    this.askLeader();
    const saves = this.finish();
    this[Symbol.dispose]();
    return saves;
  }

  /** All has been asked, and the tasks are as they were. */
  get isOver(): boolean {
    return this.closed;
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
    const { mm, fs, sighand } = this.structures;
    if (mm.fresh) {
      const space = this.memory.ask(this.process, calls);
      this.saves.push((writer) => space(writer, mm.objref));
    }
    const ask = (kind: TaskKind<'process'>, objref: Objref): void => {
      const save = kind.ask(this.process, calls);
      this.saves.push((writer) => save(writer, objref));
    };
    if (sighand.fresh) ask(structureKinds.sighand, sighand.objref);
    if (fs.fresh) ask(structureKinds.fs, fs.objref);
    for (const kind of processKinds) ask(kind, this.process.objref);
    for (const kind of [seccompKind, ...threadKinds]) {
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
      for (const kind of [seccompKind, ...threadKinds]) {
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
    if (this.closed) return;
    this.closed = true;
    this.injection[Symbol.dispose]();
    for (const intercepted of this.injection.intercepted) sendSignal(this.process.pid, intercepted);
  }
}

function rangeOf({ start, end }: { readonly start: bigint; readonly end: bigint }): AddressRange {
  return { start: remoteAddress(start), end: remoteAddress(end) };
}
