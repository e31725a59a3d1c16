import { type Process, ProcessSchema, RestartBlock_Kind } from '../image/generated/process_pb.js';
import type { ImageWriter } from '../image/writer.js';
import type { FrozenProcess, FrozenThread } from '../objects/frozenProcess.js';
import type { Objref } from '../objects/objectTable.js';
import { commandOf } from '../procfs/describe.js';
import { readProcBytes } from '../procfs/read.js';
import type { ProcStat } from '../procfs/stat.js';
import type { ProcStatus } from '../procfs/status.js';
import { signal } from '../sys/uapi.js';
import type { SharedStructures } from './tree/births.js';

export const PROCESS_RECORD = 52;

/** Where a process stands in its tree, by the ids that the tree itself sees. */
export type Relations = Pick<
  Process,
  | 'pid'
  | 'parent'
  | 'parentThread'
  | 'processGroup'
  | 'session'
  | 'nestedPids'
  | 'nestedGroups'
  | 'nestedSessions'
  | 'childrenPidNamespace'
  | 'mountNamespace'
>;

/** A process that has ended, whose parent has not waited for it. */
export interface ZombieProcess {
  readonly objref: Objref;
  readonly pid: number;
  readonly parentThread: number;
  /** It is this very process: it will have ended, and nobody has been told. */
  readonly isSelf: boolean;
  readonly stat: ProcStat;
  readonly status: ProcStatus;
}

/** Writes a process with its threads' registers. */
export function saveProcess(
  process: FrozenProcess,
  relations: Relations,
  structures: SharedStructures,
  writer: ImageWriter,
): void {
  const { leaderEnd, stopped } = process;
  const [id = 0, ...nestedTids] = process.ids;
  const threads = process.threads.map((thread) => ({
    objref: thread.objref,
    tid: thread.ids[0] ?? 0,
    nestedTids: thread.ids.slice(1),
    registers: thread.registers.bytes,
    extendedState: thread.tracee.getExtendedState(),
    signalMask: thread.signalMask,
    ...restartBlockOf(thread),
  }));
  writer.record(PROCESS_RECORD, process.objref, ProcessSchema, {
    ...relations,
    ...structures,
    exitSignal: process.exitSignal,
    threads: leaderEnd === undefined ? threads : [{ tid: id, nestedTids, ended: leaderEnd }, ...threads],
    ...(stopped === undefined ? {} : { stopped }),
    command: commandOf(process.pid) ?? '',
  });
}

const KINDS = {
  sleep: RestartBlock_Kind.SLEEP,
  poll: RestartBlock_Kind.POLL,
  futex: RestartBlock_Kind.FUTEX,
  futexUntil: RestartBlock_Kind.FUTEX_UNTIL,
};

function restartBlockOf({ tid, registers, process }: FrozenThread) {
  const block = process.held.restartBlock(tid, registers);
  return block === undefined ? {} : { restartBlock: { ...block, kind: KINDS[block.kind] } };
}

/** Writes what is left of a process that has ended. */
export function saveZombie(zombie: ZombieProcess, relations: Relations, writer: ImageWriter): void {
  const { pid, stat, status } = zombie;
  const name = readProcBytes(`/proc/${pid}/comm`);
  writer.record(PROCESS_RECORD, zombie.objref, ProcessSchema, {
    ...relations,
    exitSignal: stat.exitSignal,
    threads: [{ tid: relations.pid, nestedTids: relations.nestedPids }],
    zombie: {
      status: stat.exitCode,
      name: name.subarray(0, name.length - 1),
      uid: status.uid.real,
      gid: status.gid.real,
      untold: zombie.isSelf,
    },
    command: `[${stat.comm}]`,
  });
}

/** Signals whose default is not to end a process. Source: signal(7). */
const HARMLESS = new Set<number>([
  signal.SIGCHLD,
  signal.SIGCONT,
  signal.SIGURG,
  signal.SIGWINCH,
  signal.SIGSTOP,
  signal.SIGTSTP,
  signal.SIGTTIN,
  signal.SIGTTOU,
]);
const CORE_DUMPED = 0x80;

/** How a process ended, out of the status word of wait4(2); undefined for a word that none gets. */
export function endOf(status: number): { readonly status: number } | { readonly signal: number } | undefined {
  const number = status & ~CORE_DUMPED;
  if (number > 0 && number <= 64 && !HARMLESS.has(number)) return { signal: number };
  return (status & 0xff) === 0 && status <= 0xff00 ? { status: status >> 8 } : undefined;
}
