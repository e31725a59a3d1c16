import { IN_FLIGHT_LIMITS } from '../bpf/inFlightProgram.js';
import { NAMESPACES } from '../bpf/taskProgram.js';
import { type Walk, Walker } from '../bpf/walk.js';
import { readTasks } from './bpfTasks.js';
import {
  type Census,
  type CensusExecutable,
  type CensusFile,
  type CensusInFlight,
  type CensusMapping,
  type CensusSlot,
  type CensusTaker,
  type CensusTask,
  type Identity,
  isSharedMemory,
  type NotVerified,
} from './census.js';

/** Of linux/mm.h. */
const VM_SHARED = 0x8;
const VM_MAYWRITE = 0x20;
/** `bpf_iter_task_file` holds one while it shows a file. */
const ITERATOR_REFERENCE = 1;

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
  /** Files, pipes, terminals, sockets and memory of what is inside: their addresses tell them apart. */
  private readonly related = new Set<number>();
  private selected: readonly Buffer[] | undefined;

  constructor(
    private readonly walker: Walker,
    readonly root: number,
    chooseInside: (tasks: readonly CensusTask[]) => ReadonlySet<number>,
  ) {
    this.walk = walker.walk();
    const measured = this.measureYardstick();
    this.countsFiles = measured === 1;
    this.notVerified = this.whatIsMissing(measured);
    this.tasks = readTasks(this.walk.tasks, (column) => this.known(column));
    this.inside = chooseInside(this.tasks);
    this.readSlots();
    this.readMappings();
    this.readExecutables();
    this.inFlight = readInFlight(this.walk.inFlight, this.walker.fileCountBias);
  }

  /** The rows of processes inside. */
  get rows(): readonly Buffer[] {
    this.selected ??= insideRows(this.walk, this.inside);
    return this.selected;
  }

  private whatIsMissing(measured: number | undefined): NotVerified[] {
    const missing = [...this.walker.missing].map(([column, member]) => ({
      kind: column as string,
      reason: `this kernel has no ${member}`,
    }));
    if (!this.countsFiles) {
      const reason = `an open file of Stasis itself with one reference was counted as ${measured}: this kernel counts otherwise than known`;
      missing.push({ kind: 'file', reason });
    }
    if (this.walker.missesInFlight) {
      const reason = 'descriptors in flight are counted, but not attributed, on this kernel';
      missing.push({ kind: 'file', reason });
    }
    return missing;
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
    const { related } = this;
    for (let row = 0; row < rows.count; row++) {
      if (!this.inside.has(pid(row))) continue;
      for (const key of [file(row), pipe(row), tty(row), ttyLink(row), sock(row), peer(row)]) {
        if (key !== 0) related.add(key);
      }
      if (isSharedMemory(rows.u32('magic')(row))) related.add(inode(row));
    }
    this.relateMappings();
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
  }

  private relateMappings(): void {
    const { related } = this;
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
          : { identity: pipe, count: this.known('pipeFiles') ? number('pipeFiles') : undefined },
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
              peer: number('peer') || undefined,
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
