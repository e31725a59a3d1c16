import { InternalError, RestartFailedError } from '../../errors.js';
import type { MountNamespace, MountNamespace_ProcMount } from '../../image/generated/namespaces_pb.js';
import type { Process } from '../../image/generated/process_pb.js';
import { readProc } from '../../procfs/read.js';
import { parseStatus } from '../../procfs/status.js';
import { reapTracee, sendSignal } from '../../sys/process.js';
import { cloneFlag, prctl, signal, wait } from '../../sys/uapi.js';
import { RemoteMemory } from '../../tracee/memory.js';
import type { RemoteCalls } from '../../tracee/remoteCalls.js';
import type { Scratch } from '../../tracee/scratch.js';
import type { Tracee } from '../../tracee/tracee.js';
import { copyMountNamespace, mountProc } from '../namespaces/mountNamespace.js';
import type { Birth, BirthPlan, Creation, Ghost } from './births.js';
import { NewTask, type TaskIds } from './newTask.js';

const THREAD_FLAGS =
  cloneFlag.CLONE_VM |
  cloneFlag.CLONE_FS |
  cloneFlag.CLONE_FILES |
  cloneFlag.CLONE_SIGHAND |
  cloneFlag.CLONE_THREAD |
  cloneFlag.CLONE_SYSVSEM;

/** A process that was made, with nothing in it but the scratch area. */
export interface Forked {
  /** The leader first. */
  readonly tasks: readonly NewTask[];
  readonly memory: RemoteMemory;
}

/** Makes all processes and threads of a tree, as planned, in their sessions, groups and namespaces. */
export class Forking implements Disposable {
  private readonly members: ReadonlyMap<number, Process>;
  private readonly forked = new Map<number, Forked>();
  private readonly byTid = new Map<number, NewTask>();
  /** Who made a process. */
  private readonly creators = new Map<number, number>();
  /** The ids that the pid of a member, session or group has in nested pid namespaces. */
  private readonly nested = new Map<number, readonly number[]>();
  /** Processes whose children are born in another pid namespace by now. */
  private readonly entered = new Set<number>();
  /** The ids of ghosts without a number, and those that are in use at each depth of pid namespaces. */
  private readonly unnamed = new Map<number, TaskIds>();
  private readonly used: Set<number>[] = [];
  /** Those that were made, and those of their proc file systems that are still to be mounted. */
  private readonly mounts = new Map<number, MountNamespace_ProcMount[]>();

  constructor(
    members: readonly Process[],
    private readonly mountNamespaces: ReadonlyMap<number, MountNamespace>,
    private readonly plan: BirthPlan,
    private readonly scratch: Scratch,
    /** Its pids are those of a new pid namespace: no others are in use there. */
    private readonly inNewPidNamespace: boolean,
    private readonly onBirth: (tid: number) => void,
  ) {
    this.members = new Map(members.map((member) => [member.pid, member]));
    for (const { pid, nestedPids, session, nestedSessions, processGroup, nestedGroups } of members) {
      this.learnNested(session, nestedSessions);
      this.learnNested(processGroup, nestedGroups);
      this.learnNested(pid, nestedPids);
    }
  }

  /** Takes in the root, which was made by somebody else. */
  adoptRoot(pid: number, tracee: Tracee): NewTask {
    return this.adopt(pid, tracee);
  }

  /** Makes everything below the root. */
  run(): void {
    for (const birth of this.plan.births) this.fork(birth);
    for (const { pid, joins } of this.plan.births) if (joins !== 0) this.join(pid, joins);
    for (const { pid, childrenPidNamespace: init } of this.members.values()) {
      if (init !== 0) this.enterPidNamespace(pid, init);
    }
  }

  /** The id by which one process knows another: that in its own pid namespace. */
  pidSeenBy(seer: number, pid: number): number {
    const depth = this.nestedOf(seer).length;
    return depth === 0 ? pid : (this.nestedOf(pid)[depth - 1] ?? 0);
  }

  /** A process of the plan, by the id that it has in the tree. */
  processOf(pid: number): Forked {
    const forked = this.forked.get(pid);
    if (forked === undefined) throw new InternalError(`process ${pid} was not made`);
    return forked;
  }

  /** Ends the ghosts: what they made goes to whoever adopts it, and nobody hears of their end. */
  bury(): void {
    const { ghosts } = this.plan;
    for (const adopter of new Set(ghosts.map((ghost) => ghost.adopter))) {
      if (adopter !== 0) this.makeSubreaper(adopter, true);
      for (const ghost of ghosts) if (ghost.adopter === adopter) this.end(ghost);
      if (adopter !== 0) this.makeSubreaper(adopter, false);
    }
  }

  [Symbol.dispose](): void {
    for (const { memory } of this.forked.values()) memory[Symbol.dispose]();
  }

