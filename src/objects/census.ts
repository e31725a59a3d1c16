import type { NamespaceKind } from '../bpf/taskProgram.js';

/** What tells kernel objects of one kind apart: the address in the kernel, or what stands for it. */
export type Identity = number | string;

/** A reference to a kernel object, and the kernel's own count of references to it where that is known. */
export interface Counted {
  readonly identity: Identity;
  readonly count: number | undefined;
}

/** Structures that tasks share by clone(2). */
export const STRUCTURES = ['filesStruct', 'fs', 'mm', 'sighand', 'signal', 'nsproxy'] as const;
export type StructureKind = (typeof STRUCTURES)[number];

export interface CensusNamespace extends Counted {
  readonly inum: number;
}

/** A task of the machine, threads included, kernel tasks not. */
export interface CensusTask {
  readonly tid: number;
  /** Its process's pid. */
  readonly pid: number;
  readonly comm: string;
  readonly parent: number;
  /** 0 when nobody traces it. */
  readonly tracer: number;
  readonly session: number;
  readonly processGroup: number;
  /** It has exited and waits for its parent. */
  readonly dead: boolean;
  readonly structures: Readonly<Partial<Record<StructureKind, Counted>>>;
  readonly namespaces: Readonly<Partial<Record<NamespaceKind, CensusNamespace>>>;
  readonly credentials: Identity | undefined;
  /** Its session keyring. */
  readonly keyring: Identity | undefined;
}

/** A terminal behind a file. */
export interface CensusTerminal extends Counted {
  /** The other side of a pseudoterminal. */
  readonly link: Identity | undefined;
  readonly index: number;
}

/** A socket behind a file. */
export interface CensusSocket extends Counted {
  readonly family: number;
  /** A unix socket's peer, also where no file has it. */
  readonly peer: Identity | undefined;
  /** The listening socket in whose queue the peer waits to be accepted. */
  readonly peerListener: Identity | undefined;
  /** Descriptors in messages that wait in its queue. */
  readonly descriptorsInFlight: number;
}

/** An open file description. */
export interface CensusFile extends Counted {
  /** `FMODE_…` of linux/fs.h; undefined where it is not known. */
  readonly mode: number | undefined;
  /** As open(2) has them. */
  readonly flags: number;
  readonly inode: Identity;
  readonly ino: number;
  /** As stat(2) has it. */
  readonly inodeMode: number;
  readonly rdev: number;
  /** `…_MAGIC` of linux/magic.h. */
  readonly magic: number;
  readonly links: number;
  /** False where nobody has locked it since it was read from the disk. */
  readonly mayBeLocked: boolean;
  /** The name in the file system; the kernel counts the open files that refer to it. */
  readonly dentry: Counted | undefined;
  readonly pipe: Counted | undefined;
  readonly terminal: CensusTerminal | undefined;
  readonly socket: CensusSocket | undefined;
}

/** A slot of a table of descriptors. */
export interface CensusSlot {
  readonly pid: number;
  readonly table: Identity;
  readonly fd: number;
  readonly file: CensusFile;
}

/** A mapping of a file, or of memory that is one to the kernel. */
export interface CensusMapping {
  readonly pid: number;
  readonly mm: Identity;
  readonly start: number;
  readonly end: number;
  readonly shared: boolean;
  /** May be made writable. */
  readonly mayWrite: boolean;
  readonly file: CensusFile;
}

/** What an address space executes. */
export interface CensusExecutable {
  readonly pid: number;
  readonly mm: Identity;
  readonly file: CensusFile;
}

/** A descriptor that was sent and waits in the queue of a unix socket. */
export interface CensusInFlight {
  /** The socket in whose queue it waits. */
  readonly socket: Identity;
  readonly file: Counted;
}

/** Something whose counts or holders can't be known here. */
export interface NotVerified {
  readonly kind: string;
  readonly reason: string;
}

/**
 * Who on the machine refers to what, at one moment. Of slots, mappings and executables outside, only those
 * are there that have to do with what is inside.
 */
export interface Census {
  /** How it was taken. */
  readonly method: 'bpf' | 'proc';
  /** The processes whose references are those of the container or subtree. */
  readonly inside: ReadonlySet<number>;
  readonly root: number;
  readonly tasks: readonly CensusTask[];
  readonly slots: readonly CensusSlot[];
  readonly mappings: readonly CensusMapping[];
  readonly executables: readonly CensusExecutable[];
  /** All open files of slots, mappings and executables. */
  readonly files: ReadonlyMap<Identity, CensusFile>;
  /** Slots, anywhere, of unix sockets with descriptors in flight. */
  readonly carriers: readonly CensusSlot[];
  /** Descriptors in flight, as far as the kernel's queues can be read. */
  readonly inFlight: readonly CensusInFlight[];
  readonly notVerified: readonly NotVerified[];
}

/** Takes censuses. */
export interface CensusTaker {
  /** `chooseInside` says which processes are inside, once all tasks are known. */
  take(root: number, chooseInside: (tasks: readonly CensusTask[]) => ReadonlySet<number>): Census;
  /**
   * Whether everything inside, and the kernel's counts of it, are still as in an earlier census. False also
   * where that can't be told without a new one.
   */
  isUnchanged(census: Census): boolean;
}

/** The processes below a root, by their parents. */
export function descendants(root: number, tasks: readonly CensusTask[]): ReadonlySet<number> {
  const children = new Map<number, number[]>();
  for (const { tid, pid, parent } of tasks) {
    if (tid !== pid) continue;
    const known = children.get(parent);
    if (known === undefined) children.set(parent, [pid]);
    else known.push(pid);
  }
  const inside = new Set<number>([root]);
  for (const pid of inside) for (const child of children.get(pid) ?? []) inside.add(child);
  return inside;
}

/** Of linux/magic.h. */
export const TMPFS_MAGIC = 0x0102_1994;
const HUGETLBFS_MAGIC = 0x9584_58f6;

/** Whether files on a file system of that kind are memory. */
export function isSharedMemory(magic: number): boolean {
  return magic === TMPFS_MAGIC || magic === HUGETLBFS_MAGIC;
}
