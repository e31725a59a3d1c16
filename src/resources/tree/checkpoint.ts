import { pid as ownPid } from 'node:process';
import { InternalError, type Obstacle } from '../../errors.js';
import type { FrozenTree } from '../../freezer/freeze.js';
import type { ImageWriter } from '../../image/writer.js';
import type { Identity, StructureKind } from '../../objects/census.js';
import {
  type FrozenProcess,
  type FrozenThread,
  readDescriptors,
  readMappings,
  readThread,
} from '../../objects/frozenProcess.js';
import { KcmpIndex } from '../../objects/kcmpIndex.js';
import { ObjectTable, type Objref } from '../../objects/objectTable.js';
import { readProc } from '../../procfs/read.js';
import { parseStat } from '../../procfs/stat.js';
import { parseStatus } from '../../procfs/status.js';
import { kcmp } from '../../sys/process.js';
import { kcmpType } from '../../sys/uapi.js';
import { Registers } from '../../tracee/arch/x86_64/registers.js';
import { RemoteMemory } from '../../tracee/memory.js';
import type { Containment } from '../containment/containment.js';
import { saveFilesStruct } from '../filesStruct.js';
import { refuseProcess, refuseThread, refuseUnheld } from '../guards.js';
import { fileKinds, processKinds, threadKinds } from '../index.js';
import { MemoryCheckpoint } from '../mm/checkpoint.js';
import { OpenFiles } from '../openFiles.js';
import { saveProcess } from '../process.js';
import { Inquiry, type Save } from './inquiry.js';
import { type Member, planBirths } from './sessions.js';

/** The state of a held tree: collected, examined, asked for, and saved. */
export class TreeCheckpoint implements Disposable {
  private readonly table = new ObjectTable();
  private readonly files: OpenFiles;
  private readonly memory = new MemoryCheckpoint(this.table);
  private readonly spaces = new Map<FrozenProcess, Objref>();
  private readonly tables = new Map<FrozenProcess, { objref: Objref; fresh: boolean }>();
  private readonly sharing: Obstacle[] = [];
  private readonly memories: RemoteMemory[] = [];
  private readonly saves: Save[] = [];
  /** Parents before children. */
  private readonly byPid = new Map<number, FrozenProcess>();

  constructor(
    private readonly frozen: FrozenTree,
    private readonly containment?: Containment,
  ) {
    this.files = new OpenFiles(this.table, fileKinds, containment);
  }

  get processes(): readonly FrozenProcess[] {
    return [...this.byPid.values()];
  }

  /** Reads what every process has, and finds out which of it is shared. */
  collect(): void {
    this.containment?.collect(new Set(this.frozen.processes.map(({ pid }) => pid)));
    for (const { pid, zombie, threads } of this.frozen.processes) {
      if (!zombie && threads[0]?.tid === pid) this.byPid.set(pid, this.read(pid, threads));
    }
    this.findShared();
  }

  /** Everything in the tree that can't be brought back. Changes nothing. */
  refuse(): Obstacle[] {
    const sessions = new Set(
      this.processes.map(({ stat }) => stat.session).filter((sid) => this.byPid.has(sid)),
    );
    const stasis = this.containment?.taskOf(ownPid);
    const unheld = this.frozen.processes
      .filter(({ stopped, unheld }) => stopped || unheld.length > 0)
      .flatMap(({ pid, zombie, stopped, unheld }) =>
        refuseUnheld(pid, parentOf(pid), zombie, stopped, unheld),
      );
    const own = this.processes.flatMap((process) => [
      ...refuseProcess(process, sessions, stasis),
      ...processKinds.flatMap((kind) => kind.refuse(process)),
      ...this.memory.refuse(process),
      ...process.threads.flatMap((thread) => [
        ...refuseThread(thread),
        ...threadKinds.flatMap((kind) => kind.refuse(thread)),
      ]),
    ]);
    const order = unheld.length > 0 ? [] : planBirths(this.members()).obstacles;
    return [...unheld, ...own, ...order, ...this.sharing, ...this.files.classify()];
  }

  /** Asks every task for what only it can tell. All processes work at the same time. */
  ask(): void {
    const inquiries: Inquiry[] = [];
    try {
      for (const process of this.processes) {
        const inquiry = new Inquiry(process, this.memory, this.spaces.get(process) ?? 0);
        inquiries.push(inquiry);
        inquiry.begin();
      }
      for (const inquiry of inquiries) inquiry.askLeader();
      for (const inquiry of inquiries) this.saves.push(...inquiry.finish());
    } finally {
      for (const inquiry of inquiries) inquiry[Symbol.dispose]();
    }
  }

  /** Writes everything but the pages. */
  save(writer: ImageWriter): void {
    const insiders = new Set(this.byPid.keys());
    const root = this.processes[0];
    for (const process of this.processes) {
      const table = this.tables.get(process);
      const references = { mm: this.spaces.get(process) ?? 0, files: table?.objref ?? 0 };
      saveProcess(process, references, insiders, process === root, writer);
      for (const { objref } of [process, ...process.threads]) this.table.markCheckpointed(objref);
      if (table?.fresh) saveFilesStruct(process, this.files, table.objref, writer);
    }
    for (const save of this.saves) save(writer);
    this.files.save(writer);
    this.memory.saveObjects(writer);
    for (const objref of this.spaces.values()) this.table.markCheckpointed(objref);
    for (const { objref } of this.tables.values()) this.table.markCheckpointed(objref);
    const unsaved = this.table.unsaved();
    if (unsaved.length > 0) {
      const list = unsaved.map(({ kind, objref }) => `${kind} ${objref}`).join(', ');
      throw new InternalError(`collected objects were not saved: ${list}`);
    }
  }