  private fork(birth: Birth): void {
    const { pid, leadsSession, leadsGroup, childrenBefore, childrenAfter } = birth;
    const leader = this.leaderOf(pid);
    const { calls } = leader;
    this.prepareMounts(pid, calls);
    this.makeThreads(pid);
    this.makeChildren(pid, leader, childrenBefore);
    if (leadsSession) calls.call('setsid', []);
    this.makeChildren(pid, leader, childrenAfter);
    // Last: the children stay in the group in which they were born until they join their own.
    if (leadsGroup) calls.call('setpgid', [0, 0]);
    if (leadsSession || leadsGroup) calls.flush();
  }

  private makeThreads(pid: number): void {
    const { tasks, memory } = this.processOf(pid);
    const [leader] = tasks;
    const others = this.members.get(pid)?.threads.slice(1) ?? [];
    if (leader === undefined || others.length === 0) return;
    const tracees = leader.make(
      others.map(({ tid, nestedTids }) => ({
        ids: { id: tid, nested: nestedTids },
        flags: THREAD_FLAGS,
        exitSignal: 0,
      })),
    );
    const threads = tracees.map((tracee, index) => {
      const { tid = 0, nestedTids = [] } = others[index] ?? {};
      const ownTid = nestedTids.at(-1) ?? tid;
      const task = new NewTask(tracee, leader.ownPid, ownTid, memory, this.scratch, this.onBirth);
      this.byTid.set(tid, task);
      return task;
    });
    this.forked.set(pid, { tasks: [leader, ...threads], memory });
  }

  /** Each thread makes its own; neighbours of one thread go at once. */
  private makeChildren(maker: number, leader: NewTask, creations: readonly Creation[]): void {
    for (let at = 0; at < creations.length; ) {
      const by = creations[at]?.by ?? 0;
      const count = creations.slice(at).findIndex((creation) => creation.by !== by);
      const batch = creations.slice(at, count < 0 ? undefined : at + count);
      at += batch.length;
      const creator = this.byTid.get(by);
      if (creator === undefined) throw new InternalError(`thread ${by} was not made`);
      // One scratch area serves all threads.
      leader.calls.flush();
      const tracees = this.makeIn(maker, creator, batch);
      batch.forEach(({ pid }, index) => {
        const tracee = tracees[index];
        this.creators.set(pid, maker);
        if (tracee !== undefined) this.adopt(pid, tracee);
      });
    }
  }

  /** The first child in a new pid namespace begins it; for the others their parent has entered it. */
  private makeIn(maker: number, creator: NewTask, batch: readonly Creation[]): Tracee[] {
    const depth = this.nestedOf(maker).length;
    const isInner = ({ pid }: Creation): boolean => pid > 0 && this.nestedOf(pid).length > depth;
    if (!batch.some(isInner)) {
      return creator.make(batch.map((creation) => this.requestOf(creation, 0)));
    }
    return batch.flatMap((creation) => {
      if (!isInner(creation)) return creator.make([this.requestOf(creation, 0)]);
      const isInit = this.nestedOf(creation.pid).at(-1) === 1;
      if (!isInit) this.enterPidNamespace(maker, this.members.get(maker)?.childrenPidNamespace ?? 0);
      return creator.make([this.requestOf(creation, isInit ? cloneFlag.CLONE_NEWPID : 0)]);
    });
  }

  private requestOf({ pid, flags }: Creation, namespaceFlags: number) {
    const member = this.members.get(pid);
    return {
      ids: this.idsOf(pid),
      flags: flags | namespaceFlags,
      // Of a ghost's end nobody is told. Whoever was adopted sends SIGCHLD: the kernel sees to that.
      exitSignal: member?.exitSignal ?? 0,
    };
  }

  private idsOf(pid: number): TaskIds {
    if (pid > 0) return { id: pid, nested: this.nestedOf(pid) };
    let ids = this.unnamed.get(pid);
    if (ids === undefined) {
      const nested = this.nestedOf(pid).map((_, index) => this.chooseFree(index + 1));
      ids = { id: this.inNewPidNamespace ? this.chooseFree(0) : undefined, nested };
      this.unnamed.set(pid, ids);
    }
    return ids;
  }

  /** A number that nobody has or is to have, in any pid namespace that deep below the tree's own. */
  private chooseFree(depth: number): number {
    let used = this.used[depth];
    if (used === undefined) {
      const ids = [
        ...this.nested.keys(),
        ...[...this.members.values()].flatMap(({ threads }) => threads.map(({ tid }) => tid)),
      ];
      const nested = [
        ...[...this.nested.values()].map((its) => its[depth - 1] ?? 0),
        ...[...this.members.values()].flatMap(({ threads }) =>
          threads.map(({ nestedTids }) => nestedTids[depth - 1] ?? 0),
        ),
      ];
      used = new Set(depth === 0 ? ids : nested);
      this.used[depth] = used;
    }
    let free = 2;
    while (used.has(free)) free++;
    used.add(free);
    return free;
  }

  /** In namespaces that it is not in, a leader has the id 0. */
  private learnNested(id: number, nested: readonly number[]): void {
    const outside = nested.indexOf(0);
    const known = outside < 0 ? nested : nested.slice(0, outside);
    if (known.length >= (this.nested.get(id)?.length ?? 0)) this.nested.set(id, known);
  }

