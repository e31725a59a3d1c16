import type { KernelTypes } from './btf.js';
import { RowLayout, RowProgram, type Rows } from './rows.js';

/** `enum bpf_func_id`. Source: bpf-helpers(7). */
const BPF_FUNC_get_current_task = 35;
const CONTEXT_TASK = 8;
const POINTER_SIZE = 8;
/** `enum pid_type` of linux/pid_types.h. */
const PIDTYPE_PGID = 2;
const PIDTYPE_SID = 3;

/** The structures whose members the program reads. */
export const PID_STRUCTURES = ['task_struct', 'signal_struct', 'pid', 'upid'];

const KINDS = ['task', 'group', 'session'] as const;

/**
 * One row for each task: its number, that of its process group and that of its session, each as the kernel itself
 * has it, how deep the namespace is in which it is one, and as whoever walks sees it.
 */
export const pidLayout = new RowLayout([
  'pointer',
  'depth',
  ...KINDS.flatMap((kind) => [`${kind}`, `${kind}Depth`, `${kind}Seen`] as const),
]);
export type PidColumn = (typeof pidLayout.columns)[number];

/** For `bpf_iter_task`. Undefined where this kernel's structures are not as expected. */
export function pidProgram(types: KernelTypes): RowProgram<PidColumn> | undefined {
  const threadPid = types.findMember('task_struct', 'thread_pid');
  const signal = types.findMember('task_struct', 'signal');
  const pids = types.findMember('signal_struct', 'pids');
  const level = types.findMember('pid', 'level');
  const numbers = types.findMember('pid', 'numbers');
  if (!threadPid || !signal || !pids || !level || !numbers || types.structureSize('upid') !== 16) {
    return undefined;
  }
  const program = new RowProgram(types, pidLayout);
  const { assembler } = program;
  const follow = (offset: number): void => {
    program.probeAt('pointer', 'r8', offset, POINTER_SIZE);
    program.get('r8', 'pointer');
  };
  program.context('r7', CONTEXT_TASK);
  assembler.call(BPF_FUNC_get_current_task).move('r8', 'r0');
  follow(threadPid.offset);
  program.probeAt('depth', 'r8', level.offset, 4);
  const paths = {
    task: [threadPid.offset],
    group: [signal.offset, pids.offset + PIDTYPE_PGID * POINTER_SIZE],
    session: [signal.offset, pids.offset + PIDTYPE_SID * POINTER_SIZE],
  };
  for (const kind of KINDS) {
    assembler.move('r8', 'r7');
    for (const offset of paths[kind]) follow(offset);
    program.probeAt(kind, 'r8', numbers.offset, 4);
    program.probeAt(`${kind}Depth`, 'r8', level.offset, 4);
    program.get('r9', 'depth');
    assembler.shiftLeft('r9', 4).add('r8', 'r9');
    program.probeAt(`${kind}Seen`, 'r8', numbers.offset, 4);
  }
  program.write();
  return program;
}

/** What each number of the kernel's own is here; what is outside of this namespace is left out. */
export function pidsSeen(rows: Rows<PidColumn>): ReadonlyMap<number, number> {
  const seen = new Map<number, number>();
  const depth = rows.u32('depth');
  for (const kind of KINDS) {
    const number = rows.u32(kind);
    const its = rows.u32(`${kind}Depth`);
    const here = rows.u32(`${kind}Seen`);
    for (let row = 0; row < rows.count; row++) {
      if (its(row) >= depth(row)) seen.set(number(row), here(row));
    }
  }
  return seen;
}
