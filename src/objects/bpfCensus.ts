import { IN_FLIGHT_LIMITS } from '../bpf/inFlightProgram.js';
import { NAMESPACES, type NamespaceKind } from '../bpf/taskProgram.js';
import { type Walk, Walker } from '../bpf/walk.js';
import { PF_KTHREAD } from '../sys/uapi.js';
import type {
  Census,
  CensusExecutable,
  CensusFile,
  CensusInFlight,
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

/** Of linux/mm.h. */
const VM_SHARED = 0x8;
const VM_MAYWRITE = 0x20;
/** Of linux/magic.h. */
export const TMPFS_MAGIC = 0x0102_1994;
const HUGETLBFS_MAGIC = 0x9584_58f6;
/** `bpf_iter_task_file` holds one while it shows a file. */
const ITERATOR_REFERENCE = 1;
const COMM_LENGTH = 16;

const STRUCTURE_COLUMNS = [
  ['filesStruct', 'files', 'filesCount'],
  ['fs', 'fs', 'fsUsers'],
  ['mm', 'mm', 'mmUsers'],
  ['sighand', 'sighand', 'sighandCount'],
  ['signal', 'signal', 'signalThreads'],
  ['nsproxy', 'nsproxy', 'nsproxyCount'],
] as const;

/** Takes censuses with BPF iterators: identities and counts are the kernel's own. */
export class BpfCensusTaker implements CensusTaker {
  /** Throws KernelTypesError or BpfUnavailableError where that is not possible. */
  constructor(private readonly walker = Walker.load()) {}

  take(root: number, chooseInside: (tasks: readonly CensusTask[]) => ReadonlySet<number>): Census {
    return new BpfCensus(this.walker, root, chooseInside);
  }

  isUnchanged(census: Census): boolean {
    if (!(census instanceof BpfCensus)) return false;
    const now = insideRows(this.walker.walk(), census.inside);
    return census.rows.every((rows, index) => rows.equals(now[index] as Buffer));
  }
}

/** Columns that change when anybody on the machine is born or ends. */
const MACHINE_COUNTS = ['nsproxyCount', ...NAMESPACES.map((name) => `${name}Count` as const)] as const;

/** What was read of processes inside, byte for byte. */
function insideRows({ tasks, files, mappings }: Walk, inside: ReadonlySet<number>): Buffer[] {
  const taskPid = tasks.u32('tgid');
  const filePid = files.u32('tgid');
  const mappingPid = mappings.u32('tgid');
  return [
    tasks.select((row) => inside.has(taskPid(row)), MACHINE_COUNTS),
    files.select((row) => inside.has(filePid(row)), []),
    mappings.select((row) => inside.has(mappingPid(row)), []),
  ];
}

class BpfCensus implements Census {
  readonly method = 'bpf';
  readonly inside: ReadonlySet<number>;
  readonly tasks: readonly CensusTask[];
  readonly slots: CensusSlot[] = [];
  readonly mappings: CensusMapping[] = [];
  readonly executables: CensusExecutable[] = [];
  readonly carriers: CensusSlot[] = [];
  readonly inFlight: readonly CensusInFlight[];
  readonly notVerified: readonly NotVerified[];
  readonly files = new Map<Identity, CensusFile>();
  private readonly walk: Walk;
  /** Whether this kernel counts references to open files as it is known to. */
  private readonly countsFiles: boolean;

  constructor(
    private readonly walker: Walker,
    readonly root: number,
    chooseInside: (tasks: readonly CensusTask[]) => ReadonlySet<number>,
  ) {
    this.walk = walker.walk();
    const measured = this.measureYardstick();
    this.countsFiles = measured === 1;
    this.notVerified = [
      ...(this.countsFiles
        ? []
        : [
            {
              kind: 'file',
              reason: `an open file of Stasis itself with one reference was counted as ${measured}: this kernel counts otherwise than known`,
            },
          ]),
      ...[...walker.missing].map(([column, member]) => ({
        kind: column,
        reason: `this kernel has no ${member}`,
      })),
      ...(walker.missesInFlight
        ? [{ kind: 'file', reason: 'descriptors in flight are counted, but not attributed, on this kernel' }]
        : []),
    ];
    this.tasks = this.readTasks();
    this.inside = chooseInside(this.tasks);
    this.readSlots();
    this.readMappings();
    this.readExecutables();
    this.inFlight = readInFlight(this.walk.inFlight, this.walker.fileCountBias);
  }

  private selected: readonly Buffer[] | undefined;

  get rows(): readonly Buffer[] {
    this.selected ??= insideRows(this.walk, this.inside);
    return this.selected;
  }

  /** How often the yardstick's file is counted; 1 also where this process is not among the tasks that are seen. */
  private measureYardstick(): number | undefined {
    const rows = this.walk.files;
    const pid = rows.u32('tgid');
    const fd = rows.u32('fd');
    if (!this.known('count')) return undefined;
    for (let row = 0; row < rows.count; row++) {
      if (pid(row) !== process.pid || fd(row) !== this.walker.yardstick) continue;
      return rows.s32('count')(row) + this.walker.fileCountBias - ITERATOR_REFERENCE;
    }
    return 1;
  }

  private known(column: Parameters<Walker['missing']['get']>[0]): boolean {
    return !this.walker.missing.has(column);
  }

  private readTasks(): CensusTask[] {
    const rows = this.walk.tasks;
    const tid = rows.u32('tid');
    const pid = rows.u32('tgid');
    const parent = rows.u32('parent');
    const tracer = rows.u32('tracer');
    const ptrace = rows.u32('ptrace');
    const exitState = rows.u32('exitState');
    const flags = rows.u32('flags');
    const processGroup = rows.u32('group');
    const session = rows.u32('session');
    const comm = rows.text('comm', COMM_LENGTH);
    const credentials = rows.key('cred');
    const keyring = rows.key('keyring');
    const structures = STRUCTURE_COLUMNS.map(
      ([kind, column, count]) =>
        [kind, rows.key(column), this.known(count) ? rows.s32(count) : undefined] as const,
    );
    const namespaces = NAMESPACES.map(
      (kind) =>
        [
          kind,
          rows.key(`${kind}Ns`),
          rows.u32(`${kind}Inum`),
          this.known(`${kind}Count`) ? rows.s32(`${kind}Count`) : undefined,
        ] as const,
    );
    const tasks: CensusTask[] = [];
    let spaces: Partial<Record<NamespaceKind, CensusNamespace>> = {};
    for (let row = 0; row < rows.count; row++) {
      if ((flags(row) & PF_KTHREAD) !== 0) continue;
      const own: Partial<Record<StructureKind, Counted>> = {};
      for (const [kind, identity, count] of structures) {
        const key = identity(row);
        if (key !== 0) own[kind] = { identity: key, count: count?.(row) };
      }
      // Most tasks have the same namespaces as the one before.
      if (namespaces.some(([kind, identity]) => identity(row) !== (spaces[kind]?.identity ?? 0))) {
        spaces = {};
        for (const [kind, identity, inum, count] of namespaces) {
          const key = identity(row);
          if (key !== 0) spaces[kind] = { identity: key, inum: inum(row), count: count?.(row) };
        }
      }
      tasks.push({
        tid: tid(row),
        pid: pid(row),
        comm: comm(row),
        parent: parent(row),
        tracer: ptrace(row) === 0 ? 0 : tracer(row),
        session: session(row),
        processGroup: processGroup(row),
        dead: exitState(row) !== 0,
        structures: own,
        namespaces: spaces,
        credentials: credentials(row) || undefined,
        keyring: keyring(row) || undefined,
      });
    }
    return tasks;
  }

  private readSlots(): void {
    const rows = this.walk.files;
    const pid = rows.u32('tgid');
    const file = rows.key('file');
    const pipe = rows.key('pipe');
    const tty = rows.key('tty');
    const ttyLink = rows.key('ttyLink');
    const sock = rows.key('sock');
    const peer = rows.key('peer');
    const peerListener = rows.key('peerListener');
    const inode = rows.key('inode');
    const inFlight = rows.u32('fdsInFlight');
    /** Objects of what is inside, of all kinds: addresses tell them apart. */
    const related = new Set<number>();
    for (let row = 0; row < rows.count; row++) {
      if (!this.inside.has(pid(row))) continue;
      for (const key of [file(row), pipe(row), tty(row), ttyLink(row), sock(row), peer(row)]) {
        if (key !== 0) related.add(key);
      }
      if (isSharedMemory(rows.u32('magic')(row))) related.add(inode(row));
    }
    this.relateMappings(related);
    for (let row = 0; row < rows.count; row++) {
      const isCarrier = inFlight(row) > 0;
      const isRelated =
        this.inside.has(pid(row)) ||
        related.has(file(row)) ||
        related.has(pipe(row)) ||
        related.has(tty(row)) ||
        related.has(ttyLink(row)) ||
        related.has(sock(row)) ||
        related.has(peer(row)) ||
        related.has(peerListener(row)) ||
        related.has(inode(row));
      if (!isCarrier && !isRelated) continue;
      const slot = this.slot(row);
      if (isCarrier) this.carriers.push(slot);
      if (isRelated) this.slots.push(slot);
    }
    this.related = related;
  }

  private related: Set<number> = new Set();

  private relateMappings(related: Set<number>): void {
    const rows = this.walk.mappings;
    const pid = rows.u32('tgid');
    const file = rows.key('file');
    const inode = rows.key('inode');
    const magic = rows.u32('magic');
    for (let row = 0; row < rows.count; row++) {
      if (!this.inside.has(pid(row))) continue;
      related.add(file(row));
      if (isSharedMemory(magic(row))) related.add(inode(row));
    }
    const tasks = this.walk.tasks;
    const taskPid = tasks.u32('tgid');
    const exe = tasks.key('exe');
    for (let row = 0; row < tasks.count; row++) {
      if (exe(row) !== 0 && this.inside.has(taskPid(row))) related.add(exe(row));
    }
  }

  private slot(row: number): CensusSlot {
    const rows = this.walk.files;
    return {
      pid: rows.u32('tgid')(row),
      table: rows.key('files')(row),
      fd: rows.u32('fd')(row),
      file: this.file(row),
    };
  }

  private file(row: number): CensusFile {
    const rows = this.walk.files;
    const identity = rows.key('file')(row);
    const known = this.files.get(identity);
    if (known !== undefined) return known;
    const number = (column: Parameters<typeof rows.key>[0]): number => rows.key(column)(row);
    const bias = this.walker.fileCountBias - ITERATOR_REFERENCE;
    const pipe = number('pipe');
    const tty = number('tty');
    const sock = number('sock');
    const file: CensusFile = {
      ...this.describe(rows, row, bias),
      rdev: deviceNumber(rows.u32('rdev')(row)),
      mayBeLocked: !this.known('lockContext') || number('lockContext') !== 0,
      pipe:
        pipe === 0
          ? undefined
          : {
              identity: pipe,
              count: this.known('pipeFiles') ? number('pipeFiles') : undefined,
              readers: this.known('pipeReaders') ? number('pipeReaders') : undefined,
              writers: this.known('pipeWriters') ? number('pipeWriters') : undefined,
            },
      terminal:
        tty === 0
          ? undefined
          : {
              identity: tty,
              count: this.known('ttyCount') ? number('ttyCount') : undefined,
              link: number('ttyLink') || undefined,
              index: number('ttyIndex'),
            },
      socket:
        sock === 0
          ? undefined
          : {
              identity: sock,
              count: this.known('sockReferences') ? number('sockReferences') : undefined,
              family: number('sockFamily'),
              type: number('sockType'),
              state: number('sockState'),
              peer: number('peer') || undefined,
              peerFile: number('peerFile') || undefined,
              peerListener: number('peerListener') || undefined,
              descriptorsInFlight: number('fdsInFlight'),
            },
    };
    this.files.set(identity, file);
    return file;
  }

  private readMappings(): void {
    const rows = this.walk.mappings;
    const pid = rows.u32('tgid');
    const file = rows.key('file');
    const inode = rows.key('inode');
    const vmFlags = rows.u32('vmFlags');
    const mm = rows.key('mm');
    const start = rows.key('start');
    const end = rows.key('end');
    const { related, inside, files } = this;
    for (let row = 0; row < rows.count; row++) {
      const identity = file(row);
      if (!related.has(identity) && !inside.has(pid(row)) && !related.has(inode(row))) continue;
      this.mappings.push({
        pid: pid(row),
        mm: mm(row),
        start: start(row),
        end: end(row),
        shared: (vmFlags(row) & VM_SHARED) !== 0,
        mayWrite: (vmFlags(row) & VM_MAYWRITE) !== 0,
        file: files.get(identity) ?? this.addMappedFile(row),
      });
    }
  }

  private addMappedFile(row: number): CensusFile {
    const rows = this.walk.mappings;
    const file: CensusFile = {
      ...this.describe(rows, row, this.walker.fileCountBias),
      rdev: 0,
      mayBeLocked: false,
      pipe: undefined,
      terminal: undefined,
      socket: undefined,
    };
    this.files.set(file.identity, file);
    return file;
  }

  private describe(
    rows: Walk['files'] | Walk['mappings'],
    row: number,
    bias: number,
  ): Omit<CensusFile, 'rdev' | 'mayBeLocked' | 'pipe' | 'terminal' | 'socket'> {
    const dentry = rows.key('dentry')(row);
    return {
      identity: rows.key('file')(row),
      count: this.countsFiles ? rows.s32('count')(row) + bias : undefined,
      mode: this.known('mode') ? rows.u32('mode')(row) : undefined,
      flags: rows.u32('flags')(row),
      inode: rows.key('inode')(row),
      ino: rows.key('ino')(row),
      inodeMode: rows.u32('inodeMode')(row),
      magic: rows.u32('magic')(row),
      links: rows.u32('links')(row),
      dentry:
        dentry === 0
          ? undefined
          : {
              identity: dentry,
              count: this.known('dentryCount') ? rows.s32('dentryCount')(row) : undefined,
            },
    };
  }

  private readExecutables(): void {
    const rows = this.walk.tasks;
    const exe = rows.key('exe');
    const mm = rows.key('mm');
    const seen = new Set<number>();
    for (let row = 0; row < rows.count; row++) {
      const identity = exe(row);
      if (identity === 0 || !this.related.has(identity) || seen.has(mm(row))) continue;
      seen.add(mm(row));
      this.executables.push({ pid: rows.u32('tgid')(row), mm: mm(row), file: this.executable(row) });
    }
  }

  private executable(row: number): CensusFile {
    const rows = this.walk.tasks;
    const identity = rows.key('exe')(row);
    let file = this.files.get(identity);
    if (file === undefined) {
      file = {
        identity,
        count:
          this.countsFiles && this.known('exeCount')
            ? rows.s32('exeCount')(row) + this.walker.fileCountBias
            : undefined,
        mode: rows.u32('exeMode')(row),
        flags: 0,
        inode: `executable of ${identity}`,
        ino: 0,
        inodeMode: 0,
        rdev: 0,
        magic: 0,
        links: 1,
        mayBeLocked: false,
        dentry: undefined,
        pipe: undefined,
        terminal: undefined,
        socket: undefined,
      };
      this.files.set(identity, file);
    }
    return file;
  }
}

function readInFlight(rows: Walk['inFlight'], bias: number): CensusInFlight[] {
  if (rows === undefined) return [];
  const sock = rows.key('sock');
  const message = rows.u32('message');
  const descriptors = rows.u32('descriptors');
  const seen = new Set<string>();
  const found: CensusInFlight[] = [];
  for (let row = 0; row < rows.count; row++) {
    const unit = `${sock(row)} ${message(row)}`;
    if (seen.has(unit)) continue;
    seen.add(unit);
    for (let index = 0; index < Math.min(descriptors(row), IN_FLIGHT_LIMITS.descriptors); index++) {
      found.push({
        socket: sock(row),
        file: { identity: rows.key(`file${index}`)(row), count: rows.s32(`count${index}`)(row) + bias },
      });
    }
  }
  return found;
}

/** From the kernel's own form (12 bits, 20 bits) to `major << 8 | minor` for those below 256. */
function deviceNumber(kernel: number): number {
  const major = kernel >>> 20;
  const minor = kernel & 0xf_ffff;
  return major * 0x100 + minor;
}

/** Whether files on a file system of that kind are memory. */
export function isSharedMemory(magic: number): boolean {
  return magic === TMPFS_MAGIC || magic === HUGETLBFS_MAGIC;
}
