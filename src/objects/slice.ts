import type { DescMessage, MessageInitShape, MessageShape } from '@bufbuild/protobuf';
import { ImageError, type Obstacle } from '../errors.js';
import { decodePayload, type ImageRecord } from '../image/reader.js';
import type { ImageWriter } from '../image/writer.js';
import type { ProcLimit } from '../procfs/limits.js';
import type { ProcStatus } from '../procfs/status.js';
import type { RemoteCalls, RemoteResult } from '../tracee/remoteCalls.js';
import type { Descriptor, FrozenProcess, FrozenThread } from './frozenProcess.js';
import type { Objref, TableObject } from './objectTable.js';

/** Why something can't be checkpointed, and what to do; the caller adds where it is. */
export interface Refusal {
  readonly what: string;
  readonly advice: string;
}

/** An open file description of the tree. */
export interface OpenFile {
  readonly object: TableObject;
  /** One of its holders, and a thread of that to look at it through. */
  readonly pid: number;
  readonly live: number;
  readonly descriptor: Descriptor;
  /** All slots that refer to it. */
  readonly slots: { readonly pid: number; readonly fd: number }[];
}

/** What a slice may use while it looks at and saves open files. */
export interface FileCheckpoint {
  readonly writer: ImageWriter;
  /** Lets `use` work with a copy of the descriptor in this process; it is closed afterwards. */
  borrow<T>(file: OpenFile, use: (fd: number) => T): T;
  /** All open files of the tree. */
  readonly files: readonly OpenFile[];
  /** All open files of the tree whose link in `/proc/PID/fd` is the same. */
  sameLink(file: OpenFile): readonly OpenFile[];
  /**
   * Nobody outside has what it leads to but this process, which runs below the tree's root: for whoever is
   * restarted it will have ended.
   */
  endsWithStasis(file: OpenFile): boolean;
  /** It leads outside, and the caller accepted that. */
  isAcceptedLeak(file: OpenFile): boolean;
  /** Collects an object that files share, such as a pipe; the same for the same key. */
  collect(kind: string, key: string): TableObject;
  /** Whether this is the first call for that object: its record is to be written now. */
  claimRecord(object: TableObject): boolean;
}

/** What a slice may use to check, before anything starts, that it can be restarted. */
export interface VerifyContext {
  /** Changed files are no obstacle. */
  readonly force: boolean;
  /** Whether external resources of that key were attached, or the standard streams serve. */
  isAttached(key: string, slots: readonly number[]): boolean;
  /** The slots, all over the tree, in which a file is. */
  slotsOf(objref: number): readonly number[];
}

/** What a slice may use to make open files anew, in the helper process. */
export interface FileRestart {
  readonly calls: RemoteCalls;
  /** In the helper: its own directory in `/proc`, which may show the tree's processes and not the helper. */
  readonly procSelf: number;
  /** What several files share, such as a pipe: made once for each key. */
  shared<T>(key: string, make: () => T): T;
  /** The descriptor in the helper for an external resource in a slot. */
  external(key: string, slot: number): number;
}

/** The files that the helper process has opened, by their objrefs. */
export interface OpenedFiles {
  /** The helper's descriptor for a file that is to be in a slot. */
  descriptorOf(file: number, slot: number): number;
  describe(file: number): string;
}

/** What a slice may use to connect a file with others, in the helper process, when all are open. */
export interface FileConnection extends OpenedFiles {
  readonly calls: RemoteCalls;
}

/** A field of a message that has the objref of an open file. */
export interface FileReference {
  readonly field: string;
  readonly file: number;
}

/** A file read from an image. */
export interface LoadedFile {
  readonly kind: string;
  readonly objref: number;
  readonly references: readonly FileReference[];
  /** Where in the image its message begins. */
  readonly offset: number;
  /** In words, for inspect and messages. */
  readonly description: string;
  /** The message, for `inspect --json`. */
  readonly message: unknown;
  verify(context: VerifyContext): Obstacle[];
  /** Queues the calls that open it; returns its descriptor in the helper, or one for each slot. */
  restart(context: FileRestart): FileSource;
  /** Queues the calls that connect it, a descriptor of the helper, with the files that it refers to. */
  connect(descriptor: number, context: FileConnection): void;
}

