import type { Obstacle } from '../../errors.js';
import { cloneFlag } from '../../sys/uapi.js';

/** Objrefs of what a process may have in common with its parent. A zombie has none of them: 0. */
export interface SharedStructures {
  readonly mm: number;
  readonly files: number;
  readonly fs: number;
  readonly sighand: number;
}

/** What matters of a process for the order in which a tree is forked. */
export interface Member extends SharedStructures {
  readonly pid: number;
  /** 0 for the root. */
  readonly parent: number;
  /** The thread of the parent whose child it is. */
  readonly parentThread: number;
  /** 0 for one that is led from outside. */
  readonly session: number;
  readonly processGroup: number;
}

/** A process to be made by a thread of another. */
export interface Creation {
  readonly pid: number;
  /** The thread that makes it. */
  readonly by: number;
  /** `CLONE_…` for what both have in common. */
  readonly flags: number;
}

/** How a process comes about, and what it does until the tree is complete. */
export interface Birth {
  readonly pid: number;
  /** Undefined for one that is there only while the tree is built. */
  readonly member: Member | undefined;
  /** It makes a session. */
  readonly leadsSession: boolean;
  /** It makes a group of its own, and does not get one with its session. */
  readonly leadsGroup: boolean;
  /** Made before setsid(2): they stay in the session in which the process was born. */
  readonly childrenBefore: readonly Creation[];
  readonly childrenAfter: readonly Creation[];
  /** The group that it joins once all are made; 0 when it is in the right one anyway. */
  readonly joins: number;
}

/**
 * A process that the tree had once and needs again while it is built: the leader of a session or group that
 * has ended, or a parent whose child was adopted.
 */
export interface Ghost {
  readonly pid: number;
  /** Who made it, and waits for it. */
  readonly parent: number;
  /** Who adopts the children that it leaves behind, as a subreaper; 0 when it has none. */
  readonly adopter: number;
}

export interface BirthPlan {
  /** Creators before what they create; the root first. */
  readonly births: readonly Birth[];
  readonly ghosts: readonly Ghost[];
  readonly obstacles: readonly Obstacle[];
}

/** In a birth's place while the plan is made. */
interface Draft extends Birth {
  readonly childrenBefore: Creation[];
  readonly childrenAfter: Creation[];
}

/**
 * Plans how a tree can be forked so that every process ends up with its parent, in its session and group.
 *
 * A session is inherited at birth and can only be left by making one's own (setsid(2)). Who is in another
 * session than his parent could have brought him into was adopted when his first parent ended: a ghost makes
 * him again and ends. The root is born in the outside session 0. Members come parents first.
 */
export function planBirths(members: readonly Member[]): BirthPlan {
  return new Planner(members).plan();
}

class Planner {
  private readonly byPid: ReadonlyMap<number, Member>;
  private readonly children = new Map<number, Member[]>();
  private readonly wishes: ReadonlyMap<number, ReadonlySet<number>>;
  private readonly drafts = new Map<number, Draft>();
  /** In which session each process is born. */
  private readonly bornIn = new Map<number, number>();
  private readonly ghosts: Ghost[] = [];
  private readonly obstacles: Obstacle[] = [];
  private readonly used = new Map<number, number>();
  /** Ghosts without a number of their own have negative ones. */
  private unnamed = 0;

  constructor(private readonly members: readonly Member[]) {
    this.byPid = new Map(members.map((member) => [member.pid, member]));
    for (const member of members) {
      if (member.parent === 0) continue;
      const siblings = this.children.get(member.parent);
      if (siblings === undefined) this.children.set(member.parent, [member]);
      else siblings.push(member);
    }
    this.wishes = birthWishes(members, this.children);
  }

  plan(): BirthPlan {
    for (const member of this.members) this.draftOf(member);
    const [root, ...others] = this.members;
    if (root !== undefined) {
      this.bornIn.set(root.pid, 0);
      this.share(root, undefined);
      if (root.session !== 0 && root.session !== root.pid) this.obstacles.push(unreachable(root));
    }
    for (const member of others) this.place(member);
    this.makeLostGroups();
    return { births: this.ordered(), ghosts: this.ghosts, obstacles: this.obstacles };
  }

