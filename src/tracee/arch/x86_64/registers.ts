import { neverRestartedCalls } from '../../../sys/arch/x86_64.js';

/** The order of `struct user_regs_struct` (sys/user.h), eight bytes each. */
const ORDER = [
  'r15',
  'r14',
  'r13',
  'r12',
  'rbp',
  'rbx',
  'r11',
  'r10',
  'r9',
  'r8',
  'rax',
  'rcx',
  'rdx',
  'rsi',
  'rdi',
  'orig_rax',
  'rip',
  'cs',
  'eflags',
  'rsp',
  'ss',
  'fs_base',
  'gs_base',
  'ds',
  'es',
  'fs',
  'gs',
] as const;

export type RegisterName = (typeof ORDER)[number];

const INDEX = Object.fromEntries(ORDER.map((name, index) => [name, index])) as Record<RegisterName, number>;

/** Bytes of NT_PRSTATUS for a 64-bit task; a 32-bit task has fewer. */
export const GENERAL_REGISTERS_SIZE = ORDER.length * 8;

/** The general registers of a task, as PTRACE_GETREGSET with NT_PRSTATUS gives them. */
export class Registers {
  /** Shared with the kernel by address: has memory of its own. */
  readonly bytes: Buffer;

  constructor(bytes: Uint8Array = new Uint8Array(GENERAL_REGISTERS_SIZE)) {
    this.bytes = Buffer.alloc(GENERAL_REGISTERS_SIZE);
    this.bytes.set(bytes.subarray(0, GENERAL_REGISTERS_SIZE));
  }

  get(name: RegisterName): bigint {
    return this.bytes.readBigUInt64LE(INDEX[name] * 8);
  }

  set(name: RegisterName, value: bigint): this {
    this.bytes.writeBigUInt64LE(BigInt.asUintN(64, value), INDEX[name] * 8);
    return this;
  }

  clone(): Registers {
    return new Registers(this.bytes);
  }

  /** The result register as the signed number that a system call returns. */
  get result(): bigint {
    return BigInt.asIntN(64, this.get('rax'));
  }
}

/** What a task inside an interrupted system call would get back (linux/errno.h, include/linux/errno.h). */
export const ERESTARTSYS = -512n;
export const ERESTARTNOINTR = -513n;
export const ERESTARTNOHAND = -514n;
export const ERESTART_RESTARTBLOCK = -516n;

/** Not in a register: what a task gets to see. */
const EINTR = 4n;
const IORING_ENTER_EXT_ARG = 8n;

const SYSCALL_INSTRUCTION_SIZE = 2n;
const NR_RESTART_SYSCALL = 219n;

/** Whether the task stopped inside a system call that the kernel means to issue again. */
export function isInterruptedSyscall(registers: Registers): boolean {
  if (BigInt.asIntN(64, registers.get('orig_rax')) < 0n) return false;
  const result = registers.result;
  return (
    result === ERESTARTSYS ||
    result === ERESTARTNOINTR ||
    result === ERESTARTNOHAND ||
    result === ERESTART_RESTARTBLOCK
  );
}

/**
 * The registers with which a wait without a timeout goes on that would end with EINTR, although no handler of the
 * program has run: as if the kernel treated it like pause(2), which it ends for a handler alone. Undefined for all
 * others: of a wait with a timeout nobody knows what remains.
 */
export function resumeEndlessWait(registers: Registers): Registers | undefined {
  if (registers.result !== -EINTR || !isEndlessWait(registers)) return undefined;
  return registers.clone().set('rax', ERESTARTNOHAND);
}

function isEndlessWait(registers: Registers): boolean {
  switch (Number(BigInt.asIntN(64, registers.get('orig_rax')))) {
    case neverRestartedCalls.semop:
      return true;
    case neverRestartedCalls.epoll_wait:
    case neverRestartedCalls.epoll_pwait:
      return BigInt.asIntN(32, registers.get('r10')) < 0n;
    case neverRestartedCalls.epoll_pwait2:
    case neverRestartedCalls.semtimedop:
      return registers.get('r10') === 0n;
    case neverRestartedCalls.rt_sigtimedwait:
      return registers.get('rdx') === 0n;
    case neverRestartedCalls.io_getevents:
      return registers.get('r8') === 0n;
    case neverRestartedCalls.io_uring_enter:
      // Otherwise a structure has the timeout.
      return (registers.get('r10') & IORING_ENTER_EXT_ARG) === 0n;
    default:
      return false;
  }
}

/** Whether the call that is issued again goes on with what its restart block has. */
export function isRestartBlockCall(registers: Registers): boolean {
  return isInterruptedSyscall(registers) && registers.result === ERESTART_RESTARTBLOCK;
}

/**
 * The registers with which a task goes on in user space without the kernel's help: an interrupted call is
 * issued again, as `arch_do_signal_or_restart` (arch/x86/kernel/signal.c) does it.
 *
 * `restartBlock` says what becomes of a call with a relative timeout. A live task still has its restart
 * block ('kept'): `restart_syscall` goes on with the time that remains. In a new task it is 'lost': the
 * call is issued again with its original arguments, or, for nanosleep and clock_nanosleep with an address
 * for the remaining time, from there, where the kernel wrote it when the call was interrupted.
 */
export function resolveInterruptedSyscall(registers: Registers, restartBlock: 'kept' | 'lost'): Registers {
  const resolved = registers.clone();
  if (isInterruptedSyscall(registers)) {
    resolved.set('rip', registers.get('rip') - SYSCALL_INSTRUCTION_SIZE);
    resolved.set('rax', registers.get('orig_rax'));
    if (registers.result === ERESTART_RESTARTBLOCK) {
      if (restartBlock === 'kept') resolved.set('rax', NR_RESTART_SYSCALL);
      else sleepForTheRest(resolved);
    }
  }
  return resolved.set('orig_rax', -1n);
}

/** include/uapi/asm-generic/unistd.h by x86_64's numbers: the request and remainder of the two sleeping calls. */
function sleepForTheRest(registers: Registers): void {
  const NR_NANOSLEEP = 35n;
  const NR_CLOCK_NANOSLEEP = 230n;
  const call = registers.get('rax');
  if (call === NR_NANOSLEEP && registers.get('rsi') !== 0n) registers.set('rdi', registers.get('rsi'));
  if (call === NR_CLOCK_NANOSLEEP && registers.get('r10') !== 0n) registers.set('rdx', registers.get('r10'));
}