  /** Writes the pages; `breathe` is called now and then. Returns how many there are. */
  async savePages(writer: ImageWriter, breathe: () => Promise<void>): Promise<number> {
    let pages = 0;
    for (const process of this.processes) {
      for await (const saved of this.memory.savePages(process, this.spaces.get(process) ?? 0, writer)) {
        pages += saved;
        if (pages % BREATHE_PAGES < saved) await breathe();
      }
    }
    pages += await this.memory.saveSharedPages(writer);
    await writer.settle();
    return pages;
  }

  [Symbol.dispose](): void {
    for (const memory of this.memories.splice(0)) memory[Symbol.dispose]();
    this.files[Symbol.dispose]();
  }

  private read(pid: number, tracees: FrozenTree['processes'][number]['threads']): FrozenProcess {
    const memory = new RemoteMemory(pid);
    this.memories.push(memory);
    const threads: FrozenThread[] = [];
    const process: FrozenProcess = {
      objref: this.table.add('process').objref,
      pid,
      stat: parseStat(readProc(`/proc/${pid}/stat`)),
      status: parseStatus(readProc(`/proc/${pid}/status`)),
      threads,
      mappings: readMappings(pid),
      memory,
      descriptors: readDescriptors(pid),
      census: this.containment?.taskOf(pid),
    };
    for (const tracee of tracees) {
      threads.push(readThread(tracee, process, this.table.add('thread').objref, new Registers()));
    }
    return process;
  }

  /** Tables that processes share are saved once; what else they share must not be. */
  private findShared(): void {
    const tables = new StructureIndex<{ objref: Objref; owner: FrozenProcess }>(
      'filesStruct',
      kcmpType.KCMP_FILES,
    );
    const others = SHARED_STRUCTURES.map(({ kind, type, what }) => ({
      index: new StructureIndex<number>(kind, type),
      what,
    }));
    for (const process of this.processes) {
      const { pid } = process;
      this.spaces.set(process, this.table.add('mm').objref);
      const { value, fresh } = tables.findOrAdd(process, () => ({
        objref: this.table.add('filesStruct').objref,
        owner: process,
      }));
      this.tables.set(process, { objref: value.objref, fresh });
      if (fresh) this.files.collect(process);
      else if (this.tables.get(this.byPid.get(process.stat.parent) ?? process)?.objref !== value.objref) {
        this.sharing.push(sharedWith(pid, value.owner.pid, 'its file table, not by way of its parent,'));
      }
      for (const { index, what } of others) {
        const found = index.findOrAdd(process, () => pid);
        if (!found.fresh) this.sharing.push(sharedWith(pid, found.value, what));
      }
      for (const { tid } of process.threads.slice(1)) {
        if (kcmp(pid, tid, kcmpType.KCMP_FILES) !== 0) this.sharing.push(apart(pid, tid, 'file table'));
        if (kcmp(pid, tid, kcmpType.KCMP_FS) !== 0) this.sharing.push(apart(pid, tid, 'working directory'));
      }
    }
  }

  private members(): Member[] {
    const root = this.processes[0];
    return this.processes.map(({ pid, stat }) => ({
      pid,
      parent: pid === root?.pid ? 0 : stat.parent,
      session: this.outsideAsZero(stat.session, root?.stat.session),
      processGroup: this.outsideAsZero(stat.processGroup, root?.stat.processGroup),
    }));
  }

  /** The root's own session and group, when they are led from outside, are what a restart has for them. */
  private outsideAsZero(id: number, rootsOwn: number | undefined): number {
    return id === rootsOwn && !this.byPid.has(id) ? 0 : id;
  }
}

/** How often saving pages returns to the event loop: 64 MB. */
const BREATHE_PAGES = 16384;

const SHARED_STRUCTURES = [
  { kind: 'mm', type: kcmpType.KCMP_VM, what: 'its memory (CLONE_VM, as vfork does)' },
  { kind: 'fs', type: kcmpType.KCMP_FS, what: 'its working directory (CLONE_FS)' },
  { kind: 'sighand', type: kcmpType.KCMP_SIGHAND, what: 'its signal handlers (CLONE_SIGHAND)' },
] as const;

/** Which processes share a structure: by its address in the kernel where that is known, else by kcmp(2). */
class StructureIndex<T> {
  private readonly byIdentity = new Map<Identity, T>();
  private readonly compared: KcmpIndex<T>;

  constructor(
    private readonly kind: StructureKind,
    type: number,
  ) {
    this.compared = new KcmpIndex<T>(type);
  }

  findOrAdd({ pid, census }: FrozenProcess, make: () => T): { value: T; fresh: boolean } {
    const identity = census?.structures[this.kind]?.identity;
    if (identity === undefined) return this.compared.findOrAdd('', pid, 0, make);
    const known = this.byIdentity.get(identity);
    if (known !== undefined) return { value: known, fresh: false };
    const value = make();
    this.byIdentity.set(identity, value);
    return { value, fresh: true };
  }
}

function sharedWith(pid: number, other: number, what: string): Obstacle {
  return {
    pid,
    what: `${what} is shared with process ${other}`,
    advice: 'try again later; not supported yet',
  };
}

function apart(pid: number, tid: number, what: string): Obstacle {
  return { pid, where: `thread ${tid}`, what: `a ${what} of its own`, advice: 'not supported yet' };
}

function parentOf(pid: number): number {
  return parseStat(readProc(`/proc/${pid}/stat`)).parent;
}