  private draftOf(member: Member): void {
    const { pid, session, processGroup } = member;
    const leadsSession = session === pid;
    const leadsGroup = !leadsSession && processGroup === pid;
    // Born in a session that the tree leads, one is in the leader's group; in the outside one, in that group.
    const isThere = leadsSession || leadsGroup || processGroup === 0 || processGroup === session;
    this.drafts.set(pid, {
      pid,
      member,
      leadsSession,
      leadsGroup,
      childrenBefore: [],
      childrenAfter: [],
      joins: isThere ? 0 : processGroup,
    });
  }

  /** Finds out who makes a process, and when. */
  private place(member: Member): void {
    const parent = this.byPid.get(member.parent);
    const draft = this.drafts.get(member.parent);
    if (parent === undefined || draft === undefined) return;
    const before = this.bornIn.get(parent.pid) ?? 0;
    const after = parent.session;
    const wish = this.wishes.get(member.pid) ?? new Set();
    let session = chooseSession(wish, before, after);
    if (session === undefined) {
      if ([...wish].some((wanted) => this.placeOrphan(member, wanted))) return;
      if (member.session !== member.pid) {
        this.obstacles.push(unreachable(member));
        return;
      }
      session = after;
    }
    this.bornIn.set(member.pid, session);
    const creation = { pid: member.pid, by: member.parentThread, flags: this.share(member, parent) };
    const isBefore = draft.leadsSession && session !== parent.pid;
    (isBefore ? draft.childrenBefore : draft.childrenAfter).push(creation);
  }

  /** Somebody in that session has to make him, and to end. False when there can be nobody. */
  private placeOrphan(member: Member, session: number): boolean {
    const ghost = session === 0 ? undefined : this.ghostOf(session, member);
    if (ghost === undefined) return false;
    this.bornIn.set(member.pid, session);
    ghost.childrenAfter.push({ pid: member.pid, by: ghost.pid, flags: this.share(member, undefined) });
    return true;
  }

  /** The ghost that makes the orphans of a session for one adopter. */
  private ghostOf(session: number, member: Member): Draft | undefined {
    const leader = this.byPid.get(session);
    if (leader === undefined) {
      const known = this.drafts.get(session);
      if (known !== undefined) {
        return this.ghosts.some(({ pid, adopter }) => pid === known.pid && adopter === member.parent)
          ? known
          : undefined;
      }
      return this.addGhost(session, member.parent, member.parent, { leadsSession: true });
    }
    if (!this.isAncestor(member.parent, leader)) return undefined;
    const known = this.ghosts.find(
      ({ parent, adopter }) => parent === leader.pid && adopter === member.parent,
    );
    if (known !== undefined) return this.drafts.get(known.pid);
    return this.addGhost(--this.unnamed, leader.pid, member.parent, {});
  }

  private addGhost(
    pid: number,
    parent: number,
    adopter: number,
    leads: { readonly leadsSession?: boolean; readonly leadsGroup?: boolean },
  ): Draft {
    const draft: Draft = {
      pid,
      member: undefined,
      leadsSession: leads.leadsSession === true,
      leadsGroup: leads.leadsGroup === true,
      childrenBefore: [],
      childrenAfter: [],
      joins: 0,
    };
    this.drafts.set(pid, draft);
    this.ghosts.push({ pid, parent, adopter });
    this.drafts.get(parent)?.childrenAfter.push({ pid, by: parent, flags: 0 });
    return draft;
  }

  /** A group whose leader has ended is made anew by a ghost with its number, in the same session. */
  private makeLostGroups(): void {
    const sessions = new Map<number, number>();
    for (const member of this.members) {
      const { pid, processGroup: group, session } = member;
      if (group === 0 || group === session) continue;
      const leader = this.byPid.get(group);
      if (leader !== undefined && leader.processGroup !== group) {
        this.obstacles.push(leftByLeader(member));
        continue;
      }
      const known = sessions.get(group) ?? this.byPid.get(group)?.session;
      if (known === undefined) {
        sessions.set(group, session);
        this.addGhost(group, pid, 0, { leadsGroup: true });
      } else if (known !== session) {
        this.obstacles.push(otherSession(member));
      }
    }
  }

