import type { Obstacle } from '../../errors.js';

/** What matters of a process for the order in which a tree is forked. */
export interface Member {
  readonly pid: number;
  /** 0 for the root. */
  readonly parent: number;
  /** 0 for one that is led from outside. */
  readonly session: number;
  readonly processGroup: number;
}

/** How a process comes to its session and group, and when it makes which children. */
export interface Birth {
  readonly member: Member;
  readonly leadsSession: boolean;
  /** It makes a group of its own, and does not get one with its session. */
  readonly leadsGroup: boolean;
  /** Made before setsid(2): they stay in the session in which the process was born. */
  readonly childrenBefore: readonly Member[];
  readonly childrenAfter: readonly Member[];
  /** The group in which it is before it moves to its own or another one; 0 for the outside one. */
  readonly birthGroup: number;
}

export interface BirthPlan {
  /** Parents before children. */
  readonly births: readonly Birth[];
  readonly obstacles: readonly Obstacle[];
}

/**
 * Plans how a tree can be forked so that every process ends up in its session: a session is inherited at
 * birth and can only be left by making one's own (setsid(2)). The root is born in the outside session 0.
 * Members come parents first.
 */
export function planBirths(members: readonly Member[]): BirthPlan {
  const children = new Map<number, Member[]>();
  for (const member of members) {
    if (member.parent === 0) continue;
    const siblings = children.get(member.parent);
    if (siblings === undefined) children.set(member.parent, [member]);
    else siblings.push(member);
  }
  const pids = new Set(members.map(({ pid }) => pid));
  const needs = birthSessions(members, children);
  const births: Birth[] = [];
  const obstacles: Obstacle[] = [];
  const root = members[0];
  const waiting: { member: Member; session: number; group: number }[] =
    root === undefined ? [] : [{ member: root, session: 0, group: 0 }];
  for (let next = waiting.shift(); next !== undefined; next = waiting.shift()) {
    const { member, session, group } = next;
    const need = needs.get(member.pid);
    if (need !== undefined && need !== session) obstacles.push(wrongSession(member, need));
    if (member.processGroup !== 0 && !pids.has(member.processGroup)) obstacles.push(lostGroup(member));
    const leadsSession = member.session === member.pid;
    const leadsGroup = !leadsSession && member.processGroup === member.pid;
    const own = children.get(member.pid) ?? [];
    const isBefore = (child: Member): boolean => {
      const wanted = needs.get(child.pid);
      return leadsSession && wanted !== undefined && wanted !== member.pid;
    };
    const childrenBefore = own.filter(isBefore);
    const childrenAfter = own.filter((child) => !isBefore(child));
    births.push({ member, leadsSession, leadsGroup, childrenBefore, childrenAfter, birthGroup: group });
    const ownGroup = leadsGroup ? member.pid : group;
    for (const child of childrenBefore) waiting.push({ member: child, session, group: ownGroup });
    for (const child of childrenAfter) {
      waiting.push(
        leadsSession
          ? { member: child, session: member.pid, group: member.pid }
          : { member: child, session, group: ownGroup },
      );
    }
  }
  return { births, obstacles };
}

/** In which session a process must be born; undefined where it does not matter. */
function birthSessions(
  members: readonly Member[],
  children: ReadonlyMap<number, readonly Member[]>,
): Map<number, number | undefined> {
  const needs = new Map<number, number | undefined>();
  // Children come after their parents: from the end on, they are known when they are needed.
  for (const member of [...members].reverse()) {
    needs.set(
      member.pid,
      member.session === member.pid
        ? (children.get(member.pid) ?? [])
            .map((child) => needs.get(child.pid))
            .find((need) => need !== undefined && need !== member.pid)
        : member.session,
    );
  }
  return needs;
}

function wrongSession({ pid }: Member, session: number): Obstacle {
  return {
    pid,
    what: `it is in session ${session}, into which its parent could not have brought it: the one that did has ended`,
    advice: 'such orphans are not supported yet',
  };
}

function lostGroup({ pid, processGroup }: Member): Obstacle {
  return {
    pid,
    what: `its process group ${processGroup} has lost its leader`,
    advice: 'try again when the rest of that pipeline has ended; such groups are not supported yet',
  };
}
