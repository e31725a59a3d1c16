import { fstatSync } from 'node:fs';
import { ImageError } from '../errors.js';
import { recordType } from '../image/format.js';
import type { FilesStruct } from '../image/generated/files_struct_pb.js';
import { type Header, HeaderSchema, type Pagemap, PagemapSchema } from '../image/generated/image_pb.js';
import {
  type MappedFile,
  type MemoryMap,
  MemoryMapSchema,
  type SharedMemory,
  SharedMemorySchema,
  Vma_Kind,
} from '../image/generated/mm_pb.js';
import { type MountNamespace, MountNamespaceSchema } from '../image/generated/namespaces_pb.js';
import {
  type Process,
  ProcessSchema,
  RestartBlock_Kind,
  type Thread,
} from '../image/generated/process_pb.js';
import { decodePayload, type ImageRecord, readRecords } from '../image/reader.js';
import type { LoadedFile, LoadedState } from '../objects/slice.js';
import { MAX_DESCRIPTOR, NSIG, PAGE_SIZE } from '../sys/uapi.js';
import { GENERAL_REGISTERS_SIZE } from '../tracee/arch/x86_64/registers.js';
import { FILES_STRUCT_RECORD, loadFilesStruct } from './filesStruct.js';
import { fileKinds, processKinds, seccompKind, structureKinds, threadKinds } from './index.js';
import { MEMORY_MAP_RECORD, SHARED_MEMORY_RECORD } from './mm/checkpoint.js';
import { loadMappedFile, MAPPED_FILE_RECORD } from './mm/mappedFile.js';
import { MOUNT_NAMESPACE_RECORD } from './namespaces/mountNamespace.js';
import { endOf, PROCESS_RECORD } from './process.js';

/** Where pages are in an image: each run's bytes follow those of the run before. */
export interface PageRecord {
  /** Byte offset of the first run's pages in the stream. */
  readonly offset: number;
  readonly runs: readonly { readonly start: bigint; readonly pages: number }[];
}

export interface LoadedThread {
  readonly message: Thread;
  /** What it may call. */
  readonly seccomp: LoadedState | undefined;
  readonly states: readonly LoadedState[];
}

export interface LoadedProcess {
  readonly objref: number;
  readonly message: Process;
  /** Those of what it shares with a process before it are with that one. */
  readonly states: readonly LoadedState[];
  readonly threads: readonly LoadedThread[];
  readonly mm: MemoryMap;
  readonly files: FilesStruct;
}

/** An image all of whose bytes, messages and references were checked. */
export interface LoadedImage {
  readonly header: Header;
  /** Bytes. */
  readonly size: number;
  /** All processes, parents before children; the root first. */
  readonly members: readonly Process[];
  /** Those that are no zombies, in the same order. */
  readonly processes: readonly LoadedProcess[];
  readonly files: ReadonlyMap<number, LoadedFile>;
  readonly mappedFiles: ReadonlyMap<number, MappedFile>;
  readonly sharedMemory: ReadonlyMap<number, SharedMemory>;
  readonly mountNamespaces: ReadonlyMap<number, MountNamespace>;
  /** By the objref of the address space or shared memory object. */
  readonly pages: ReadonlyMap<number, readonly PageRecord[]>;
}

/** Reads an image from a regular file. Throws ImageError. */
export async function loadImage(fd: number): Promise<LoadedImage> {
  const records = await readRecords(fd);
  const loader = new Loader(records);
  return loader.load(fstatSync(fd).size);
}

const structureKindList = Object.values(structureKinds);
const taskKindByType = new Map(
  [...structureKindList, ...processKinds, seccompKind, ...threadKinds].map((kind) => [kind.recordType, kind]),
);
const fileKindByType = new Map(fileKinds.map((kind) => [kind.recordType, kind]));
const LAST_ADDRESS = 0x7fff_ffff_f000n;

