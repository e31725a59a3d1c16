import { statSync } from 'node:fs';
import { NAMESPACES, type NamespaceKind } from '../bpf/taskProgram.js';
import { SystemCallError } from '../errors.js';
import { parseFdinfo } from '../procfs/fdinfo.js';
import { readNumbersIfAlive, readProc } from '../procfs/read.js';
import { type ProcMapping, parseRunningMappings } from '../procfs/smaps.js';
import { parseStat } from '../procfs/stat.js';
import { tryReadFile, tryReadLink } from '../sys/files.js';
import { kcmpType, open, PF_KTHREAD } from '../sys/uapi.js';
import { listUnixSockets, type UnixSocketRow } from '../sys/unixDiag.js';
import type {
  Census,
  CensusFile,
  CensusMapping,
  CensusNamespace,
  CensusSlot,
  CensusTaker,
  CensusTask,
  Counted,
  Identity,
  NotVerified,
  StructureKind,
} from './census.js';
import { TMPFS_MAGIC } from './census.js';
import { KcmpIndex } from './kcmpIndex.js';

/** Of linux/major.h: pseudoterminals' sides that programs use. */
const UNIX98_PTY_SLAVE_MAJORS = [136, 143] as const;
const AF_UNIX = 1;
/** Names in `/proc/PID/maps` and `/proc/PID/fd` of memory that is a file to the kernel. */
const MEMORY_NAMES = /^(\/memfd:|\/dev\/zero \(deleted\)|\/SYSV|\/dev\/shm\/)/;

const STRUCTURE_TYPES = [
  ['filesStruct', kcmpType.KCMP_FILES],
  ['fs', kcmpType.KCMP_FS],
  ['mm', kcmpType.KCMP_VM],
  ['sighand', kcmpType.KCMP_SIGHAND],
] as const;

/**
 * Takes censuses from `/proc` and kcmp(2), where BPF can't be used: who holds what is seen, but not what the
 * kernel counts.
 */
export class ProcCensusTaker implements CensusTaker {
  constructor(private readonly reason: string) {}

  take(root: number, chooseInside: (tasks: readonly CensusTask[]) => ReadonlySet<number>): Census {
    return new ProcCensus(root, chooseInside, this.reason);
  }

  isUnchanged(): boolean {
    return false;
  }
}

class ProcCensus implements Census {
  readonly method = 'proc';
  readonly inside: ReadonlySet<number>;
  readonly tasks: readonly CensusTask[];
  readonly slots: CensusSlot[] = [];
  readonly mappings: CensusMapping[] = [];
  readonly executables: readonly [] = [];
  readonly carriers: CensusSlot[] = [];
  readonly inFlight: readonly [] = [];
  readonly notVerified: readonly NotVerified[];
  readonly files = new Map<Identity, CensusFile>();
  private readonly opened = new KcmpIndex<CensusFile>(kcmpType.KCMP_FILE);
  private readonly sockets: ReadonlyMap<number, UnixSocketRow>;
  /** The listening socket by the inode of one that waits in its queue. */
  private readonly listeners = new Map<number, number>();
  private next = 0;

  constructor(
    readonly root: number,
    chooseInside: (tasks: readonly CensusTask[]) => ReadonlySet<number>,
    reason: string,
  ) {
    const sockets = listUnixSockets();
    this.notVerified = [
      ...(sockets === undefined
        ? [{ kind: 'unixSocket', reason: 'this kernel has no unix_diag: peers of sockets are not known' }]
        : []),
      {
        kind: 'counts',
        reason: `${reason}: references that no process shows, such as descriptors in flight, can't be seen`,
      },
      {
        kind: 'file',
        reason: 'kcmp compares descriptors, not mappings: open files behind mappings are compared by inode',
      },
    ];
    this.tasks = readTasks();
    this.inside = chooseInside(this.tasks);
    this.sockets = new Map((sockets ?? []).map((row) => [row.inode, row]));
    for (const { inode, waiting } of this.sockets.values()) {
      for (const client of waiting) this.listeners.set(client, inode);
    }
    const pids = this.tasks.filter(({ dead }) => !dead);
    const insiders = pids.filter(({ pid }) => this.inside.has(pid));
    const outsiders = pids.filter(({ pid }) => !this.inside.has(pid));
    const links = new Set<string>();
    for (const task of insiders) this.readSlots(task, (link) => links.add(link) !== undefined);
    this.relate(links);
    for (const task of outsiders) this.readSlots(task, (link) => links.has(link));
    const inodes = new Set<string>();
    for (const task of insiders) {
      this.readMappings(task, (mapping) => inodes.add(inodeOf(mapping)) !== undefined);
    }
    for (const task of outsiders) this.readMappings(task, (mapping) => inodes.has(inodeOf(mapping)));
  }

