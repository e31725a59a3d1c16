import type { KernelTypes } from './btf.js';
import { RowLayout, RowProgram } from './rows.js';

/** The namespaces of a task, as nsproxy(9) and credentials have them. */
export const NAMESPACES = ['uts', 'ipc', 'mnt', 'pid', 'net', 'cgroup', 'time', 'user'] as const;
export type NamespaceKind = (typeof NAMESPACES)[number];

/** What holds each namespace, and the structure that it is. */
const IN_NSPROXY: Readonly<Record<Exclude<NamespaceKind, 'pid' | 'user'>, { field: string; type: string }>> =
  {
    uts: { field: 'uts_ns', type: 'uts_namespace' },
    ipc: { field: 'ipc_ns', type: 'ipc_namespace' },
    mnt: { field: 'mnt_ns', type: 'mnt_namespace' },
    net: { field: 'net_ns', type: 'net' },
    cgroup: { field: 'cgroup_ns', type: 'cgroup_namespace' },
    time: { field: 'time_ns', type: 'time_namespace' },
  };

const namespaceColumns = NAMESPACES.flatMap((name) => [`${name}Ns`, `${name}Inum`, `${name}Count`] as const);

/** One row for each task, threads and kernel tasks included. */
export const taskLayout = new RowLayout([
  'tid',
  'tgid',
  'parent',
  'tracer',
  'ptrace',
  'exitState',
  'flags',
  'group',
  'session',
  'comm',
  'comm8',
  'files',
  'filesCount',
  'fs',
  'fsUsers',
  'mm',
  'mmUsers',
  'sighand',
  'sighandCount',
  'signal',
  'signalThreads',
  'nsproxy',
  'nsproxyCount',
  'exe',
  'exeCount',
  'exeMode',
  'cred',
  'keyring',
  'pointer',
  ...namespaceColumns,
]);
export type TaskColumn = (typeof taskLayout.columns)[number];

/** The structures whose members the program reads. */
export const TASK_STRUCTURES = [
  'task_struct',
  'files_struct',
  'fs_struct',
  'mm_struct',
  'sighand_struct',
  'signal_struct',
  'nsproxy',
  'file',
  'pid',
  'upid',
  'cred',
  'pid_namespace',
  'user_namespace',
  ...Object.values(IN_NSPROXY).map(({ type }) => type),
];

const CONTEXT_TASK = 8;
const COMM_LENGTH = 16;
/** `enum pid_type` of linux/pid_types.h. */
const PIDTYPE_PGID = 2;
const PIDTYPE_SID = 3;
const POINTER_SIZE = 8;

/** For `bpf_iter_task`. */
export function taskProgram(types: KernelTypes): RowProgram<TaskColumn> {
  const program = new RowProgram(types, taskLayout);
  const task = 'r7';
  const object = 'r8';
  program.context(task, CONTEXT_TASK);
  program.column('tid', task, 'task_struct', 'pid');
  program.column('tgid', task, 'task_struct', 'tgid');
  program.column('ptrace', task, 'task_struct', 'ptrace');
  program.column('exitState', task, 'task_struct', 'exit_state');
  program.column('flags', task, 'task_struct', 'flags');
  program.probe('comm', task, 'task_struct', 'comm', COMM_LENGTH);

  /** Leaves in r8 what a member of r7 or r8 points to; false where there is no such member. */
  const follow = (from: 'r7' | 'r8', structure: string, path: string, index = 0): boolean => {
    const member = types.findMember(structure, path);
    if (member === undefined) return false;
    program.probeAt('pointer', from, member.offset + index * POINTER_SIZE, POINTER_SIZE);
    program.get(object, 'pointer');
    return true;
  };
  const counted = (
    columns: readonly [TaskColumn, TaskColumn],
    field: string,
    structure: string,
    counts: readonly string[],
  ): void => {
    if (!follow(task, 'task_struct', field)) {
      for (const column of columns) program.missing.set(column, `task_struct.${field}`);
      return;
    }
    program.put(columns[0], object);
    const count = counts.find((name) => types.findMember(structure, name) !== undefined) ?? counts[0] ?? '';
    program.probe(columns[1], object, structure, count);
  };

  if (follow(task, 'task_struct', 'real_parent')) program.probe('parent', object, 'task_struct', 'tgid');
  if (follow(task, 'task_struct', 'parent')) program.probe('tracer', object, 'task_struct', 'tgid');
  counted(['files', 'filesCount'], 'files', 'files_struct', ['count']);
  counted(['fs', 'fsUsers'], 'fs', 'fs_struct', ['users']);
  counted(['sighand', 'sighandCount'], 'sighand', 'sighand_struct', ['count']);
  counted(['signal', 'signalThreads'], 'signal', 'signal_struct', ['nr_threads']);
  for (const [column, type] of [
    ['group', PIDTYPE_PGID],
    ['session', PIDTYPE_SID],
  ] as const) {
    if (follow(task, 'task_struct', 'signal') && follow(object, 'signal_struct', 'pids', type)) {
      program.probe(column, object, 'pid', 'numbers', 4);
    }
  }
  counted(['mm', 'mmUsers'], 'mm', 'mm_struct', ['mm_users']);
  // r8 has the mm.
  program.unlessZero(object, () => {
    if (!follow(object, 'mm_struct', 'exe_file')) return;
    program.put('exe', object);
    probeFileCount(program, 'exeCount');
    program.probe('exeMode', object, 'file', 'f_mode');
  });
  namespaces(program, follow);
  return program;
}

