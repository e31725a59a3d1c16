import { readdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { FreezeError } from '../errors.js';
import { type Cgroup, cgroupsOf, processesIn } from '../objects/cgroups.js';
import { readProcIfAlive } from '../procfs/read.js';
import { parseStat } from '../procfs/stat.js';
import { sleepSync } from '../sys/process.js';
import { Guardian } from '../tracee/guardian.js';

/** How a tree is stopped: by ptrace alone, or in its control group first. */
export type FreezeWay = 'ptrace' | 'cgroup2' | 'cgroup1';

/** Longer a group is not frozen, milliseconds: tasks that do not stop in that time stop later, by ptrace. */
const FREEZE_MS = 30;
const POLL_MS = 0.5;

interface Files {
  /** That is written to freeze and to thaw. */
  readonly control: string;
  readonly frozen: string;
  readonly thawed: string;
  /** Tells whether all tasks have stopped. */
  readonly state: string;
  readonly isFrozen: RegExp;
}

const FILES: Readonly<Record<Exclude<FreezeWay, 'ptrace'>, Files>> = {
  cgroup2: {
    control: 'cgroup.freeze',
    frozen: '1',
    thawed: '0',
    state: 'cgroup.events',
    isFrozen: /^frozen 1$/m,
  },
  cgroup1: {
    control: 'freezer.state',
    frozen: 'FROZEN',
    thawed: 'THAWED',
    state: 'freezer.state',
    isFrozen: /^FROZEN$/m,
  },
};

/**
 * A control group that holds nothing but the tree: freezing it stops all tasks at one moment. It is thawed again
 * as soon as all of them are on their way into their ptrace stops; should this process be killed before that, a
 * guardian does it. Source: Documentation/admin-guide/cgroup-v2.rst, cgroup-v1/freezer-subsystem.rst.
 */
export class GroupFreezer {
  private constructor(
    readonly way: Exclude<FreezeWay, 'ptrace'>,
    readonly directory: string,
  ) {}

  /** The group of a tree, where it has one of its own in one of these ways. */
  static find(root: number, ways: readonly FreezeWay[]): GroupFreezer | undefined {
    for (const way of ways) {
      if (way === 'ptrace') continue;
      const directory = groupOf(root, way)?.directory;
      if (directory === undefined || !isAlone(root, directory)) continue;
      return new GroupFreezer(way, directory);
    }
    return undefined;
  }

  /** Freezes the group while `work` is done, which has to be short. */
  whileFrozen<T>(work: () => T): T {
    const { control, frozen, thawed, state, isFrozen } = FILES[this.way];
    const path = join(this.directory, control);
    using _guardian = Guardian.toWrite(path, thawed);
    try {
      writeFileSync(path, frozen);
      for (let waited = 0; waited < FREEZE_MS; waited += POLL_MS) {
        if (isFrozen.test(readProcIfAlive(join(this.directory, state)) ?? '')) break;
        sleepSync(POLL_MS);
      }
      return work();
    } finally {
      writeFileSync(path, thawed);
    }
  }
}

/** Throws FreezeError when a tree's root is in a frozen group: its tasks would not stop, or not go on. */
export function refuseFrozenGroup(root: number): void {
  for (const way of ['cgroup2', 'cgroup1'] as const) {
    const { control, frozen, thawed, state, isFrozen } = FILES[way];
    let directory = groupOf(root, way)?.directory;
    if (directory === undefined || !isFrozen.test(readProcIfAlive(join(directory, state)) ?? '')) continue;
    // It may be one above that was frozen.
    for (let above = directory; ; above = dirname(above)) {
      const text = readProcIfAlive(join(above, way === 'cgroup1' ? 'freezer.self_freezing' : control));
      if (text === undefined) break;
      if (text.trim() === '1') directory = above;
    }
    throw new FreezeError(root, `process ${root} is in a frozen control group`, {
      reason: `somebody has written ${frozen} to ${join(directory, control)}, or was killed before thawing it`,
      advice: `thaw it: echo ${thawed} > ${join(directory, control)}`,
    });
  }
}

function groupOf(root: number, way: Exclude<FreezeWay, 'ptrace'>): Cgroup | undefined {
  return cgroupsOf(root).find(({ hierarchy, controllers, path }) =>
    path === '/' ? false : way === 'cgroup2' ? hierarchy === 0 : controllers.includes('freezer'),
  );
}

/** Whether all processes in a group and those below are of the tree, and this process is none of them. */
function isAlone(root: number, directory: string): boolean {
  const parents = new Map<number, number>([[root, 0]]);
  const isInside = (pid: number): boolean => {
    const chain: number[] = [];
    for (let at = pid; at !== root; ) {
      if (at === 0 || at === process.pid) return false;
      chain.push(at);
      let parent = parents.get(at);
      if (parent === undefined) {
        const text = readProcIfAlive(`/proc/${at}/stat`);
        // It has ended meanwhile.
        if (text === undefined) return true;
        parent = parseStat(text).parent;
        parents.set(at, parent);
      }
      at = parent;
    }
    return true;
  };
  return groupsBelow(directory).every((group) => processesIn(group)?.every(isInside) ?? false);
}

function groupsBelow(directory: string): string[] {
  const groups = [directory];
  for (const group of groups) {
    for (const entry of readdirSync(group, { withFileTypes: true })) {
      if (entry.isDirectory()) groups.push(join(group, entry.name));
    }
  }
  return groups;
}
