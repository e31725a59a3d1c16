import { TaskLostError } from '../errors.js';
import { nr } from '../sys/arch/index.js';
import { errno } from '../sys/errno.js';
import { waitFor, waitForStop } from '../sys/process.js';
import { iovec, peekSiginfoArgs, rseqConfiguration, seccompMetadata } from '../sys/structs.js';
import { addressOf, check, trySyscall } from '../sys/syscall.js';
import { PTRACE_PEEKSIGINFO_SHARED, ptraceEvent, ptraceRequest, regset, wait } from '../sys/uapi.js';
import { GENERAL_REGISTERS_SIZE, Registers, resumeEndlessWait } from './arch/x86_64/registers.js';

/** What wait4(2) reported of a tracee. */
export type Stop =
  | { readonly kind: 'exited'; readonly status: number }
  | { readonly kind: 'killed'; readonly signal: number }
  /** A PTRACE_EVENT stop; for PTRACE_EVENT_STOP the signal tells a group stop. */
  | { readonly kind: 'event'; readonly event: number; readonly signal: number }
  /** About to be delivered: a resume decides what becomes of it. */
  | { readonly kind: 'signal'; readonly signal: number }
  | { readonly kind: 'syscall' };

/** Longer than any XSAVE area that Linux sets up today (AMX: 11 KB), bytes. */
const XSTATE_BUFFER_SIZE = 32768;
const xstateBuffer = Buffer.alloc(XSTATE_BUFFER_SIZE);
const vectorBuffer = Buffer.alloc(iovec.size);
const maskBuffer = Buffer.alloc(8);
const SIGINFO_SIZE = 128;
const siginfoBuffer = Buffer.alloc(SIGINFO_SIZE);
const SYSCALL_STOP_BIT = 0x80;
/** Offset of DR7 in `struct user` (sys/user.h). */
const DEBUG_CONTROL = 848 + 7 * 8;

/**
 * One seized thread. Bound to the thread of this process that seized it: everything here is synchronous.
 * Source: ptrace(2).
 */
export class Tracee {
  private constructor(
    readonly tid: number,
    private readonly waitFor: typeof waitForStop,
  ) {}

  /**
   * Seizes a running thread. 'gone' when it has ended, 'denied' when the kernel refuses: it is traced
   * already, a zombie, a kernel task, or out of our reach.
   * The status with which it ends is taken, or left for whoever else in this process waits for it.
   */
  static trySeize(
    tid: number,
    options: number,
    ends: 'taken' | 'left' = 'taken',
  ): Tracee | 'gone' | 'denied' {
    const result = trySyscall(nr.ptrace, ptraceRequest.PTRACE_SEIZE, tid, 0, options);
    if (result === -errno.ESRCH) return 'gone';
    if (result === -errno.EPERM || result === -errno.EIO) return 'denied';
    check(result, 'ptrace PTRACE_SEIZE', `task ${tid}`);
    return new Tracee(tid, ends === 'taken' ? waitFor : waitForStop);
  }

  /** A thread that was attached by its creator's PTRACE_O_TRACE… options. */
  static adopt(tid: number): Tracee {
    return new Tracee(tid, waitFor);
  }

  /** Asks a running thread to stop. False when it has ended. */
  interruptIfAlive(): boolean {
    return this.requestIfAlive(ptraceRequest.PTRACE_INTERRUPT, 0, 0);
  }

  /** Waits for the next stop. */
  wait(): Stop {
    const status = this.waitFor(this.tid, 0);
    return typeof status === 'number' ? decodeStatus(status) : { kind: 'exited', status: 0 };
  }

  /** The next stop if there is one already. */
  tryWait(): Stop | undefined {
    const status = this.waitFor(this.tid, wait.WNOHANG);
    if (status === 'none') return undefined;
    return status === 'gone' ? { kind: 'exited', status: 0 } : decodeStatus(status);
  }

  /** Lets the thread run, and delivers `signal` unless it is 0. */
  resume(signal = 0): void {
    this.request(ptraceRequest.PTRACE_CONT, 0, signal);
  }

  /** Lets the thread run up to the next entry to or exit from a system call. */
  resumeToSyscall(): void {
    this.request(ptraceRequest.PTRACE_SYSCALL, 0, 0);
  }

  setOptions(options: number): void {
    this.request(ptraceRequest.PTRACE_SETOPTIONS, 0, options);
  }

  /** Ends the tracing of a stopped thread: it runs on. False when it has ended meanwhile. */
  detachIfAlive(signal = 0): boolean {
    return this.requestIfAlive(ptraceRequest.PTRACE_DETACH, 0, signal);
  }