  /** Adds the links of what is at the other end of what is inside. */
  private relate(links: Set<string>): void {
    for (const { file } of this.slots) {
      if (file.terminal !== undefined) {
        links.add('/dev/ptmx');
        links.add('/dev/pts/ptmx');
        links.add(`/dev/pts/${file.terminal.index}`);
      }
      if (file.socket === undefined) continue;
      for (const { inode, peer, waiting } of this.sockets.values()) {
        const own = inode === file.ino;
        if (own) for (const client of waiting) links.add(`socket:[${client}]`);
        if (own && peer !== undefined) links.add(`socket:[${peer}]`);
        if (peer === file.ino || waiting.includes(file.ino)) links.add(`socket:[${inode}]`);
      }
    }
  }

  private readSlots(task: CensusTask, wanted: (link: string) => boolean): void {
    const { pid } = task;
    for (const fd of numbersIfVisible(`/proc/${pid}/fd`)) {
      const link = tryReadLink(`/proc/${pid}/fd/${fd}`);
      if (typeof link !== 'string' || !wanted(link)) continue;
      const file = ifAlive(() => this.file(pid, fd, link));
      if (file === undefined) continue;
      const slot = { pid, table: task.structures.filesStruct?.identity ?? pid, fd, file };
      this.slots.push(slot);
      if ((file.socket?.descriptorsInFlight ?? 0) > 0) this.carriers.push(slot);
    }
  }

  private file(pid: number, fd: number, link: string): CensusFile {
    const { value, fresh } = this.opened.findOrAdd(link, pid, fd, () => this.describe(pid, fd, link));
    if (fresh) this.files.set(value.identity, value);
    return value;
  }

  private describe(pid: number, fd: number, link: string): CensusFile {
    const stats = statSync(`/proc/${pid}/fd/${fd}`);
    const { flags, extra } = parseFdinfo(readProc(`/proc/${pid}/fdinfo/${fd}`));
    const socket = stats.isSocket() ? this.sockets.get(stats.ino) : undefined;
    const inode = inodeText(stats.dev, stats.ino);
    const listener = this.listeners.get(stats.ino);
    return {
      identity: `file ${this.next++}`,
      count: undefined,
      mode: undefined,
      flags,
      inode,
      ino: stats.ino,
      inodeMode: stats.mode,
      rdev: deviceNumber(stats.rdev),
      magic: MEMORY_NAMES.test(link) ? TMPFS_MAGIC : 0,
      links: stats.nlink,
      mayBeLocked: true,
      dentry: undefined,
      pipe: stats.isFIFO() ? { identity: inode, count: undefined } : undefined,
      terminal: stats.isCharacterDevice() ? terminalOf(stats.rdev, extra.get('tty-index')) : undefined,
      socket: socket && {
        identity: `socket ${socket.inode}`,
        count: undefined,
        family: AF_UNIX,
        peer: socket.peer === undefined ? undefined : `socket ${socket.peer}`,
        peerListener: listener === undefined ? undefined : `socket ${listener}`,
        descriptorsInFlight: Number(extra.get('scm_fds') ?? 0),
      },
    };
  }

  /** Mappings of memory only: what a file on a disk shares, everybody shares who opens it. */
  private readMappings(task: CensusTask, wanted: (mapping: ProcMapping) => boolean): void {
    for (const mapping of parseRunningMappings(readText(`/proc/${task.pid}/maps`) ?? '')) {
      if (!mapping.shared || !MEMORY_NAMES.test(mapping.name) || !wanted(mapping)) continue;
      this.mappings.push({
        pid: task.pid,
        mm: task.structures.mm?.identity ?? task.pid,
        start: Number(mapping.start),
        end: Number(mapping.end),
        shared: true,
        mayWrite: true,
        // Every attachment of System V memory has an open file of its own.
        file: this.mappedFile(
          mapping,
          mapping.name.startsWith('/SYSV') ? `${task.pid} ${mapping.start}` : '',
        ),
      });
    }
  }

  private readonly mapped = new Map<string, CensusFile>();

  private mappedFile(mapping: ProcMapping, attachment: string): CensusFile {
    const inode = inodeOf(mapping);
    const identity = `mapped ${inode} ${attachment}`;
    let file = this.mapped.get(identity);
    if (file === undefined) {
      file = {
        identity,
        count: undefined,
        mode: undefined,
        flags: open.O_RDWR,
        inode,
        ino: Number(mapping.inode),
        inodeMode: 0,
        rdev: 0,
        magic: TMPFS_MAGIC,
        links: 0,
        mayBeLocked: false,
        dentry: undefined,
        pipe: undefined,
        terminal: undefined,
        socket: undefined,
      };
      this.mapped.set(identity, file);
      this.files.set(identity, file);
    }
    return file;
  }
}