class Loader {
  private readonly states = new Map<number, LoadedState[]>();
  private readonly files = new Map<number, LoadedFile>();
  private readonly tables = new Map<number, FilesStruct>();
  private readonly spaces = new Map<number, { record: ImageRecord; message: MemoryMap }>();
  private readonly mappedFiles = new Map<number, MappedFile>();
  private readonly sharedMemory = new Map<number, SharedMemory>();
  private readonly mountNamespaces = new Map<number, MountNamespace>();
  private readonly pages = new Map<number, PageRecord[]>();
  private readonly processes: { record: ImageRecord; message: Process }[] = [];
  private openPagemap: { record: ImageRecord; message: Pagemap } | undefined;

  constructor(private readonly records: readonly ImageRecord[]) {}

  load(size: number): LoadedImage {
    const first = this.records[0];
    if (first?.type !== recordType.header) {
      throw new ImageError(first?.offset ?? 0, 'record[0].type', 'an image begins with its header');
    }
    const header = decodePayload(first, HeaderSchema, 'header');
    this.checkHeader(first, header);
    for (const [index, record] of this.records.slice(1).entries()) this.take(record, index + 1);
    if (this.openPagemap !== undefined) {
      throw new ImageError(this.openPagemap.record.offset, 'pagemap', 'its pages do not follow');
    }
    for (const { record, message } of this.spaces.values()) this.checkSpace(record, message);
    for (const [objref, table] of this.tables) this.checkTable(objref, table);
    for (const file of this.files.values()) this.checkReferences(file);
    for (const [objref, { size: bytes }] of this.sharedMemory) this.checkSharedPages(objref, bytes);
    return {
      header,
      size,
      members: this.processes.map(({ message }) => message),
      processes: this.linkProcesses(header),
      files: this.files,
      mappedFiles: this.mappedFiles,
      sharedMemory: this.sharedMemory,
      mountNamespaces: this.mountNamespaces,
      pages: this.pages,
    };
  }

  private checkHeader(record: ImageRecord, header: Header): void {
    const wrong = (field: string, problem: string, advice: string): never => {
      throw new ImageError(record.payloadOffset, `header.${field}`, problem, { advice });
    };
    if (header.architecture !== 'x86_64') {
      wrong('architecture', `${header.architecture || 'none'}, not x86_64`, 'restart it on such a machine');
    }
    if (header.pageSize !== PAGE_SIZE) {
      wrong('pageSize', `${header.pageSize} bytes, not ${PAGE_SIZE}`, 'restart it on such a machine');
    }
  }

  private take(record: ImageRecord, index: number): void {
    if (this.openPagemap !== undefined && record.type !== recordType.pages) {
      throw new ImageError(
        record.offset,
        `record[${index}].type`,
        'the pages of the pagemap before it are missing',
      );
    }
    const taskKind = taskKindByType.get(record.type);
    if (taskKind !== undefined) {
      const states = this.states.get(record.objref) ?? [];
      states.push(taskKind.load(record));
      this.states.set(record.objref, states);
      return;
    }
    const kind = fileKindByType.get(record.type);
    if (kind !== undefined) {
      this.put(this.files, record, kind.load(record));
      return;
    }
    switch (record.type) {
      case PROCESS_RECORD:
        this.processes.push({
          record,
          message: decodePayload(record, ProcessSchema, `process[${record.objref}]`),
        });
        break;
      case MEMORY_MAP_RECORD:
        this.put(this.spaces, record, {
          record,
          message: decodePayload(record, MemoryMapSchema, `mm[${record.objref}]`),
        });
        break;
      case MAPPED_FILE_RECORD:
        this.put(this.mappedFiles, record, loadMappedFile(record));
        break;
      case SHARED_MEMORY_RECORD:
        this.put(
          this.sharedMemory,
          record,
          decodePayload(record, SharedMemorySchema, `sharedMemory[${record.objref}]`),
        );
        break;
      case MOUNT_NAMESPACE_RECORD:
        this.put(
          this.mountNamespaces,
          record,
          decodePayload(record, MountNamespaceSchema, `mountNamespace[${record.objref}]`),
        );
        break;
      case FILES_STRUCT_RECORD:
        this.put(this.tables, record, loadFilesStruct(record));
        break;
      case recordType.pagemap:
        this.openPagemap = {
          record,
          message: decodePayload(record, PagemapSchema, `pagemap[${record.objref}]`),
        };
        break;
      case recordType.pages:
        this.takePages(record, index);
        break;
      default:
        throw new ImageError(record.offset, `record[${index}].type`, `${record.type} is not known`, {
          advice: 'a newer Stasis wrote it: use that version',
        });
    }
  }

