import { closeSync, fstatSync, openSync, statSync } from 'node:fs';
import type { MessageInitShape } from '@bufbuild/protobuf';
import type { Obstacle } from '../../errors.js';
import {
  MemoryMapSchema,
  SharedMemorySchema,
  Vma_Kind,
  type VmaSchema,
} from '../../image/generated/mm_pb.js';
import type { ImageWriter } from '../../image/writer.js';
import type { FrozenProcess } from '../../objects/frozenProcess.js';
import type { ObjectTable, TableObject } from '../../objects/objectTable.js';
import type { Refusal } from '../../objects/slice.js';
import { readLink, readProcBytes } from '../../procfs/read.js';
import type { ProcMapping } from '../../procfs/smaps.js';
import { PAGE_SIZE } from '../../sys/uapi.js';
import { type AddressRange, remoteAddress } from '../../tracee/address.js';
import type { RemoteCalls } from '../../tracee/remoteCalls.js';
import { refuseMappedFile, saveMappedFile } from './mappedFile.js';
import { type PageSurvey, savePages, saveSharedPages, surveyPages } from './pages.js';
import { isRemovedMemory, meaningOf, protectionOf, VSYSCALL, vmaKind } from './vma.js';

export const MEMORY_MAP_RECORD = 48;
export const SHARED_MEMORY_RECORD = 50;

interface SharedObject {
  readonly table: TableObject;
  /** A link of `/proc` through which it can be opened. */
  readonly link: string;
}

/**
 * The address spaces of a tree: their mappings, the files and shared memory behind them, and the pages that
 * are theirs alone.
 */
export class MemoryCheckpoint {
  private readonly files = new Map<string, { table: TableObject; path: string; executed: boolean }>();
  private readonly refusals = new Map<string, Refusal | undefined>();
  private readonly sharedObjects = new Map<string, SharedObject>();

  private readonly surveys = new Map<FrozenProcess, PageSurvey>();

  constructor(private readonly table: ObjectTable) {}

  /** Everything about a process's memory that can't be brought back. */
  refuse(process: FrozenProcess): Obstacle[] {
    const obstacles: Obstacle[] = [];
    for (const mapping of process.mappings) {
      const kind = vmaKind(mapping);
      if (kind === Vma_Kind.SPECIAL || mapping.name === VSYSCALL) continue;
      const where = `mapping ${rangeText(mapping)}`;
      for (const what of meaningOf(mapping).refused) {
        obstacles.push({ pid: process.pid, where, what, advice: 'not supported; unmap it first' });
      }
      if (kind === Vma_Kind.SHARED_ANONYMOUS && isRemovedMemory(mapping)) {
        const { nlink } = statSync(mapLink(process, mapping));
        if (nlink > 0) obstacles.push({ pid: process.pid, where, ...otherName(mapping) });
      }
      if (kind === Vma_Kind.PRIVATE_FILE || kind === Vma_Kind.SHARED_FILE) {
        const path = decodePath(mapping.name);
        obstacles.push(
          ...this.refuseFile(
            process.pid,
            where,
            path,
            `${mapping.device} ${mapping.inode}`,
            mapLink(process, mapping),
          ),
        );
      }
    }
    const exe = `/proc/${process.live}/exe`;
    const path = readLink(exe);
    return [...obstacles, ...this.refuseFile(process.pid, 'executable', path, path, exe)];
  }

  /** Queues what only the process can tell; the returned function writes its record. */
  ask(process: FrozenProcess, calls: RemoteCalls): (writer: ImageWriter, objref: number) => void {
    const brk = calls.call('brk', [0]);
    const { stat } = process;
    const auxv = readProcBytes(`/proc/${process.live}/auxv`);
    return (writer, objref) => {
      const survey = surveyPages(process.live, privateRanges(process.mappings));
      this.surveys.set(process, survey);
      writer.record(MEMORY_MAP_RECORD, objref, MemoryMapSchema, {
        startCode: stat.startCode,
        endCode: stat.endCode,
        startData: stat.startData,
        endData: stat.endData,
        startBrk: stat.startBrk,
        brk: BigInt(brk.value),
        startStack: stat.startStack,
        argStart: stat.argStart,
        argEnd: stat.argEnd,
        envStart: stat.envStart,
        envEnd: stat.envEnd,
        auxv,
        exe: this.fileObject(readLink(`/proc/${process.live}/exe`), true).objref,
        vmas: process.mappings
          .filter((mapping) => mapping.name !== VSYSCALL)
          .map((mapping) => this.vmaMessage(process, mapping)),
        guards: survey.guards.map(({ start, end }) => ({
          start,
          pages: Number((end - start) / BigInt(PAGE_SIZE)),
        })),
      });
    };
  }

