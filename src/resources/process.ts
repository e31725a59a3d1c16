import { ProcessSchema } from '../image/generated/process_pb.js';
import type { ImageWriter } from '../image/writer.js';
import type { FrozenProcess } from '../objects/frozenProcess.js';
import { commandOf } from '../procfs/describe.js';

export const PROCESS_RECORD = 52;

/** Objrefs of what a process refers to. */
export interface ProcessReferences {
  readonly mm: number;
  readonly files: number;
}

/** Writes a process with its threads' registers. `insiders` are the pids of the tree. */
export function saveProcess(
  process: FrozenProcess,
  references: ProcessReferences,
  insiders: ReadonlySet<number>,
  isRoot: boolean,
  writer: ImageWriter,
): void {
  const { stat } = process;
  writer.record(PROCESS_RECORD, process.objref, ProcessSchema, {
    pid: process.pid,
    parent: isRoot ? 0 : stat.parent,
    processGroup: insiders.has(stat.processGroup) ? stat.processGroup : 0,
    session: insiders.has(stat.session) ? stat.session : 0,
    ...references,
    threads: process.threads.map((thread) => ({
      objref: thread.objref,
      tid: thread.tid,
      registers: thread.registers.bytes,
      extendedState: thread.tracee.getExtendedState(),
      signalMask: thread.signalMask,
    })),
    command: commandOf(process.pid) ?? '',
  });
}