  private put<T>(map: Map<number, T>, record: ImageRecord, value: T): void {
    if (record.objref === 0 || map.has(record.objref)) {
      const problem = record.objref === 0 ? 'no objref' : `objref ${record.objref} for the second time`;
      throw new ImageError(record.offset, 'record.objref', problem);
    }
    map.set(record.objref, value);
  }

  private takePages(record: ImageRecord, index: number): void {
    const pagemap = this.openPagemap;
    this.openPagemap = undefined;
    if (pagemap === undefined || pagemap.record.objref !== record.objref) {
      throw new ImageError(record.offset, `record[${index}]`, 'pages without their pagemap');
    }
    const { runs } = pagemap.message;
    const pages = runs.reduce((sum, run) => sum + run.pages, 0);
    if (pages * PAGE_SIZE !== record.length) {
      throw new ImageError(
        pagemap.record.payloadOffset,
        `pagemap[${record.objref}].runs`,
        `${pages} pages, but ${record.length} bytes follow`,
      );
    }
    const list = this.pages.get(record.objref) ?? [];
    list.push({ offset: record.payloadOffset, runs });
    this.pages.set(record.objref, list);
  }

  private checkSpace(record: ImageRecord, { vmas, exe, guards }: MemoryMap): void {
    const name = `mm[${record.objref}]`;
    const wrong = (field: string, problem: string): never => {
      throw new ImageError(record.payloadOffset, `${name}.${field}`, problem);
    };
    if (!this.mappedFiles.has(exe)) wrong('exe', `there is no mapped file ${exe}`);
    let end = 0n;
    vmas.forEach((vma, index) => {
      const field = `vmas[${index}]`;
      if (vma.start < end || vma.end <= vma.start || vma.end > LAST_ADDRESS) {
        wrong(`${field}.start`, `the range ${vma.start.toString(16)}-${vma.end.toString(16)} is not allowed`);
      }
      if (((vma.start | vma.end | vma.offset) & BigInt(PAGE_SIZE - 1)) !== 0n) {
        wrong(`${field}.start`, 'not aligned to a page');
      }
      if (vma.protection > 7) wrong(`${field}.protection`, `${vma.protection} is not known`);
      const isFile = vma.kind === Vma_Kind.PRIVATE_FILE || vma.kind === Vma_Kind.SHARED_FILE;
      if (isFile && !this.mappedFiles.has(vma.object))
        wrong(`${field}.object`, `there is no mapped file ${vma.object}`);
      if (vma.kind === Vma_Kind.SHARED_ANONYMOUS && !this.sharedMemory.has(vma.object)) {
        wrong(`${field}.object`, `there is no shared memory ${vma.object}`);
      }
      if (Vma_Kind[vma.kind] === undefined || vma.kind === Vma_Kind.KIND_UNSPECIFIED) {
        wrong(`${field}.kind`, `${vma.kind} is not known`);
      }
      end = vma.end;
    });
    const checkRuns = (field: string, runs: PageRecord['runs']): void => {
      for (const run of runs) {
        const last = run.start + BigInt(run.pages) * BigInt(PAGE_SIZE);
        if (run.start % BigInt(PAGE_SIZE) !== 0n || !coveredByPrivate(vmas, run.start, last)) {
          wrong(field, `pages at ${run.start.toString(16)} that are in no private mapping`);
        }
      }
    };
    checkRuns('guards', guards);
    for (const { runs } of this.pages.get(record.objref) ?? []) checkRuns('pagemap.runs', runs);
  }

