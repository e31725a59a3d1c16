import type { Rows } from '../bpf/rows.js';
import { NAMESPACES, type NamespaceKind, type TaskColumn } from '../bpf/taskProgram.js';
import { PF_KTHREAD } from '../sys/uapi.js';
import type { CensusNamespace, CensusTask, Counted, StructureKind } from './census.js';

const COMM_LENGTH = 16;

const STRUCTURE_COLUMNS = [
  ['filesStruct', 'files', 'filesCount'],
  ['fs', 'fs', 'fsUsers'],
  ['mm', 'mm', 'mmUsers'],
  ['sighand', 'sighand', 'sighandCount'],
  ['signal', 'signal', 'signalThreads'],
  ['nsproxy', 'nsproxy', 'nsproxyCount'],
] as const;

/** The tasks of a walk, those of the kernel left out. What `isKnown` denies has no count. */
export function readTasks(rows: Rows<TaskColumn>, isKnown: (column: TaskColumn) => boolean): CensusTask[] {
  const tid = rows.u32('tid');
  const pid = rows.u32('tgid');
  const parent = rows.u32('parent');
  const tracer = rows.u32('tracer');
  const ptrace = rows.u32('ptrace');
  const exitState = rows.u32('exitState');
  const flags = rows.u32('flags');
  const processGroup = rows.u32('group');
  const session = rows.u32('session');
  const comm = rows.text('comm', COMM_LENGTH);
  const credentials = rows.key('cred');
  const keyring = rows.key('keyring');
  const structures = STRUCTURE_COLUMNS.map(
    ([kind, column, count]) =>
      [kind, rows.key(column), isKnown(count) ? rows.s32(count) : undefined] as const,
  );
  const namespaces = NAMESPACES.map(
    (kind) =>
      [
        kind,
        rows.key(`${kind}Ns`),
        rows.u32(`${kind}Inum`),
        isKnown(`${kind}Count`) ? rows.s32(`${kind}Count`) : undefined,
      ] as const,
  );
  const tasks: CensusTask[] = [];
  let spaces: Partial<Record<NamespaceKind, CensusNamespace>> = {};
  for (let row = 0; row < rows.count; row++) {
    if ((flags(row) & PF_KTHREAD) !== 0) continue;
    const own: Partial<Record<StructureKind, Counted>> = {};
    for (const [kind, identity, count] of structures) {
      const key = identity(row);
      if (key !== 0) own[kind] = { identity: key, count: count?.(row) };
    }
    // Most tasks have the same namespaces as the one before.
    if (namespaces.some(([kind, identity]) => identity(row) !== (spaces[kind]?.identity ?? 0))) {
      spaces = {};
      for (const [kind, identity, inum, count] of namespaces) {
        const key = identity(row);
        if (key !== 0) spaces[kind] = { identity: key, inum: inum(row), count: count?.(row) };
      }
    }
    tasks.push({
      tid: tid(row),
      pid: pid(row),
      comm: comm(row),
      parent: parent(row),
      tracer: ptrace(row) === 0 ? 0 : tracer(row),
      session: session(row),
      processGroup: processGroup(row),
      dead: exitState(row) !== 0,
      structures: own,
      namespaces: spaces,
      credentials: credentials(row) || undefined,
      keyring: keyring(row) || undefined,
    });
  }
  return tasks;
}
