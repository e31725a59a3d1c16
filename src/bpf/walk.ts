import { BpfUnavailableError } from '../errors.js';
import { isInFirstPidNamespace } from '../sys/process.js';
import { type KernelTypes, readKernelTypes } from './btf.js';
import { FILE_STRUCTURES, type FileColumn, fileLayout, fileProgram } from './fileProgram.js';
import {
  HELD_TASK_STRUCTURES,
  type RestartBlockColumn,
  restartBlockLayout,
  restartBlockProgram,
  type TimerColumn,
  timerLayout,
  timerProgram,
} from './heldTaskPrograms.js';
import {
  IN_FLIGHT_STRUCTURES,
  type InFlightColumn,
  inFlightLayout,
  inFlightProgram,
} from './inFlightProgram.js';
import { KernelIterator } from './iterator.js';
import { MAPPING_STRUCTURES, type MappingColumn, mappingLayout, mappingProgram } from './mappingProgram.js';
import { PID_STRUCTURES, type PidColumn, pidLayout, pidProgram, pidsSeen } from './pidProgram.js';
import { type RowLayout, type RowProgram, Rows } from './rows.js';
import { fileCountBias, TASK_STRUCTURES, type TaskColumn, taskLayout, taskProgram } from './taskProgram.js';

/** All tasks of the machine with what they refer to, as the kernel's iterators show it. */
export interface Walk {
  readonly tasks: Rows<TaskColumn>;
  readonly files: Rows<FileColumn>;
  readonly mappings: Rows<MappingColumn>;
  /** Undefined where this kernel's queues are not known. */
  readonly inFlight: Rows<InFlightColumn> | undefined;
}

/** Columns that this kernel has no member for, by the member's name. */
export type MissingMembers = ReadonlyMap<TaskColumn | FileColumn | MappingColumn, string>;

/** Walks the machine's tasks. Its programs stay loaded for as long as this process lives. */
export class Walker {
  private constructor(
    private readonly tasks: LoadedProgram<TaskColumn>,
    private readonly files: LoadedProgram<FileColumn>,
    private readonly mappings: LoadedProgram<MappingColumn>,
    private readonly types: KernelTypes,
    readonly missing: MissingMembers,
    /** To be added to the count of a file as it stands in a row of tasks or mappings. */
    readonly fileCountBias: number,
    /** Tells what pids are in the namespace of this process, where that is not the first of the machine. */
    private readonly pids: LoadedProgram<PidColumn> | undefined,
  ) {}

  private static loaded: Walker | undefined;
  private inFlight: LoadedProgram<InFlightColumn> | undefined;
  private triedInFlight = false;
  private restartBlocks: Optional<RestartBlockColumn>;
  private timers: Optional<TimerColumn>;

  /** Whether descriptors in flight could not be attributed to the sockets in whose queues they wait. */
  get missesInFlight(): boolean {
    return this.triedInFlight && this.inFlight === undefined;
  }

  /** A descriptor of this process whose open file has exactly one reference: what it is counted as tells of all. */
  get yardstick(): number {
    return this.tasks.iterator.linkFd;
  }

  /** Few machines have descriptors in flight, and the program is long: it is loaded when there are any. */
  private loadInFlight(): LoadedProgram<InFlightColumn> | undefined {
    if (!this.triedInFlight) {
      this.triedInFlight = true;
      this.inFlight = loadIfPossible('task_file', inFlightLayout, inFlightProgram(this.types), this.types);
    }
    return this.inFlight;
  }

  /** Prepares what {@link walkRestartBlocks} and {@link walkTimers} need. */
  prepareHeldTasks(): void {
    this.restartBlocks ??= {
      program: loadIfPossible('task', restartBlockLayout, restartBlockProgram(this.types), this.types),
    };
    this.timers ??= { program: loadIfPossible('task', timerLayout, timerProgram(this.types), this.types) };
  }

  /** The restart blocks of all tasks that are held by anybody; undefined where they are not known. */
  walkRestartBlocks(): Rows<RestartBlockColumn> | undefined {
    return this.renumbered(this.restartBlocks?.program?.walk(), ['tid']);
  }

  /** The timers of all processes that are held by anybody; undefined where they are not known. */
  walkTimers(): Rows<TimerColumn> | undefined {
    return this.renumbered(this.timers?.program?.walk(), ['tid', 'tgid']);
  }

  /** Throws KernelTypesError or BpfUnavailableError where it can't be done. */
  static load(): Walker {
    Walker.loaded ??= Walker.create();
    return Walker.loaded;
  }