  private checkSharedPages(objref: number, size: bigint): void {
    for (const { offset, runs } of this.pages.get(objref) ?? []) {
      for (const run of runs) {
        if (run.start + BigInt(run.pages) * BigInt(PAGE_SIZE) > size + BigInt(PAGE_SIZE - 1)) {
          throw new ImageError(offset, `sharedMemory[${objref}].pagemap`, `pages beyond its ${size} bytes`);
        }
      }
    }
  }

  private checkReferences({ kind, objref, references, offset }: LoadedFile): void {
    for (const { field, file } of references) {
      if (!this.files.has(file)) {
        throw new ImageError(offset, `${kind}[${objref}].${field}`, `there is no open file ${file}`);
      }
    }
  }

  private checkTable(objref: number, { descriptors }: FilesStruct): void {
    const seen = new Set<number>();
    descriptors.forEach(({ fd, file }, index) => {
      const field = `filesStruct[${objref}].descriptors[${index}]`;
      if (seen.has(fd) || fd > MAX_DESCRIPTOR) {
        throw new ImageError(0, `${field}.fd`, `descriptor ${fd} is there twice or too large`);
      }
      if (!this.files.has(file)) throw new ImageError(0, `${field}.file`, `there is no open file ${file}`);
      seen.add(fd);
    });
  }

  private linkProcesses(header: Header): LoadedProcess[] {
    const threads = new Map<number, ReadonlySet<number>>();
    const tids = new Set<number>();
    const told = new Set<number>();
    const linked = this.processes.map(({ record, message }, index): LoadedProcess | undefined => {
      const name = `process[${record.objref}]`;
      const wrong = (field: string, problem: string): never => {
        throw new ImageError(record.payloadOffset, `${name}.${field}`, problem);
      };
      const { pid, parent, parentThread, zombie } = message;
      if (index === 0) {
        if (header.container && pid !== 1) wrong('pid', `${pid} is not that of the init of a container`);
        if (pid !== header.rootPid) wrong('pid', 'not the root of the header');
        if (parent !== 0) wrong('parent', `the root has a parent, ${parent}`);
        if (zombie !== undefined) wrong('zombie', 'the root has ended');
      } else {
        if (!threads.has(parent)) wrong('parent', `there is no process ${parent}`);
        if (!threads.get(parent)?.has(parentThread)) {
          wrong('parentThread', `process ${parent} has no thread ${parentThread}`);
        }
      }
      checkNamespaces(message, this.processes.find((other) => other.message.pid === parent)?.message, wrong);
      if (message.mountNamespace !== 0 && !this.mountNamespaces.has(message.mountNamespace)) {
        wrong('mountNamespace', `there is no mount namespace ${message.mountNamespace}`);
      }
      if (message.exitSignal > NSIG) wrong('exitSignal', `there is no signal ${message.exitSignal}`);
      if (zombie !== undefined && endOf(zombie.status) === undefined) {
        wrong('zombie.status', `no process ends with the status ${zombie.status}`);
      }
      checkThreads(message, tids, wrong);
      threads.set(pid, new Set(zombie === undefined ? message.threads.map(({ tid }) => tid) : []));
      return zombie === undefined ? this.linkProcess(record, message, told, wrong) : undefined;
    });
    if (linked.length === 0) throw new ImageError(0, 'processes', 'there are none');
    return linked.filter((process) => process !== undefined);
  }

