import type { KernelTypes } from './btf.js';
import { RowLayout, RowProgram } from './rows.js';

/** Of tasks that are held by ptrace, what neither `/proc` nor ptrace(2) tells. */

/** The structures whose members the programs read. */
export const HELD_TASK_STRUCTURES = ['task_struct', 'restart_block', 'signal_struct', 'k_itimer'];

const CONTEXT_TASK = 8;
const POINTER_SIZE = 8;

/** Where `struct restart_block` has what an interrupted call goes on with. */
const RESTART_BLOCK = {
  sleepClock: 'nanosleep.clockid',
  sleepType: 'nanosleep.type',
  sleepRemainder: 'nanosleep.rmtp',
  sleepExpires: 'nanosleep.expires',
  futexAddress: 'futex.uaddr',
  futexValue: 'futex.val',
  futexTime: 'futex.time',
  pollEntries: 'poll.ufds',
  pollCount: 'poll.nfds',
  pollHasTimeout: 'poll.has_timeout',
  pollSeconds: 'poll.tv_sec',
  pollNanoseconds: 'poll.tv_nsec',
} as const;
type RestartBlockMember = keyof typeof RESTART_BLOCK;

/** One row for each held task. */
export const restartBlockLayout = new RowLayout([
  'tid',
  'ptrace',
  ...(Object.keys(RESTART_BLOCK) as RestartBlockMember[]),
]);
export type RestartBlockColumn = (typeof restartBlockLayout.columns)[number];

/** For `bpf_iter_task`. Undefined where this kernel's structures are not as expected. */
export function restartBlockProgram(types: KernelTypes): RowProgram<RestartBlockColumn> | undefined {
  const block = types.findMember('task_struct', 'restart_block');
  if (block === undefined) return undefined;
  const program = new RowProgram(types, restartBlockLayout);
  program.context('r7', CONTEXT_TASK);
  program.column('ptrace', 'r7', 'task_struct', 'ptrace');
  program.get('r1', 'ptrace');
  program.skipRowIfZero('r1');
  program.column('tid', 'r7', 'task_struct', 'pid');
  program.assembler.move('r8', 'r7').addImmediate('r8', block.offset);
  for (const [column, path] of Object.entries(RESTART_BLOCK)) {
    program.probe(column as RestartBlockMember, 'r8', 'restart_block', path);
  }
  if (program.missing.size > 0) return undefined;
  program.write();
  return program;
}

/** How many timers of a process are looked at. */
const TIMERS = 32;

/** One row for each timer of timer_create(2) of a held process. */
export const timerLayout = new RowLayout(['tid', 'tgid', 'ptrace', 'pointer', 'id', 'overrun']);
export type TimerColumn = (typeof timerLayout.columns)[number];

/** For `bpf_iter_task`. Undefined where this kernel's structures are not as expected. */
export function timerProgram(types: KernelTypes): RowProgram<TimerColumn> | undefined {
  const signal = types.findMember('task_struct', 'signal');
  const timers = types.findMember('signal_struct', 'posix_timers');
  const list = types.findMember('k_itimer', 'list');
  const id = types.findMember('k_itimer', 'it_id');
  const overrun = types.findMember('k_itimer', 'it_overrun');
  if (!signal || !timers || !list || !id || !overrun) return undefined;
  const program = new RowProgram(types, timerLayout);
  const { assembler } = program;
  program.context('r7', CONTEXT_TASK);
  program.column('ptrace', 'r7', 'task_struct', 'ptrace');
  program.get('r1', 'ptrace');
  program.skipRowIfZero('r1');
  program.column('tid', 'r7', 'task_struct', 'pid');
  program.column('tgid', 'r7', 'task_struct', 'tgid');
  program.probeAt('pointer', 'r7', signal.offset, POINTER_SIZE);
  program.get('r8', 'pointer');
  program.probeAt('pointer', 'r8', timers.offset, POINTER_SIZE);
  // r9: the head of the list, to which a list_head leads back; an hlist_head, since Linux 6.4, ends with zero.
  assembler.move('r9', 'r8').addImmediate('r9', timers.offset);
  const done = assembler.newLabel();
  for (let timer = 0; timer < TIMERS; timer++) {
    // A node begins with the pointer to the next.
    program.get('r8', 'pointer');
    assembler.jumpIfEqual('r8', 0, done).jumpIfSame('r8', 'r9', done);
    program.probeAt('id', 'r8', id.offset - list.offset, 4);
    program.probeAt('overrun', 'r8', overrun.offset - list.offset, POINTER_SIZE);
    program.probeAt('pointer', 'r8', 0, POINTER_SIZE);
    program.write();
  }
  assembler.label(done);
  return program;
}
