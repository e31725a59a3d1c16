import { type BigIntStats, statSync } from 'node:fs';
import { type ProcFdinfo, parseFdinfo } from '../procfs/fdinfo.js';
import { readLinkIfAlive, readNumbersIfAlive, readProc, readProcIfAlive } from '../procfs/read.js';
import { type ProcMapping, parseMappings, parseRunningMappings } from '../procfs/smaps.js';
import { type ProcStat, parseStat } from '../procfs/stat.js';
import { type ProcStatus, parseStatus } from '../procfs/status.js';
import type { Registers } from '../tracee/arch/x86_64/registers.js';
import { abortRestartableSequence, type StoppedThread } from '../tracee/injection.js';
import type { RemoteMemory } from '../tracee/memory.js';
import type { Tracee } from '../tracee/tracee.js';
import type { CensusTask } from './census.js';
import type { HeldTasks } from './heldTasks.js';
import type { Objref } from './objectTable.js';

/** A held thread and what is known of it. */
export interface FrozenThread extends StoppedThread {
  readonly objref: Objref;
  readonly tid: number;
  /** Its ids, from the tree's own pid namespace inwards: the last is what it sees itself. */
  readonly ids: readonly number[];
  readonly stat: ProcStat;
  readonly status: ProcStatus;
  readonly process: FrozenProcess;
  /** False for a 32-bit thread, whose registers are then empty. */
  readonly is64Bit: boolean;
}

/** A slot of a file table. */
export interface Descriptor {
  readonly fd: number;
  /** Where the link in `/proc/PID/fd` leads. */
  readonly link: string;
  readonly info: ProcFdinfo;
  readonly stats: BigIntStats;
}

/** A held process and what is known of it. */
export interface FrozenProcess {
  readonly objref: Objref;
  readonly pid: number;
  /** As those of its threads. */
  readonly ids: readonly number[];
  /**
   * A thread that lives, the leader if it does: of a leader that has ended `/proc/PID` shows neither memory nor
   * files, and of any living thread it shows those of the process.
   */
  readonly live: number;
  /** How the leader ended before the other threads, as wait4(2) will tell it; undefined while it lives. */
  readonly leaderEnd: number | undefined;
  /** For its parent when it ends; 0 for none. */
  readonly exitSignal: number;
  /** The process, and the thread of it, whose child it is. */
  readonly parent: number;
  readonly parentThread: number;
  /** The signal that stopped it, and whether its parent has not waited for that yet. */
  readonly stopped: { readonly signal: number; readonly unreported: boolean } | undefined;
  readonly stat: ProcStat;
  readonly status: ProcStatus;
  /** Those that live, the leader first. */
  readonly threads: readonly FrozenThread[];
  readonly mappings: readonly ProcMapping[];
  readonly memory: RemoteMemory;
  readonly descriptors: readonly Descriptor[];
  /** What a census has of it, where one was taken. */
  readonly census: CensusTask | undefined;
  /** What the kernel's memory tells of all held tasks. */
  readonly held: HeldTasks;
}

/** Reads a held thread's state. */
export function readThread(
  tracee: Tracee,
  process: FrozenProcess,
  objref: Objref,
  level: number,
  emptyRegisters: Registers,
): FrozenThread {
  const base = `/proc/${process.pid}/task/${tracee.tid}`;
  const registers = tracee.tryGetRegisters();
  const isFirst = tracee.tid === process.live;
  const status = isFirst ? process.status : parseStatus(readProc(`${base}/status`));
  return {
    objref,
    tid: tracee.tid,
    ids: status.namespacePids.slice(level),
    ownTid: status.namespacePids.at(-1) ?? tracee.tid,
    process,
    tracee,
    stat: isFirst ? process.stat : parseStat(readProc(`${base}/stat`)),
    status,
    is64Bit: registers !== undefined,
    restricted: status.seccomp !== 0,
    registers:
      registers === undefined ? emptyRegisters : abortRestartableSequence(tracee, registers, process.memory),
    signalMask: tracee.getSignalMask(),
  };
}

/** The mappings with their flags; without, where the kernel has no smaps. */
export function readMappings(pid: number): ProcMapping[] {
  return parseMappings(readProcIfAlive(`/proc/${pid}/smaps`) ?? readProc(`/proc/${pid}/maps`));
}

/** The slots of a process's file table. */
export function readDescriptors(pid: number): Descriptor[] {
  const descriptors: Descriptor[] = [];
  for (const fd of readNumbersIfAlive(`/proc/${pid}/fd`) ?? []) {
    const link = readLinkIfAlive(`/proc/${pid}/fd/${fd}`);
    const info = readProcIfAlive(`/proc/${pid}/fdinfo/${fd}`);
    const stats = statSync(`/proc/${pid}/fd/${fd}`, { bigint: true, throwIfNoEntry: false });
    if (link === undefined || info === undefined || stats === undefined) continue;
    descriptors.push({
      fd,
      link,
      info: parseFdinfo(info),
      stats,
    });
  }
  return descriptors;
}

/**
 * Reads of a running process what will be read of it while it is held, and forgets it: what is compiled and
 * loaded for it now does not hold it up then. A process that ends meanwhile is none of this function's business.
 */
export function rehearseReading(pid: number): void {
  const stat = readProcIfAlive(`/proc/${pid}/stat`);
  const status = readProcIfAlive(`/proc/${pid}/status`);
  if (stat === undefined || status === undefined) return;
  parseStat(stat);
  parseStatus(status);
  parseRunningMappings(readProcIfAlive(`/proc/${pid}/smaps`) ?? '');
  readDescriptors(pid);
}