  /** `told` has the objrefs of shared structures that earlier processes tell of. */
  private linkProcess(
    { objref }: ImageRecord,
    message: Process,
    told: Set<number>,
    wrong: (field: string, problem: string) => never,
  ): LoadedProcess {
    const mm = this.spaces.get(message.mm)?.message ?? wrong('mm', `there is no address space ${message.mm}`);
    const files = this.tables.get(message.files) ?? wrong('files', `there is no file table ${message.files}`);
    const structures = [message.sighand, message.fs].flatMap((shared) => {
      if (shared === 0 || told.has(shared)) return [];
      told.add(shared);
      return this.statesOf(shared, structureKindList);
    });
    return {
      objref,
      message,
      mm,
      files,
      states: [...structures, ...this.statesOf(objref, processKinds)],
      threads: message.threads.map((thread) => ({
        message: thread,
        seccomp: this.statesOf(thread.objref, [seccompKind])[0],
        states: this.statesOf(thread.objref, threadKinds),
      })),
    };
  }

  /** Those of some kinds, in the registry's order, whatever the stream's was. */
  private statesOf(objref: number, kinds: readonly { readonly kind: string }[]): LoadedState[] {
    const states = this.states.get(objref) ?? [];
    const order = (state: LoadedState): number => kinds.findIndex((kind) => kind.kind === state.kind);
    return states.filter((state) => order(state) >= 0).sort((a, b) => order(a) - order(b));
  }
}

function coveredByPrivate(vmas: MemoryMap['vmas'], start: bigint, end: bigint): boolean {
  let at = start;
  for (const vma of vmas) {
    if (vma.end <= at) continue;
    if (vma.start > at || (vma.kind !== Vma_Kind.ANONYMOUS && vma.kind !== Vma_Kind.PRIVATE_FILE))
      return false;
    at = vma.end;
    if (at >= end) return true;
  }
  return false;
}

function checkThreads(
  { pid, threads, zombie }: Process,
  taken: Set<number>,
  wrong: (field: string, problem: string) => never,
): void {
  if (threads[0]?.tid !== pid) wrong('threads[0].tid', 'not the pid of the process');
  threads.forEach((thread, index) => {
    const field = `threads[${index}]`;
    if (thread.tid <= 0 || taken.has(thread.tid)) {
      wrong(`${field}.tid`, `${thread.tid} is taken or not allowed`);
    }
    taken.add(thread.tid);
    if (zombie !== undefined) {
      if (index > 0) wrong(field, 'a zombie has no threads');
      return;
    }
    if (thread.ended !== undefined) {
      if (index > 0 || threads.length === 1)
        wrong(`${field}.ended`, 'only a leader of other threads can have ended');
      const end = endOf(thread.ended);
      if (end === undefined || !('status' in end)) {
        wrong(`${field}.ended`, `no leader ends with the status ${thread.ended}`);
      }
      return;
    }
    if (thread.restartBlock !== undefined && RestartBlock_Kind[thread.restartBlock.kind] === undefined) {
      wrong(`${field}.restartBlock.kind`, `${thread.restartBlock.kind} is not known`);
    }
    if (thread.registers.length !== GENERAL_REGISTERS_SIZE) {
      wrong(`${field}.registers`, `${thread.registers.length} bytes instead of ${GENERAL_REGISTERS_SIZE}`);
    }
  });
}

function checkNamespaces(
  { nestedPids, nestedGroups, nestedSessions, threads }: Process,
  parent: Process | undefined,
  wrong: (field: string, problem: string) => never,
): void {
  const depth = nestedPids.length;
  const parentDepth = parent?.nestedPids.length ?? 0;
  if (depth < parentDepth || depth > parentDepth + 1) {
    wrong('nestedPids', `${depth} pid namespaces below the tree's own, and ${parentDepth} of its parent`);
  }
  if (nestedGroups.length !== depth) wrong('nestedGroups', `${nestedGroups.length} instead of ${depth}`);
  if (nestedSessions.length !== depth)
    wrong('nestedSessions', `${nestedSessions.length} instead of ${depth}`);
  threads.forEach(({ nestedTids }, index) => {
    if (nestedTids.length !== depth) wrong(`threads[${index}].nestedTids`, `${nestedTids.length} ids`);
  });
}
