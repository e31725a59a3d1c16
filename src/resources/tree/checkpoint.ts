import { pid as ownPid } from 'node:process';
import { InternalError, type Obstacle } from '../../errors.js';
import type { FrozenTree, HeldProcess } from '../../freezer/freeze.js';
import type { ImageWriter } from '../../image/writer.js';
import type { Identity, StructureKind } from '../../objects/census.js';
import {
  type FrozenProcess,
  type FrozenThread,
  readDescriptors,
  readMappings,
  readThread,
} from '../../objects/frozenProcess.js';
import type { HeldTasks } from '../../objects/heldTasks.js';
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
import { fileKinds, processKinds, seccompKind, structureKinds, threadKinds } from '../index.js';
import { MemoryCheckpoint } from '../mm/checkpoint.js';
import { Namespaces, refuseThreadNamespaces } from '../namespaces/namespaces.js';
import { OpenFiles } from '../openFiles.js';
import { type Relations, saveProcess, saveZombie, type ZombieProcess } from '../process.js';
import { type Member, planBirths, type SharedStructures } from './births.js';
import { Inquiry, type Save, type StructureReference, type Structures } from './inquiry.js';

interface SharedObject {
  readonly objref: Objref;
  users: number;
}

/** The state of a held tree: collected, examined, asked for, and saved. */
export class TreeCheckpoint implements Disposable {
  private readonly table = new ObjectTable();
  private readonly files: OpenFiles;
  private readonly memory = new MemoryCheckpoint(this.table);
  private readonly structures = new Map<FrozenProcess, Structures>();
  private readonly sharing: Obstacle[] = [];
  private readonly memories: RemoteMemory[] = [];
  private readonly saves: Save[] = [];
  /** Parents before children. */
  private readonly byPid = new Map<number, FrozenProcess>();
  private readonly zombies = new Map<number, ZombieProcess>();
  private readonly relations = new Map<number, Relations>();
  private readonly namespaces: Namespaces;

  constructor(
    private readonly frozen: FrozenTree,
    private readonly held: HeldTasks,
    private readonly containment?: Containment,
  ) {
    this.files = new OpenFiles(this.table, fileKinds, containment);
    this.namespaces = new Namespaces(this.table);
  }

  get processes(): readonly FrozenProcess[] {
    return [...this.byPid.values()];
  }

  /** Reads what every process has, and finds out which of it is shared. */
  collect(): void {
    const inside = this.frozen.processes.filter(({ isSelf }) => !isSelf);
    this.containment?.collect(new Set(inside.map(({ pid }) => pid)));
    const level = treeLevel(this.frozen.root);
    for (const held of this.frozen.processes) {
      if (held.zombie) this.zombies.set(held.pid, this.readZombie(held));
      else this.byPid.set(held.pid, this.read(held, level));
    }
    const stasis = this.containment?.taskOf(ownPid);
    for (const process of this.processes) this.namespaces.collect(process, stasis);
    this.namespaces.finish();
    this.findRelations(level);
    this.findShared();
  }

  /** Everything in the tree that can't be brought back. Changes nothing. */
  refuse(): Obstacle[] {
    const sessions = new Set(
      this.processes.map(({ stat }) => stat.session).filter((sid) => this.relations.has(sid)),
    );
    const unheld = this.frozen.processes.flatMap(refuseUnheld);
    const ended = this.zombies.has(this.frozen.root) ? [endedRoot(this.frozen.root)] : [];
    const own = this.processes.flatMap((process) => [
      ...refuseProcess(process, sessions),
      ...refuseThreadNamespaces(process),
      ...processKinds.flatMap((kind) => kind.refuse(process)),
      ...this.refuseStructures(process),
      ...this.memory.refuse(process),
      ...process.threads.flatMap((thread) => [
        ...refuseThread(thread),
        ...[seccompKind, ...threadKinds].flatMap((kind) => kind.refuse(thread)),
      ]),
    ]);
    const { obstacles } = planBirths(this.members());
    return [
      ...ended,
      ...unheld,
      ...this.namespaces.refuse(),
      ...own,
      ...obstacles,
      ...this.sharing,
      ...this.files.classify(),
    ];
  }

  private refuseStructures(process: FrozenProcess): Obstacle[] {
    const { fs, sighand } = this.structuresOf(process);
    return [
      ...(fs.fresh ? structureKinds.fs.refuse(process) : []),
      ...(sighand.fresh ? structureKinds.sighand.refuse(process) : []),
    ];
  }