/** Where the slots of a file come from: one descriptor in the helper, or one that depends on the slot. */
export type FileSource = RemoteResult | number | ((slot: number) => number);

/** Everything about one kind of open file, as its slice writes it. */
export interface FileSlice<Desc extends DescMessage> {
  readonly kind: string;
  /** From 64 on; see the registry. */
  readonly recordType: number;
  readonly schema: Desc;
  /** Whether a file is of this kind. */
  claims(file: OpenFile, context: FileCheckpoint): boolean;
  refuse?(file: OpenFile, context: FileCheckpoint): Refusal | undefined;
  checkpoint(file: OpenFile, context: FileCheckpoint): MessageInitShape<Desc>;
  /** Checks what the message's type can't say. */
  validate?(message: MessageShape<Desc>): FieldProblem | undefined;
  /** The files that it refers to: the loader sees that they are there. */
  references?(message: MessageShape<Desc>): readonly FileReference[];
  describe(message: MessageShape<Desc>): string;
  verify?(message: MessageShape<Desc>, context: VerifyContext, objref: number): Obstacle[];
  restart(message: MessageShape<Desc>, context: FileRestart): FileSource;
  /** What can only be done when the files are there that it refers to. */
  connect?(message: MessageShape<Desc>, descriptor: number, context: FileConnection): void;
}

/** A slice as the framework sees it: the type of its message is its own affair. */
export interface FileKind {
  readonly kind: string;
  readonly recordType: number;
  claims(file: OpenFile, context: FileCheckpoint): boolean;
  refuse(file: OpenFile, context: FileCheckpoint): Refusal | undefined;
  save(file: OpenFile, context: FileCheckpoint): void;
  load(record: ImageRecord): LoadedFile;
}

/** Prepares a slice for the registry. */
export function fileKind<Desc extends DescMessage>(slice: FileSlice<Desc>): FileKind {
  return {
    kind: slice.kind,
    recordType: slice.recordType,
    claims: (file, context) => slice.claims(file, context),
    refuse: (file, context) => slice.refuse?.(file, context),
    save(file, context) {
      const message = slice.checkpoint(file, context);
      context.writer.record(slice.recordType, file.object.objref, slice.schema, message);
    },
    load(record) {
      const message = loadMessage(record, slice);
      return {
        kind: slice.kind,
        objref: record.objref,
        references: slice.references?.(message) ?? [],
        offset: record.payloadOffset,
        description: slice.describe(message),
        message,
        verify: (context) => slice.verify?.(message, context, record.objref) ?? [],
        restart: (context) => slice.restart(message, context),
        connect: (descriptor, context) => slice.connect?.(message, descriptor, context),
      };
    },
  };
}

/** A record's message, checked. Throws ImageError. */
function loadMessage<Desc extends DescMessage>(
  record: ImageRecord,
  { kind, schema, validate }: MessageSlice<Desc>,
): MessageShape<Desc> {
  const name = `${kind}[${record.objref}]`;
  const message = decodePayload(record, schema, name);
  const problem = validate?.(message);
  if (problem === undefined) return message;
  throw new ImageError(record.payloadOffset, `${name}.${problem.field}`, problem.problem);
}

/** What slices of files and of tasks have in common. */
interface MessageSlice<Desc extends DescMessage> {
  readonly kind: string;
  readonly schema: Desc;
  validate?(message: MessageShape<Desc>): FieldProblem | undefined;
}