  /** Writes the records of the files and shared memory objects that were met. */
  saveObjects(writer: ImageWriter): void {
    for (const { table, path, executed } of this.files.values()) {
      saveMappedFile(path, executed, table.objref, writer);
      this.table.markCheckpointed(table.objref);
    }
    for (const { table, link } of this.sharedObjects.values()) {
      const size = BigInt(fstatOf(link));
      writer.record(SHARED_MEMORY_RECORD, table.objref, SharedMemorySchema, { size });
      this.table.markCheckpointed(table.objref);
    }
  }

  /** Writes the pages of a process that are its own, piece by piece. Yields how many each piece has. */
  savePages(process: FrozenProcess, objref: number, writer: ImageWriter): AsyncIterable<number> {
    return savePages(process.memory, objref, this.surveys.get(process)?.own ?? [], writer);
  }

  /** Writes the pages of all shared memory objects, each once. Returns how many. */
  async saveSharedPages(writer: ImageWriter): Promise<number> {
    let pages = 0;
    for (const { table, link } of this.sharedObjects.values()) {
      const fd = openSync(link, 'r');
      try {
        for await (const saved of saveSharedPages(fd, fstatSync(fd).size, table.objref, writer))
          pages += saved;
      } finally {
        closeSync(fd);
      }
    }
    return pages;
  }

  private vmaMessage(process: FrozenProcess, mapping: ProcMapping): MessageInitShape<typeof VmaSchema> {
    const kind = vmaKind(mapping);
    return {
      start: mapping.start,
      end: mapping.end,
      kind,
      protection: protectionOf(mapping),
      offset: mapping.offset,
      object: this.objectOf(process, mapping, kind),
      name: mapping.name.startsWith('[') ? mapping.name : '',
      flags: meaningOf(mapping).kept,
      mayWrite: mapping.write || mapping.flags.has('mw'),
    };
  }

  private objectOf(process: FrozenProcess, mapping: ProcMapping, kind: Vma_Kind): number {
    if (kind === Vma_Kind.PRIVATE_FILE || kind === Vma_Kind.SHARED_FILE) {
      return this.fileObject(decodePath(mapping.name), mapping.execute).objref;
    }
    if (kind !== Vma_Kind.SHARED_ANONYMOUS) return 0;
    const key = `${mapping.device} ${mapping.inode}`;
    let shared = this.sharedObjects.get(key);
    if (shared === undefined) {
      shared = { table: this.table.collect('sharedMemory', key), link: mapLink(process, mapping) };
      this.sharedObjects.set(key, shared);
    }
    return shared.table.objref;
  }

  private fileObject(path: string, executed: boolean): TableObject {
    const known = this.files.get(path);
    if (known !== undefined) {
      known.executed ||= executed;
      return known.table;
    }
    const table = this.table.collect('mappedFile', path);
    this.files.set(path, { table, path, executed });
    return table;
  }

  private refuseFile(pid: number, where: string, path: string, key: string, held: string): Obstacle[] {
    const fullKey = `${key} ${path}`;
    if (!this.refusals.has(fullKey)) this.refusals.set(fullKey, refuseMappedFile(path, held));
    const refusal = this.refusals.get(fullKey);
    return refusal === undefined ? [] : [{ pid, where, ...refusal }];
  }
}

/** The private mappings, whose pages may be a process's own; neighbours are joined. */
export function privateRanges(mappings: readonly ProcMapping[]): AddressRange[] {
  const ranges: { start: bigint; end: bigint }[] = [];
  for (const mapping of mappings) {
    const kind = vmaKind(mapping);
    if (mapping.name === VSYSCALL || (kind !== Vma_Kind.ANONYMOUS && kind !== Vma_Kind.PRIVATE_FILE))
      continue;
    const previous = ranges.at(-1);
    if (previous?.end === mapping.start) previous.end = mapping.end;
    else ranges.push({ start: mapping.start, end: mapping.end });
  }
  return ranges.map(({ start, end }) => ({ start: remoteAddress(start), end: remoteAddress(end) }));
}

function otherName({ name }: ProcMapping): Refusal {
  return {
    what: `${name} has another name, by which others may reach it`,
    advice: 'remove all of its names, or none',
  };
}

/** The link that leads to the file behind a mapping, also when it has been removed. Source: proc(5). */
function mapLink(process: FrozenProcess, mapping: ProcMapping): string {
  return `/proc/${process.live}/map_files/${rangeText(mapping)}`;
}

function rangeText({ start, end }: ProcMapping): string {
  return `${start.toString(16)}-${end.toString(16)}`;
}

/** maps writes a newline in a path as `\012`; bytes are Latin-1 there. */
function decodePath(name: string): string {
  return Buffer.from(name.replaceAll('\\012', '\n'), 'latin1').toString('utf8');
}

function fstatOf(link: string): number {
  const fd = openSync(link, 'r');
  try {
    return fstatSync(fd).size;
  } finally {
    closeSync(fd);
  }
}