  /** Tasks come last: whoever opened or mapped something before is among them, unless it has ended. */
  walk(): Walk {
    const files = this.files.walk();
    const waiting = files.u32('fdsInFlight');
    const inFlight = hasAny(files, waiting) ? this.loadInFlight()?.walk() : undefined;
    const mappings = this.mappings.walk();
    const tasks = this.tasks.walk();
    const seen = this.pidsSeen();
    return {
      files: renumber(files, ['tgid'], seen),
      mappings: renumber(mappings, ['tgid'], seen),
      inFlight,
      tasks: renumber(tasks, TASK_PID_COLUMNS, seen),
    };
  }

  /** Undefined where the numbers are the kernel's own. */
  private pidsSeen(): ReadonlyMap<number, number> | undefined {
    return this.pids && pidsSeen(this.pids.walk());
  }

  private renumbered<Column extends string>(
    rows: Rows<Column> | undefined,
    columns: readonly Column[],
  ): Rows<Column> | undefined {
    return rows && renumber(rows, columns, this.pidsSeen());
  }

  private static create(): Walker {
    const types = readKernelTypes({
      structures: [
        ...TASK_STRUCTURES,
        ...FILE_STRUCTURES,
        ...MAPPING_STRUCTURES,
        ...IN_FLIGHT_STRUCTURES,
        ...HELD_TASK_STRUCTURES,
        ...PID_STRUCTURES,
      ],
      iterators: ['task', 'task_file', 'task_vma'],
    });
    const missing = new Map<TaskColumn | FileColumn | MappingColumn, string>();
    const load = <Column extends TaskColumn | FileColumn | MappingColumn>(
      iterator: string,
      layout: RowLayout<Column>,
      make: (types: KernelTypes) => RowProgram<Column>,
    ): LoadedProgram<Column> => {
      const program = make(types);
      for (const [column, member] of program.missing) missing.set(column, member);
      return new LoadedProgram(iterator, types, layout, program.finish());
    };
    return new Walker(
      load('task', taskLayout, taskProgram),
      load('task_file', fileLayout, fileProgram),
      load('task_vma', mappingLayout, mappingProgram),
      types,
      missing,
      fileCountBias(types),
      isInFirstPidNamespace() ? undefined : loadPids(types),
    );
  }
}

/** Columns of tasks that have pids, or numbers of sessions and groups. */
const TASK_PID_COLUMNS = ['tid', 'tgid', 'parent', 'tracer', 'group', 'session'] as const;

function renumber<Column extends string>(
  rows: Rows<Column>,
  columns: readonly Column[],
  seen: ReadonlyMap<number, number> | undefined,
): Rows<Column> {
  if (seen !== undefined) for (const column of columns) rows.renumber(column, seen);
  return rows;
}

function loadPids(types: KernelTypes): LoadedProgram<PidColumn> {
  const program = pidProgram(types);
  if (program === undefined) {
    throw new BpfUnavailableError('the pids of this pid namespace are not known', {
      reason: 'this kernel has them in structures that are not known',
      advice: 'run stasis outside of the container',
    });
  }
  return new LoadedProgram('task', types, pidLayout, program.close());
}

/** A program that this kernel may not take; undefined while nobody has tried. */
type Optional<Column extends string> = { readonly program: LoadedProgram<Column> | undefined } | undefined;

function loadIfPossible<Column extends string>(
  iterator: string,
  layout: RowLayout<Column>,
  program: RowProgram<Column> | undefined,
  types: KernelTypes,
): LoadedProgram<Column> | undefined {
  if (program === undefined) return undefined;
  try {
    return new LoadedProgram(iterator, types, layout, program.close());
  } catch (error) {
    if (error instanceof BpfUnavailableError) return undefined;
    throw error;
  }
}

function hasAny(rows: Rows<FileColumn>, column: (row: number) => number): boolean {
  for (let row = 0; row < rows.count; row++) if (column(row) > 0) return true;
  return false;
}

class LoadedProgram<Column extends string> {
  readonly iterator: KernelIterator;

  constructor(
    name: string,
    types: KernelTypes,
    private readonly layout: RowLayout<Column>,
    code: Buffer,
  ) {
    const id = types.iterator(name);
    if (id === undefined) {
      throw new BpfUnavailableError(`the kernel has no iterator ${name}`, {
        reason: 'it was built without it',
        advice: 'Linux 5.13 and later have it with CONFIG_BPF_SYSCALL',
      });
    }
    this.iterator = KernelIterator.load(name, id, code);
  }

  walk(): Rows<Column> {
    return new Rows(this.layout, this.iterator.walk());
  }
}