  /** Ghosts without a number are in the pid namespace of whoever made them. */
  private nestedOf(pid: number): readonly number[] {
    return this.nested.get(pid) ?? (pid < 0 ? this.nestedOf(this.creators.get(pid) ?? 0) : []);
  }

  /** In a nested pid namespace whose group is led from outside of it, the parent has to do it. */
  private join(pid: number, group: number): void {
    const seen = this.pidSeenBy(pid, group);
    const parent = this.creators.get(pid);
    const byItself = seen !== 0 || parent === undefined;
    const { calls } = this.leaderOf(byItself ? pid : parent);
    const args = byItself ? [0, seen] : [this.pidSeenBy(parent, pid), this.pidSeenBy(parent, group)];
    calls.call('setpgid', args, { purpose: `joining process group ${group}` });
    calls.flush();
  }

  /** From here on the children of a process are born in the pid namespace of `init`. */
  private enterPidNamespace(pid: number, init: number): void {
    if (this.entered.has(pid)) return;
    this.entered.add(pid);
    const { calls } = this.leaderOf(pid);
    const pidfd = calls.call('pidfd_open', [this.pidSeenBy(pid, init), 0]);
    calls.call('setns', [pidfd, cloneFlag.CLONE_NEWPID], {
      purpose: `entering the pid namespace of ${init}`,
    });
    calls.call('close', [pidfd]);
    calls.flush();
  }

  /** Makes the mount namespace, as the first that is in it, and mounts what shows its own pid namespace there. */
  private prepareMounts(pid: number, calls: RemoteCalls): void {
    const objref = this.members.get(pid)?.mountNamespace ?? 0;
    const namespace = this.mountNamespaces.get(objref);
    if (namespace === undefined) return;
    let procs = this.mounts.get(objref);
    if (procs === undefined) {
      procs = [...namespace.procs];
      this.mounts.set(objref, procs);
      copyMountNamespace(namespace, calls);
    }
    const init = this.initOf(pid);
    for (const proc of procs.filter(({ pidNamespace }) => pidNamespace === init)) mountProc(proc, calls);
    this.mounts.set(
      objref,
      procs.filter(({ pidNamespace }) => pidNamespace !== init),
    );
    calls.flush();
  }

  /** The init of a process's pid namespace; 0 for the tree's own. */
  private initOf(pid: number): number {
    const nested = this.nestedOf(pid);
    if (nested.length === 0) return 0;
    let above = pid;
    while (this.nestedOf(above).length === nested.length && this.nestedOf(above).at(-1) !== 1) {
      above = this.members.get(above)?.parent ?? 0;
    }
    if (this.nestedOf(above).length === nested.length) return above;
    return this.members.get(above)?.childrenPidNamespace ?? 0;
  }

  private adopt(pid: number, tracee: Tracee): NewTask {
    if (pid < 0 && !this.inNewPidNamespace) this.checkUnnamed(tracee.tid);
    const memory = new RemoteMemory(tracee.tid);
    const { id, nested } = this.idsOf(pid);
    const own = id === undefined ? (ownPids(tracee.tid).at(-1) ?? tracee.tid) : (nested.at(-1) ?? id);
    const task = new NewTask(tracee, own, own, memory, this.scratch, this.onBirth);
    this.forked.set(pid, { tasks: [task], memory });
    this.byTid.set(pid, task);
    return task;
  }

  /** The kernel has chosen the number of that ghost: it must not be one that the tree needs. */
  private checkUnnamed(pid: number): void {
    const isNeeded =
      this.nested.has(pid) ||
      [...this.members.values()].some(({ threads }) => threads.some(({ tid }) => tid === pid));
    if (isNeeded) {
      throw new RestartFailedError(`the pid ${pid} was taken by a helper process`, {
        reason: 'the kernel gave it that number by chance',
        advice: 'try again',
      });
    }
  }

  private leaderOf(pid: number): NewTask {
    const [leader] = this.processOf(pid).tasks;
    if (leader === undefined) throw new InternalError(`process ${pid} was not made`);
    return leader;
  }

  private makeSubreaper(pid: number, wanted: boolean): void {
    const { calls } = this.leaderOf(pid);
    calls.call('prctl', [prctl.PR_SET_CHILD_SUBREAPER, wanted ? 1 : 0, 0, 0, 0]);
    calls.flush();
  }

  private end({ pid, parent }: Ghost): void {
    const ghost = this.leaderOf(pid);
    sendSignal(ghost.tid, signal.SIGKILL);
    reapTracee(ghost.tid);
    const { calls } = this.leaderOf(parent);
    calls.call('wait4', [ghost.ownPid, 0, wait.__WALL, 0], { purpose: `waiting for helper ${ghost.ownPid}` });
    calls.flush();
  }
}

/** In each pid namespace, the last as it sees itself. */
function ownPids(pid: number): readonly number[] {
  return parseStatus(readProc(`/proc/${pid}/status`)).namespacePids;
}