  /** The pid of the new task after a fork or clone event. */
  eventMessage(): number {
    this.request(ptraceRequest.PTRACE_GETEVENTMSG, 0, addressOf(maskBuffer));
    return Number(maskBuffer.readBigUInt64LE(0));
  }

  /** The general registers. A 32-bit task has a shorter set: undefined. */
  tryGetRegisters(): Registers | undefined {
    const registers = new Registers();
    const size = this.registerSet(ptraceRequest.PTRACE_GETREGSET, regset.NT_PRSTATUS, registers.bytes);
    return size === GENERAL_REGISTERS_SIZE ? registers : undefined;
  }

  getRegisters(): Registers {
    const registers = this.tryGetRegisters();
    if (registers === undefined) throw new TaskLostError(this.tid, `task ${this.tid} is not a 64-bit task`);
    return registers;
  }

  setRegisters(registers: Registers): void {
    this.registerSet(ptraceRequest.PTRACE_SETREGSET, regset.NT_PRSTATUS, registers.bytes);
  }

  /** Lets a stopped thread wait on where the kernel would end its wait for our sake. See {@link resumeEndlessWait}. */
  resumeEndlessWait(): void {
    const registers = this.tryGetRegisters();
    const resumed = registers === undefined ? undefined : resumeEndlessWait(registers);
    if (resumed !== undefined) this.setRegisters(resumed);
  }

  /** The extended state (x87, SSE, AVX, …) in the kernel's XSAVE format. */
  getExtendedState(): Uint8Array {
    const size = this.registerSet(ptraceRequest.PTRACE_GETREGSET, regset.NT_X86_XSTATE, xstateBuffer);
    return Uint8Array.prototype.slice.call(xstateBuffer, 0, size);
  }

  /** Throws SystemCallError with EINVAL or EFAULT when this CPU's state is of another size or has fewer features. */
  setExtendedState(state: Uint8Array): void {
    xstateBuffer.set(state);
    this.registerSet(
      ptraceRequest.PTRACE_SETREGSET,
      regset.NT_X86_XSTATE,
      xstateBuffer.subarray(0, state.length),
    );
  }

  /** The mask of blocked signals, bit N-1 for signal N. */
  getSignalMask(): bigint {
    this.request(ptraceRequest.PTRACE_GETSIGMASK, 8, addressOf(maskBuffer));
    return maskBuffer.readBigUInt64LE(0);
  }

  setSignalMask(mask: bigint): void {
    maskBuffer.writeBigUInt64LE(mask, 0);
    this.request(ptraceRequest.PTRACE_SETSIGMASK, 8, addressOf(maskBuffer));
  }

  /** Number, code and sender of the signal of a signal stop. */
  signalInfo(): { signal: number; code: number; pid: number } {
    this.request(ptraceRequest.PTRACE_GETSIGINFO, 0, addressOf(siginfoBuffer));
    return {
      signal: siginfoBuffer.readInt32LE(0),
      code: siginfoBuffer.readInt32LE(8),
      pid: siginfoBuffer.readInt32LE(16),
    };
  }

  /** Pending signals in the order of their queue, each as the 128 bytes of its siginfo. */
  peekPendingSignals(queue: 'thread' | 'shared'): Uint8Array[] {
    const flags = queue === 'shared' ? PTRACE_PEEKSIGINFO_SHARED : 0;
    const pending: Uint8Array[] = [];
    for (;;) {
      const args = peekSiginfoArgs.encode({ off: BigInt(pending.length), flags, nr: 1 });
      const count = this.request(ptraceRequest.PTRACE_PEEKSIGINFO, addressOf(args), addressOf(siginfoBuffer));
      if (count === 0) return pending;
      pending.push(Uint8Array.prototype.slice.call(siginfoBuffer));
    }
  }

  /** The registration for restartable sequences; undefined when the thread has none. Source: rseq(2). */
  rseqRegistration(): { pointer: bigint; size: number; signature: number; flags: number } | undefined {
    const buffer = Buffer.alloc(rseqConfiguration.size);
    const result = trySyscall(
      nr.ptrace,
      ptraceRequest.PTRACE_GET_RSEQ_CONFIGURATION,
      this.tid,
      rseqConfiguration.size,
      buffer,
    );
    // EIO: a kernel without CONFIG_RSEQ has no registrations either.
    if (result === -errno.EIO) return undefined;
    check(result, 'ptrace PTRACE_GET_RSEQ_CONFIGURATION', `task ${this.tid}`);
    const { rseq_abi_pointer, rseq_abi_size, signature, flags } = rseqConfiguration.decode(buffer);
    if (rseq_abi_pointer === 0n) return undefined;
    return { pointer: rseq_abi_pointer, size: rseq_abi_size, signature, flags };
  }