/** What a task slice may use at restart. */
export interface TaskRestart {
  /** The process and the thread, as this process sees them. */
  readonly pid: number;
  readonly tid: number;
  /** As they see themselves. */
  readonly ownPid: number;
  readonly ownTid: number;
  /** The state that new tasks inherit: that of Stasis itself. */
  readonly inherited: InheritedState;
  /** Whether control groups are wanted as they were. */
  readonly cgroups: boolean;
  /** Adds a line to the warnings that the caller sees. */
  warn(text: string): void;
  /** Has something done, last things first, when the restart fails after all and its tasks are gone. */
  undo(action: () => void): void;
}

/** What a task made by Stasis has without being given it. */
export interface InheritedState {
  readonly status: ProcStatus;
  readonly limits: readonly ProcLimit[];
  /** The CPU mask as sched_getaffinity(2) gives it. */
  readonly affinity: Uint8Array;
  readonly coredumpFilter: string;
  readonly oomScoreAdjustment: string;
  /** Undefined where the kernel has no audit. */
  readonly loginUid: number | undefined;
}

/** State of a process or thread read from an image. */
export interface LoadedState {
  readonly kind: string;
  readonly message: unknown;
  verify(pid: number): Obstacle[];
  /** Queues the calls that bring it back. */
  restart(calls: RemoteCalls, context: TaskRestart): void;
}

type SubjectOf<Scope extends 'process' | 'thread'> = Scope extends 'process' ? FrozenProcess : FrozenThread;

/** Everything about one part of a task's state, as its slice writes it. */
export interface TaskSlice<Desc extends DescMessage, Scope extends 'process' | 'thread'> {
  readonly kind: string;
  /** From 16 to 63; see the registry. */
  readonly recordType: number;
  readonly scope: Scope;
  readonly schema: Desc;
  refuse?(subject: SubjectOf<Scope>): Obstacle[];
  /**
   * Reads the state. What only the task itself can tell is asked by queueing calls, which must not change
   * it; the returned function is called when they have run, and makes the message, or undefined for a
   * state that a new task has anyway.
   */
  checkpoint(subject: SubjectOf<Scope>, calls: RemoteCalls): () => MessageInitShape<Desc> | undefined;
  /** Checks what the message's type can't say. */
  validate?(message: MessageShape<Desc>): FieldProblem | undefined;
  /** Looks, before anything is started, for what would keep it from being brought back. */
  verify?(message: MessageShape<Desc>, pid: number): Obstacle[];
  restart(message: MessageShape<Desc>, calls: RemoteCalls, context: TaskRestart): void;
}

/** A field of a message that can't be right. */
export interface FieldProblem {
  readonly field: string;
  readonly problem: string;
}

/** A slice as the framework sees it. */
export interface TaskKind<Scope extends 'process' | 'thread'> {
  readonly kind: string;
  readonly recordType: number;
  readonly scope: Scope;
  refuse(subject: SubjectOf<Scope>): Obstacle[];
  /** Queues the questions; the returned function writes the record. */
  ask(subject: SubjectOf<Scope>, calls: RemoteCalls): (writer: ImageWriter, objref: Objref) => void;
  load(record: ImageRecord): LoadedState;
}

/** Prepares a slice for the registry. */
export function taskKind<Desc extends DescMessage, Scope extends 'process' | 'thread'>(
  slice: TaskSlice<Desc, Scope>,
): TaskKind<Scope> {
  return {
    kind: slice.kind,
    recordType: slice.recordType,
    scope: slice.scope,
    refuse: (subject) => slice.refuse?.(subject) ?? [],
    ask(subject, calls) {
      const answer = slice.checkpoint(subject, calls);
      return (writer, objref) => {
        const message = answer();
        if (message !== undefined) writer.record(slice.recordType, objref, slice.schema, message);
      };
    },
    load(record) {
      const message = loadMessage(record, slice);
      return {
        kind: slice.kind,
        message,
        verify: (pid) => slice.verify?.(message, pid) ?? [],
        restart: (calls, context) => slice.restart(message, calls, context),
      };
    },
  };
}
