import { InternalError, RestartFailedError } from '../../errors.js';
import type { Process } from '../../image/generated/process_pb.js';
import { readProc } from '../../procfs/read.js';
import { parseStatus } from '../../procfs/status.js';
import { reapTracee, sendSignal } from '../../sys/process.js';
import { cloneFlag, prctl, signal, wait } from '../../sys/uapi.js';
import { RemoteMemory } from '../../tracee/memory.js';
import type { Scratch } from '../../tracee/scratch.js';
import type { Tracee } from '../../tracee/tracee.js';
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

/** Makes all processes and threads of a tree, as planned, in their sessions and groups. */
export class Forking implements Disposable {
  private readonly members: ReadonlyMap<number, Process>;
  private readonly forked = new Map<number, Forked>();
  private readonly byTid = new Map<number, NewTask>();

  constructor(
    members: readonly Process[],
    private readonly plan: BirthPlan,
    private readonly scratch: Scratch,
    private readonly onBirth: (tid: number) => void,
  ) {
    this.members = new Map(members.map((member) => [member.pid, member]));
  }

  /** Takes in the root, which was made by somebody else. */
  adoptRoot(pid: number, tracee: Tracee): NewTask {
    return this.adopt(pid, tracee);
  }

  /** Makes everything below the root. */
  run(): void {
    for (const birth of this.plan.births) this.fork(birth);
    for (const { pid, joins } of this.plan.births) {
      if (joins === 0) continue;
      const { calls } = this.leaderOf(pid);
      calls.call('setpgid', [0, joins], { purpose: `joining process group ${joins}` });
      calls.flush();
    }
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
    this.makeThreads(pid);
    this.makeChildren(leader, childrenBefore);
    if (leadsSession) calls.call('setsid', []);
    this.makeChildren(leader, childrenAfter);
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
  private makeChildren(leader: NewTask, creations: readonly Creation[]): void {
    for (let at = 0; at < creations.length; ) {
      const by = creations[at]?.by ?? 0;
      const count = creations.slice(at).findIndex((creation) => creation.by !== by);
      const batch = creations.slice(at, count < 0 ? undefined : at + count);
      at += batch.length;
      const creator = this.byTid.get(by);
      if (creator === undefined) throw new InternalError(`thread ${by} was not made`);
      // One scratch area serves all threads.
      leader.calls.flush();
      const tracees = creator.make(batch.map((creation) => this.requestOf(creation)));
      batch.forEach(({ pid }, index) => {
        const tracee = tracees[index];
        if (tracee !== undefined) this.adopt(pid, tracee);
      });
    }
  }

  private requestOf({ pid, flags }: Creation) {
    const member = this.members.get(pid);
    return {
      ids: this.idsOf(pid),
      flags,
      // Of a ghost's end nobody is told. Whoever was adopted sends SIGCHLD: the kernel sees to that.
      exitSignal: member?.exitSignal ?? 0,
    };
  }

  private idsOf(pid: number): TaskIds {
    return { id: pid < 0 ? undefined : pid, nested: this.members.get(pid)?.nestedPids ?? [] };
  }

  private adopt(pid: number, tracee: Tracee): NewTask {
    if (pid < 0) this.checkUnnamed(tracee.tid);
    const memory = new RemoteMemory(tracee.tid);
    const { id = ownPidOf(tracee.tid), nested } = this.idsOf(pid);
    const own = nested.at(-1) ?? id;
    const task = new NewTask(tracee, own, own, memory, this.scratch, this.onBirth);
    this.forked.set(pid, { tasks: [task], memory });
    this.byTid.set(pid, task);
    return task;
  }

  /** The kernel has chosen the number of that ghost: it must not be one that the tree needs. */
  private checkUnnamed(pid: number): void {
    const { births } = this.plan;
    const isNeeded =
      births.some((birth) => birth.pid === pid) ||
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

/** As it sees itself. */
function ownPidOf(pid: number): number {
  return parseStatus(readProc(`/proc/${pid}/status`)).namespacePids.at(-1) ?? pid;
}