  private isAncestor(pid: number, member: Member): boolean {
    for (
      let above = this.byPid.get(member.parent);
      above !== undefined;
      above = this.byPid.get(above.parent)
    ) {
      if (above.pid === pid) return true;
    }
    return false;
  }

  /** The `CLONE_…` flags for what a process has in common with its creator. */
  private share(member: Member, creator: Member | undefined): number {
    let flags = 0;
    for (const { structure, flag, what } of STRUCTURES) {
      const objref = member[structure];
      if (objref === 0) continue;
      const owner = this.used.get(objref);
      if (owner === undefined) this.used.set(objref, member.pid);
      else if (creator?.[structure] === objref) flags |= flag;
      else this.obstacles.push(sharedElsewhere(member, owner, what));
    }
    return flags;
  }

  private ordered(): Draft[] {
    const root = this.drafts.get(this.members[0]?.pid ?? 0);
    const births = root === undefined ? [] : [root];
    for (const birth of births) {
      for (const { pid } of [...birth.childrenBefore, ...birth.childrenAfter]) {
        const child = this.drafts.get(pid);
        if (child !== undefined) births.push(child);
      }
    }
    return births;
  }
}

const STRUCTURES = [
  { structure: 'mm', flag: cloneFlag.CLONE_VM, what: 'its memory (CLONE_VM)' },
  { structure: 'files', flag: cloneFlag.CLONE_FILES, what: 'its file table (CLONE_FILES)' },
  { structure: 'fs', flag: cloneFlag.CLONE_FS, what: 'its working directory (CLONE_FS)' },
  { structure: 'sighand', flag: cloneFlag.CLONE_SIGHAND, what: 'its signal handlers (CLONE_SIGHAND)' },
] as const;

/**
 * In which sessions a process would have to be born: its own, or, if it leads that, those in which its
 * children would have to be.
 */
function birthWishes(
  members: readonly Member[],
  children: ReadonlyMap<number, readonly Member[]>,
): Map<number, ReadonlySet<number>> {
  const wishes = new Map<number, ReadonlySet<number>>();
  // Children come after their parents: from the end on, they are known when they are needed.
  for (const { pid, session } of [...members].reverse()) {
    if (session !== pid) {
      wishes.set(pid, new Set([session]));
      continue;
    }
    const wanted = (children.get(pid) ?? []).flatMap((child) => [...(wishes.get(child.pid) ?? [])]);
    wishes.set(pid, new Set(wanted.filter((wish) => wish !== pid)));
  }
  return wishes;
}

/** The session of the parent in which a child is to be born; undefined when it wishes for neither. */
function chooseSession(wishes: ReadonlySet<number>, before: number, after: number): number | undefined {
  // Nobody but the parent can make one in the outside session.
  if (before === 0 && wishes.has(0)) return before;
  if (wishes.has(after)) return after;
  if (wishes.has(before)) return before;
  return wishes.size === 0 ? after : undefined;
}

function unreachable({ pid, session }: Member): Obstacle {
  return {
    pid,
    what: `it is in session ${session}, into which nobody in the tree can bring it`,
    advice: 'checkpoint the tree from further up, or the container as a whole',
  };
}

function otherSession({ pid, processGroup }: Member): Obstacle {
  return {
    pid,
    what: `its process group ${processGroup} is in another session`,
    advice: 'the kernel has no such groups: please report this',
  };
}

function leftByLeader({ pid, processGroup }: Member): Obstacle {
  return {
    pid,
    what: `its process group ${processGroup} was left by its leader, which is in another one`,
    advice: 'checkpoint when one of them has ended; such groups are not supported',
  };
}

function sharedElsewhere({ pid }: Member, other: number, what: string): Obstacle {
  return {
    pid,
    what: `${what} is shared with process ${other}, and not by way of its parent`,
    advice: 'checkpoint when one of them has ended; only what a parent and its child share is supported',
  };
}