function readTasks(): CensusTask[] {
  const indexes = STRUCTURE_TYPES.map(([kind, type]) => ({ kind, index: new KcmpIndex<Identity>(type) }));
  const tasks: CensusTask[] = [];
  for (const pid of readNumbersIfAlive('/proc') ?? []) {
    const text = readText(`/proc/${pid}/stat`);
    const status = readText(`/proc/${pid}/status`);
    if (text === undefined || status === undefined) continue;
    const stat = parseStat(text);
    if ((stat.flags & PF_KTHREAD) !== 0) continue;
    const dead = stat.state === 'Z' || stat.state === 'X';
    const structures: Partial<Record<StructureKind, Counted>> = {};
    for (const { kind, index } of dead ? [] : indexes) {
      const found = ifAlive(() => index.findOrAdd('', pid, 0, () => `${kind} of ${pid}`));
      if (found !== undefined) structures[kind] = { identity: found.value, count: undefined };
    }
    tasks.push({
      tid: pid,
      pid,
      comm: stat.comm,
      parent: stat.parent,
      tracer: Number(/^TracerPid:\s*(\d+)/m.exec(status)?.[1] ?? 0),
      session: stat.session,
      processGroup: stat.processGroup,
      dead,
      structures,
      namespaces: readNamespaces(pid),
      credentials: undefined,
      keyring: undefined,
    });
  }
  return tasks;
}

function readNamespaces(pid: number): Partial<Record<NamespaceKind, CensusNamespace>> {
  const found: Partial<Record<NamespaceKind, CensusNamespace>> = {};
  for (const kind of NAMESPACES) {
    const link = tryReadLink(`/proc/${pid}/ns/${kind}`);
    const inum = typeof link === 'string' ? /\[(\d+)\]/.exec(link)?.[1] : undefined;
    if (inum !== undefined) found[kind] = { identity: Number(inum), inum: Number(inum), count: undefined };
  }
  return found;
}

/** Undefined where a task has ended, or may not be looked into. */
function readText(path: string): string | undefined {
  const contents = tryReadFile(path);
  return typeof contents === 'number' ? undefined : contents.toString('latin1');
}

/** Undefined for a task that has ended meanwhile, or that may not be compared. */
function ifAlive<T>(look: () => T): T | undefined {
  try {
    return look();
  } catch (error) {
    if (
      error instanceof SystemCallError &&
      ['ESRCH', 'EBADF', 'EPERM', 'ENOENT', 'EACCES'].includes(error.errnoName)
    ) {
      return undefined;
    }
    if (
      error instanceof Error &&
      'code' in error &&
      ['ENOENT', 'EACCES', 'ESRCH'].includes(String(error.code))
    ) {
      return undefined;
    }
    throw error;
  }
}

function numbersIfVisible(path: string): readonly number[] {
  return ifAlive(() => readNumbersIfAlive(path)) ?? [];
}

/** A slave's number is in its device; a master's is in its fdinfo. */
function terminalOf(rdev: number, masterIndex: string | undefined): CensusFile['terminal'] {
  if (masterIndex !== undefined) {
    const index = Number(masterIndex);
    return { identity: `master ${index}`, count: undefined, link: `slave ${index}`, index };
  }
  const device = deviceNumber(rdev);
  const major = device >> 8;
  const [first, last] = UNIX98_PTY_SLAVE_MAJORS;
  if (major >= first && major <= last) {
    const index = (major - first) * 0x100 + (device & 0xff);
    return { identity: `slave ${index}`, count: undefined, link: `master ${index}`, index };
  }
  if (major !== 4 || (device & 0xff) === 0) return undefined;
  return { identity: `terminal ${device}`, count: undefined, link: undefined, index: device & 0xff };
}

/** From the C library's form to `major << 8 | minor`. */
function deviceNumber(device: number): number {
  const major = (device >> 8) & 0xfff;
  const minor = (device & 0xff) | ((device >> 12) & 0xf_ff00);
  return major * 0x100 + minor;
}

function inodeOf({ device, inode }: ProcMapping): string {
  const [major = '0', minor = '0'] = device.split(':');
  return inodeText(makeDevice(Number.parseInt(major, 16), Number.parseInt(minor, 16)), Number(inode));
}

function inodeText(device: number, inode: number): string {
  return `${deviceNumber(device)}:${inode}`;
}

function makeDevice(major: number, minor: number): number {
  return ((major & 0xfff) << 8) | (minor & 0xff) | ((minor & 0xf_ff00) << 12);
}