  /** Asks every task for what only it can tell. All processes work at the same time. */
  ask(): void {
    const inquiries: Inquiry[] = [];
    try {
      for (const process of this.processes) {
        const structures = this.structuresOf(process);
        const inquiry = new Inquiry(process, this.memory, structures);
        inquiries.push(inquiry);
        // Those that share memory have one scratch area, one after the other.
        if (structures.mm.shared) this.saves.push(...inquiry.whole());
        else inquiry.begin();
      }
      const others = inquiries.filter((inquiry) => !inquiry.isOver);
      for (const inquiry of others) inquiry.askLeader();
      for (const inquiry of others) this.saves.push(...inquiry.finish());
    } finally {
      for (const inquiry of inquiries) inquiry[Symbol.dispose]();
    }
  }

  /** Writes everything but the pages. */
  save(writer: ImageWriter): void {
    for (const { pid } of this.frozen.processes) {
      const relations = this.relations.get(pid);
      const process = this.byPid.get(pid);
      const zombie = this.zombies.get(pid);
      if (relations !== undefined && zombie !== undefined) {
        saveZombie(zombie, relations, writer);
        this.table.markCheckpointed(zombie.objref);
      }
      if (relations === undefined || process === undefined) continue;
      const structures = this.structuresOf(process);
      saveProcess(process, relations, objrefsOf(structures), writer);
      for (const { objref } of [process, ...process.threads]) this.table.markCheckpointed(objref);
      for (const { objref } of Object.values(structures)) this.table.markCheckpointed(objref);
      if (structures.files.fresh) saveFilesStruct(process, this.files, structures.files.objref, writer);
    }
    this.namespaces.save((pid) => this.relations.get(pid)?.pid ?? 0, writer);
    for (const save of this.saves) save(writer);
    this.files.save(writer);
    this.memory.saveObjects(writer);
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
      const { mm } = this.structuresOf(process);
      if (!mm.fresh) continue;
      for await (const saved of this.memory.savePages(process, mm.objref, writer)) {
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

  private read(held: HeldProcess, level: number): FrozenProcess {
    const { pid, threads: tracees, stopSignal } = held;
    const live = tracees[0]?.tid ?? pid;
    const memory = new RemoteMemory(live);
    this.memories.push(memory);
    const threads: FrozenThread[] = [];
    const stat = parseStat(readProc(`/proc/${live}/stat`));
    const leader = live === pid ? stat : parseStat(readProc(`/proc/${pid}/task/${pid}/stat`));
    const process: FrozenProcess = {
      objref: this.table.add('process').objref,
      pid,
      ids: parseStatus(readProc(`/proc/${pid}/status`)).namespacePids.slice(level),
      live,
      leaderEnd: live === pid ? undefined : leader.exitCode,
      exitSignal: leader.exitSignal,
      parent: stat.parent,
      parentThread: held.parentThread,
      // While it is stopped, the kernel shows here what the parent has not waited for yet.
      stopped: stopSignal === 0 ? undefined : { signal: stopSignal, unreported: leader.exitCode !== 0 },
      stat,
      status: parseStatus(readProc(`/proc/${live}/status`)),
      threads,
      mappings: readMappings(live),
      memory,
      descriptors: readDescriptors(live),
      census: this.containment?.taskOf(live),
      held: this.held,
    };
    for (const tracee of tracees) {
      threads.push(readThread(tracee, process, this.table.add('thread').objref, level, new Registers()));
    }
    return process;
  }

  private readZombie({ pid, parentThread, isSelf }: HeldProcess): ZombieProcess {
    return {
      objref: this.table.add('process').objref,
      pid,
      parentThread,
      isSelf,
      stat: parseStat(readProc(`/proc/${pid}/stat`)),
      status: parseStatus(readProc(`/proc/${pid}/status`)),
    };
  }

  /** Translates all ids to those that the tree itself sees. */
  private findRelations(level: number): void {
    const all = this.frozen.processes.map(({ pid }) => {
      const found = this.byPid.get(pid) ?? this.zombies.get(pid);
      if (found === undefined) throw new InternalError(`process ${pid} was not read`);
      return found;
    });
    const ids = new Map<number, number>();
    for (const { pid, status } of all) ids.set(pid, status.namespacePids[level] ?? pid);
    for (const process of this.processes) {
      for (const { tid, ids: own } of process.threads) ids.set(tid, own[0] ?? tid);
      ids.set(process.pid, process.ids[0] ?? process.pid);
    }
    const known = new Set(ids.values());
    const root = all[0]?.status;
    // The root's own session and group, when they are led from outside, are what a restart has for them.
    const inside = (id: number, rootsOwn: number | undefined): number =>
      id === rootsOwn && !known.has(id) ? 0 : id;
    for (const { pid, stat, status, parentThread } of all) {
      const { namespaceGroups: groups, namespaceSessions: sessions } = status;
      const own = this.byPid.get(pid)?.ids ?? status.namespacePids.slice(level);
      // What is left of one that has ended has no namespaces: those of its parent do for it.
      const living = this.byPid.has(pid) ? pid : stat.parent;
      const init = this.namespaces.initForChildren(pid);
      this.relations.set(pid, {
        pid: own[0] ?? pid,
        parent: pid === this.frozen.root ? 0 : (ids.get(stat.parent) ?? 0),
        parentThread: ids.get(parentThread) ?? 0,
        processGroup: inside(groups[level] ?? 0, root?.namespaceGroups[level]),
        session: inside(sessions[level] ?? 0, root?.namespaceSessions[level]),
        nestedPids: own.slice(1),
        nestedGroups: groups.slice(level + 1),
        nestedSessions: sessions.slice(level + 1),
        childrenPidNamespace: init === undefined ? 0 : (ids.get(init) ?? 0),
        mountNamespace: this.namespaces.mountsOf(living),
      });
    }
  }

  /** What processes share is saved once. */
  private findShared(): void {
    const indexes = STRUCTURES.map(
      ({ kind, name, type }) => [name, new StructureIndex(this.table, kind, type)] as const,
    );
    for (const process of this.processes) {
      const found = indexes.map(([name, index]) => [name, index.findOrAdd(process)] as const);
      const structures = Object.fromEntries(found) as Structures;
      this.structures.set(process, structures);
      if (structures.files.fresh) this.files.collect(process);
      for (const { tid } of process.threads.slice(1)) {
        if (kcmp(process.live, tid, kcmpType.KCMP_FILES) !== 0) {
          this.sharing.push(apart(process.pid, tid, 'file table'));
        }
        if (kcmp(process.live, tid, kcmpType.KCMP_FS) !== 0) {
          this.sharing.push(apart(process.pid, tid, 'working directory'));
        }
      }
    }
  }

  private structuresOf(process: FrozenProcess): Structures {
    const structures = this.structures.get(process);
    if (structures === undefined) throw new InternalError(`process ${process.pid} was not collected`);
    return structures;
  }

  private members(): Member[] {
    return this.frozen.processes.flatMap(({ pid }) => {
      const relations = this.relations.get(pid);
      const process = this.byPid.get(pid);
      if (relations === undefined) return [];
      return [{ ...relations, ...(process ? objrefsOf(this.structuresOf(process)) : NO_STRUCTURES) }];
    });
  }
}

/** How often saving pages returns to the event loop: 64 MB. */
const BREATHE_PAGES = 16384;

const STRUCTURES = [
  { name: 'mm', kind: 'mm', type: kcmpType.KCMP_VM },
  { name: 'files', kind: 'filesStruct', type: kcmpType.KCMP_FILES },
  { name: 'fs', kind: 'fs', type: kcmpType.KCMP_FS },
  { name: 'sighand', kind: 'sighand', type: kcmpType.KCMP_SIGHAND },
] as const;

/** Which processes share a structure: by its address in the kernel where that is known, else by kcmp(2). */
class StructureIndex {
  private readonly byIdentity = new Map<Identity, SharedObject>();
  private readonly compared: KcmpIndex<SharedObject>;

  constructor(
    private readonly table: ObjectTable,
    private readonly kind: StructureKind,
    type: number,
  ) {
    this.compared = new KcmpIndex<SharedObject>(type);
  }

  findOrAdd({ live, census }: FrozenProcess): StructureReference {
    const make = (): SharedObject => ({ objref: this.table.add(this.kind).objref, users: 0 });
    const identity = census?.structures[this.kind]?.identity;
    let value = identity === undefined ? undefined : this.byIdentity.get(identity);
    if (identity === undefined) value = this.compared.findOrAdd('', live, 0, make).value;
    else if (value === undefined) {
      value = make();
      this.byIdentity.set(identity, value);
    }
    const object = value ?? make();
    object.users++;
    const fresh = object.users === 1;
    return {
      objref: object.objref,
      fresh,
      get shared() {
        return object.users > 1;
      },
    };
  }
}

function objrefsOf({ mm, files, fs, sighand }: Structures): SharedStructures {
  return { mm: mm.objref, files: files.objref, fs: fs.objref, sighand: sighand.objref };
}

const NO_STRUCTURES: SharedStructures = { mm: 0, files: 0, fs: 0, sighand: 0 };

/** Which of the pids of its processes, outermost first, is the one that the tree sees: that of its root. */
function treeLevel(root: number): number {
  return parseStatus(readProc(`/proc/${root}/status`)).namespacePids.length - 1;
}

function endedRoot(pid: number): Obstacle {
  return { pid, what: 'it has ended', advice: 'checkpoint a tree whose root lives' };
}

function apart(pid: number, tid: number, what: string): Obstacle {
  return { pid, where: `thread ${tid}`, what: `a ${what} of its own`, advice: 'not supported yet' };
}