/** Copies the reference count of the file in r8. See {@link fileCountBias}. */
function probeFileCount(program: RowProgram<TaskColumn>, column: TaskColumn): void {
  program.probe(column, 'r8', 'file', fileCountMember(program.types));
}

/** `f_ref` since Linux 6.13 (commit 90ee6ed776c0), `f_count` before. */
export function fileCountMember(types: KernelTypes): 'f_ref' | 'f_count' {
  return types.findMember('file', 'f_ref') === undefined ? 'f_count' : 'f_ref';
}

/** What is to be added to the stored number: `f_ref` is the number of references less one. */
export function fileCountBias(types: KernelTypes): number {
  return fileCountMember(types) === 'f_ref' ? 1 : 0;
}

function namespaces(
  program: RowProgram<TaskColumn>,
  follow: (from: 'r7' | 'r8', structure: string, path: string) => boolean,
): void {
  const { types } = program;
  /** Of the namespace in r8. */
  const describe = (name: NamespaceKind, structure: string): void => {
    program.put(`${name}Ns`, 'r8');
    program.probe(`${name}Inum`, 'r8', structure, 'ns.inum');
    // `__ns_ref` since Linux 6.18, `count` before.
    const renamed = types.findMember(structure, 'ns.__ns_ref') !== undefined;
    program.probe(`${name}Count`, 'r8', structure, renamed ? 'ns.__ns_ref' : 'ns.count');
  };
  if (follow('r7', 'task_struct', 'nsproxy')) {
    program.put('nsproxy', 'r8');
    program.probe('nsproxyCount', 'r8', 'nsproxy', 'count');
  }
  for (const [name, { field, type }] of Object.entries(IN_NSPROXY)) {
    if (follow('r7', 'task_struct', 'nsproxy') && follow('r8', 'nsproxy', field)) {
      describe(name as keyof typeof IN_NSPROXY, type);
    }
  }
  if (follow('r7', 'task_struct', 'cred')) {
    program.put('cred', 'r8');
    program.probe('keyring', 'r8', 'cred', 'session_keyring');
    if (follow('r8', 'cred', 'user_ns')) describe('user', 'user_namespace');
  }
  pidNamespace(program, follow, () => describe('pid', 'pid_namespace'));
}

/** The one in which the task was born: the last of its struct pid's numbers. */
function pidNamespace(
  program: RowProgram<TaskColumn>,
  follow: (from: 'r7' | 'r8', structure: string, path: string) => boolean,
  describe: () => void,
): void {
  const { types, assembler } = program;
  const level = types.findMember('pid', 'level');
  const numbers = types.findMember('pid', 'numbers');
  const namespace = types.findMember('upid', 'ns');
  const size = types.structureSize('upid');
  if (!level || !numbers || !namespace || size !== 16 || !follow('r7', 'task_struct', 'thread_pid')) return;
  program.probeAt('pidInum', 'r8', level.offset, 4);
  program.get('r9', 'pidInum');
  assembler.shiftLeft('r9', 4).add('r8', 'r9');
  program.probeAt('pointer', 'r8', numbers.offset + namespace.offset, POINTER_SIZE);
  program.get('r8', 'pointer');
  describe();
}