  /** A seccomp filter as `struct sock_filter`s, by its place: the oldest is 0. Undefined behind the last. */
  seccompFilter(index: number): Uint8Array | undefined {
    const size = trySyscall(nr.ptrace, ptraceRequest.PTRACE_SECCOMP_GET_FILTER, this.tid, index, 0);
    if (size === -errno.ENOENT) return undefined;
    check(size, 'ptrace PTRACE_SECCOMP_GET_FILTER', `task ${this.tid}`);
    const program = Buffer.alloc(size * 8);
    this.request(ptraceRequest.PTRACE_SECCOMP_GET_FILTER, index, addressOf(program));
    return program;
  }

  /** `struct seccomp_metadata` of a filter. */
  seccompMetadata(index: number): Buffer {
    const bytes = seccompMetadata.encode({ filter_off: BigInt(index) });
    this.request(ptraceRequest.PTRACE_SECCOMP_GET_METADATA, bytes.length, addressOf(bytes));
    return bytes;
  }

  /** Whether system calls are handed to the task itself (PR_SET_SYSCALL_USER_DISPATCH). Linux 6.4 and later tell. */
  dispatchesSyscalls(): boolean {
    const SIZE = 32;
    const config = Buffer.alloc(SIZE);
    const request = ptraceRequest.PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG;
    const result = trySyscall(nr.ptrace, request, this.tid, SIZE, config);
    if (result === -errno.EIO) return false;
    check(result, 'ptrace PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG', `task ${this.tid}`);
    return config.readBigUInt64LE(0) !== 0n;
  }

  /** Whether a debugger has left breakpoints in the processor's registers. */
  hasHardwareBreakpoints(): boolean {
    this.request(ptraceRequest.PTRACE_PEEKUSR, DEBUG_CONTROL, addressOf(maskBuffer));
    return (maskBuffer.readBigUInt64LE(0) & 0xffn) !== 0n;
  }

  private registerSet(request: number, type: number, buffer: Uint8Array): number {
    vectorBuffer.writeBigUInt64LE(addressOf(buffer), 0);
    vectorBuffer.writeBigUInt64LE(BigInt(buffer.length), 8);
    this.request(request, type, addressOf(vectorBuffer));
    return Number(vectorBuffer.readBigUInt64LE(8));
  }

  private request(request: number, address: number | bigint, data: number | bigint): number {
    const result = trySyscall(nr.ptrace, request, this.tid, address, data);
    if (result === -errno.ESRCH) {
      throw new TaskLostError(this.tid, `task ${this.tid} has ended while it was being worked on`, {
        reason: 'something killed it',
        advice: 'try again with what still runs',
      });
    }
    return check(result, `ptrace ${requestName(request)}`, `task ${this.tid}`);
  }

  private requestIfAlive(request: number, address: number, data: number): boolean {
    const result = trySyscall(nr.ptrace, request, this.tid, address, data);
    if (result === -errno.ESRCH) return false;
    check(result, `ptrace ${requestName(request)}`, `task ${this.tid}`);
    return true;
  }
}

/** Decodes a status word of wait4(2) for a seized task. */
export function decodeStatus(status: number): Stop {
  const low = status & 0x7f;
  if (low === 0) return { kind: 'exited', status: (status >> 8) & 0xff };
  if (low !== 0x7f) return { kind: 'killed', signal: low };
  const signal = (status >> 8) & 0xff;
  const event = status >> 16;
  if (event !== 0) return { kind: 'event', event, signal };
  return signal & SYSCALL_STOP_BIT ? { kind: 'syscall' } : { kind: 'signal', signal };
}

/** Whether the stop is the one that PTRACE_INTERRUPT and automatic attachment cause. */
export function isEventStop(stop: Stop): boolean {
  return stop.kind === 'event' && stop.event === ptraceEvent.PTRACE_EVENT_STOP;
}

/** A stop in words. */
export function describeStop(stop: Stop): string {
  switch (stop.kind) {
    case 'exited':
      return `it exited with status ${stop.status}`;
    case 'killed':
      return `signal ${stop.signal} killed it`;
    case 'event':
      return `it stopped at ptrace event ${stop.event} with signal ${stop.signal}`;
    case 'signal':
      return `signal ${stop.signal} arrived`;
    case 'syscall':
      return 'it stopped at a system call';
  }
}

function requestName(request: number): string {
  return Object.entries(ptraceRequest).find(([, value]) => value === request)?.[0] ?? String(request);
}
