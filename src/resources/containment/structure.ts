import type { StructureKind } from '../../objects/census.js';
import { collectFromTasks, type SharedKind } from '../../objects/sharedObjects.js';

/** What it means that a structure of tasks is shared with tasks outside. */
interface StructureText {
  readonly meaning: string;
  readonly advice: string;
  readonly harmless?: boolean;
}

const TEXTS: Readonly<Record<StructureKind, StructureText>> = {
  filesStruct: {
    meaning: 'the table of descriptors is shared (CLONE_FILES): what one opens or closes, all do',
    advice: 'end the process outside, or have it unshare(CLONE_FILES)',
  },
  fs: {
    meaning: 'working directory, root and umask are shared (CLONE_FS)',
    advice: 'end the process outside, or have it unshare(CLONE_FS)',
  },
  mm: {
    meaning: 'the whole address space is shared (CLONE_VM)',
    advice: 'end the process outside; wait where it is in vfork',
  },
  sighand: {
    meaning: 'the signal handlers are shared (CLONE_SIGHAND)',
    advice: 'end the process outside',
  },
  signal: {
    meaning: 'threads of one process are on both sides',
    advice: 'name the process, not one of its threads',
  },
  nsproxy: {
    meaning:
      'the set of namespaces is the same: it can not change, a task that enters another gets a new one',
    advice: 'nothing needs to be done; each namespace is judged by itself',
    harmless: true,
  },
};

/** A structure that clone(2) shares between tasks. The kernel counts one reference for each task. */
export function structure(kind: StructureKind): SharedKind {
  const { meaning, advice, harmless = false } = TEXTS[kind];
  return {
    kind,
    refUsers: 'exact',
    collect: (table) => collectFromTasks(table, kind, ({ structures }) => structures[kind]),
    judge: ({ identity, inside, hidden }) => ({
      hiddenIn: hidden > 0 ? [kind === 'nsproxy' ? 'tasks of the kernel' : 'the kernel, for a moment'] : [],
      name: `of ${inside[0]?.pid ?? identity}`,
      harmless,
      meaning,
      advice,
    }),
  };
}
