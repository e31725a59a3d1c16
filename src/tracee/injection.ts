import { InternalError, SystemCallError, TaskLostError, UnsupportedError } from '../errors.js';
import { nr } from '../sys/arch/index.js';
import { errnoName, errnoText } from '../sys/errno.js';
import { rseqCriticalSection } from '../sys/structs.js';
import { mapFlag, NSIG, prot, ptraceOption, SIG_BLOCK_ALL, signal } from '../sys/uapi.js';
import { type AddressRange, advance, findHole, type RemoteAddress, remoteAddress } from './address.js';
import { Assembler } from './arch/x86_64/machineCode.js';
import { type Registers, resolveInterruptedSyscall } from './arch/x86_64/registers.js';
import type { RemoteMemory } from './memory.js';
import { type CodeRunner, RemoteCalls } from './remoteCalls.js';
import { SCRATCH_CODE_SIZE, SCRATCH_SIZE, type Scratch, scratchAt } from './scratch.js';
import { describeStop, isEventStop, type Tracee } from './tracee.js';

/** A stopped thread with the state that it had when it stopped. */
export interface StoppedThread {
  readonly tracee: Tracee;
  /** Its id as it sees it itself. */
  readonly ownTid: number;
  readonly registers: Registers;
  readonly signalMask: bigint;
  /** Seccomp forbids it calls: that is suspended while it works for us. */
  readonly restricted: boolean;
}

/** What the injection must know of the process. */
export interface InjectionTarget {
  readonly pid: number;
  /** As the process sees it itself. */
  readonly ownPid: number;
  readonly leader: StoppedThread;
  readonly memory: RemoteMemory;
  readonly used: readonly AddressRange[];
  readonly vdso: AddressRange | undefined;
  /** Signals with a handler, ignored by choice, and pending, bit N-1 for signal N. */
  readonly caughtSignals: bigint;
  readonly ignoredSignals: bigint;
  readonly pendingSignals: bigint;
  /** By a signal, until SIGCONT. */
  readonly stopped: boolean;
}

const SIG_SETMASK = 2n;
const SI_TKILL = -6;
const IGNORED_BY_DEFAULT: readonly number[] = [signal.SIGURG, signal.SIGWINCH, signal.SIGCHLD];
/** Generous: two mmap, tgkill, rt_sigprocmask, 16 registers, one jump. */
const VDSO_CODE_SIZE = 512;

/**
 * Makes the threads of a running, stopped process execute system calls, so that whatever happens to us the
 * process goes on as if nothing had happened.
 *
 * Every piece of code that a thread is made to run ends by itself in the state that the thread had: it
 * sends itself a signal that it ignores, sets its signal mask back, loads all registers and jumps to where
 * it was. A tracer that lives sees that signal's stop and takes over; a tracer that has died is not missed.
 * The first code, which maps the scratch area, stands in the zero padding behind the vdso, which nobody
 * else executes. The order of each step keeps that true at every moment: code before registers, registers
 * before the signal mask on the way in, signal mask before registers on the way out.
 *
 * No call that is made here may use the thread's restart block (no sleeping, no polling): an interrupted
 * sleep of the thread itself goes on with it.
 */
export class Injection implements Disposable {
  readonly scratch: Scratch;
  private readonly padding: RemoteAddress;
  private readonly endSignal: number;
  private readonly entered = new Set<StoppedThread>();
  private mapped = false;
  private ending = false;
  private closed = false;
  private running: StoppedThread | undefined;

  constructor(private readonly target: InjectionTarget) {
    this.endSignal = chooseEndSignal(target);
    this.padding = findPadding(target);
    const hole = findHole(target.used, SCRATCH_SIZE);
    if (hole === undefined) throw noRoom(target.pid);
    this.scratch = scratchAt(hole);
  }

  /** Sets off the mapping of the scratch area; {@link ready} ends it. Meanwhile others can be set off. */
  begin(): void {
    const { scratch } = this;
    const flags = BigInt(mapFlag.MAP_PRIVATE | mapFlag.MAP_ANONYMOUS | mapFlag.MAP_FIXED_NOREPLACE);
    const anonymous = [flags, -1n, 0n];
    const codeProtection = BigInt(prot.PROT_READ | prot.PROT_EXEC);
    const dataProtection = BigInt(prot.PROT_READ | prot.PROT_WRITE);
    this.startInPadding(this.target.leader, (assembler) => {
      assembler
        .systemCall(nr.mmap, [scratch.code, BigInt(SCRATCH_CODE_SIZE), codeProtection, ...anonymous])
        .moveResult('r12')
        .systemCall(nr.mmap, [scratch.data, scratch.end - scratch.data, dataProtection, ...anonymous])
        .moveResult('r13');
    });
  }

  /** A queue of system calls to be made by `thread`. End it with {@link leave} before the next thread's. */
  callsOf(thread: StoppedThread): RemoteCalls {
    const runner: CodeRunner = {
      tid: thread.tracee.tid,
      memory: this.target.memory,
      scratch: this.scratch,
      epilogueSize: VDSO_CODE_SIZE,
      appendEpilogue: (assembler) => this.appendScratchEpilogue(assembler, thread),
      start: () => this.start(thread, this.scratch.code),
      finish: () => this.finish(),
    };
    return new RemoteCalls(runner);
  }

  /** Gives a thread its own registers and signal mask back. */
  leave(thread: StoppedThread): void {
    if (!this.entered.delete(thread)) return;
    thread.tracee.setSignalMask(thread.signalMask);
    thread.tracee.setRegisters(thread.registers);
    if (thread.restricted) thread.tracee.setOptions(0);
  }

  /** Sets off the removal of the scratch area, which the scope's end waits for. */
  end(): void {
    if (this.ending) return;
    if (this.running !== undefined) this.finish();
    this.ending = true;
    const { leader } = this.target;
    for (const thread of this.entered) if (thread !== leader) this.leave(thread);
    if (!this.mapped) return;
    this.startInPadding(leader, (assembler) => {
      assembler.systemCall(nr.munmap, [this.scratch.start, BigInt(SCRATCH_SIZE)]);
    });
  }

  /** Gives all threads their state back. */
  [Symbol.dispose](): void {
    if (this.closed) return;
    this.closed = true;
    this.end();
    if (this.running !== undefined) this.finish();
    this.leave(this.target.leader);
    this.target.memory.write(this.padding, new Uint8Array(VDSO_CODE_SIZE));
  }

  /** Waits until the scratch area is mapped. Throws SystemCallError. */
  ready(): void {
    this.finish();
    const results = this.target.leader.tracee.getRegisters();
    for (const [register, wanted] of [
      ['r12', this.scratch.code],
      ['r13', this.scratch.data],
    ] as const) {
      const result = BigInt.asIntN(64, results.get(register));
      if (result === wanted) this.mapped = true;
      else {
        const number = Number(-result);
        throw new SystemCallError(
          'mmap',
          number,
          errnoName(number),
          errnoText(number),
          `a scratch area in process ${this.target.pid}`,
        );
      }
    }
  }

  private startInPadding(thread: StoppedThread, body: (assembler: Assembler) => void): void {
    const assembler = new Assembler(Buffer.alloc(VDSO_CODE_SIZE));
    body(assembler);
    this.appendEndSignal(assembler, thread);
    // The mask is the last thing in the padding, where the kernel can read it.
    const maskAddress = advance(this.padding, VDSO_CODE_SIZE - 8);
    this.appendReturn(assembler, thread, maskAddress);
    if (assembler.length > VDSO_CODE_SIZE - 8) throw new InternalError('the code for the vdso is too long');
    assembler.bytes.writeBigUInt64LE(thread.signalMask, VDSO_CODE_SIZE - 8);
    this.target.memory.write(this.padding, assembler.bytes);
    this.start(thread, this.padding);
  }

  private appendScratchEpilogue(assembler: Assembler, thread: StoppedThread): void {
    const saved = Buffer.alloc(16);
    saved.writeBigUInt64LE(thread.registers.get('eflags'), 0);
    saved.writeBigUInt64LE(thread.signalMask, 8);
    this.target.memory.write(this.scratch.saved, saved);
    this.appendEndSignal(assembler, thread);
    // Programs compare results, which changes the flags.
    assembler.moveImmediate('rsp', this.scratch.saved).popFlags();
    assembler.moveImmediate('rsp', thread.registers.get('rsp'));
    this.appendReturn(assembler, thread, advance(this.scratch.saved, 8));
  }

  private appendEndSignal(assembler: Assembler, thread: StoppedThread): void {
    assembler.systemCall(nr.tgkill, [
      BigInt(this.target.ownPid),
      BigInt(thread.ownTid),
      BigInt(this.endSignal),
    ]);
  }

  private appendReturn(assembler: Assembler, thread: StoppedThread, maskAddress: RemoteAddress): void {
    assembler
      .systemCall(nr.rt_sigprocmask, [SIG_SETMASK, maskAddress, 0n, 8n])
      .restoreRegisters(resolveInterruptedSyscall(thread.registers, 'kept'));
  }

  private start(thread: StoppedThread, code: RemoteAddress): void {
    const { tracee } = thread;
    tracee.setRegisters(thread.registers.clone().set('rip', code).set('orig_rax', -1n));
    if (!this.entered.has(thread)) {
      this.entered.add(thread);
      if (thread.restricted) tracee.setOptions(ptraceOption.PTRACE_O_SUSPEND_SECCOMP);
      tracee.setSignalMask(SIG_BLOCK_ALL & ~signalBit(this.endSignal));
    }
    this.running = thread;
    tracee.resume();
  }

  private finish(): void {
    const tracee = this.running?.tracee;
    if (tracee === undefined) throw new InternalError('no program is running');
    this.running = undefined;
    for (;;) {
      const stop = tracee.wait();
      if (stop.kind === 'signal' && stop.signal === this.endSignal) {
        const { code, pid } = tracee.signalInfo();
        if (code === SI_TKILL && pid === this.target.ownPid) return;
        this.intercepted.add(stop.signal);
        tracee.resume();
      } else if (stop.kind === 'signal' && stop.signal === signal.SIGSTOP) {
        // Can't be blocked.
        this.intercepted.add(stop.signal);
        tracee.resume();
      } else if (isEventStop(stop)) {
        // A process that a signal has stopped is told that another one lets it continue.
        tracee.resume();
      } else {
        throw new TaskLostError(tracee.tid, `task ${tracee.tid} did not finish a program`, {
          reason: describeStop(stop),
        });
      }
    }
  }

  /** What somebody sent meanwhile: it is due again when the thread has its own state back. */
  readonly intercepted = new Set<number>();
}

/**
 * The registers with which a thread goes on when it was stopped inside a restartable sequence: at its abort
 * handler, as the kernel would send it there had it been preempted. Source: rseq(2), kernel/rseq.c.
 */
export function abortRestartableSequence(
  tracee: Tracee,
  registers: Registers,
  memory: RemoteMemory,
): Registers {
  const registration = tracee.rseqRegistration();
  if (registration === undefined) return registers;
  const RSEQ_CS_OFFSET = 8;
  const pointer = Buffer.alloc(8);
  memory.read(remoteAddress(registration.pointer + BigInt(RSEQ_CS_OFFSET)), pointer);
  const section = pointer.readBigUInt64LE(0);
  if (section === 0n) return registers;
  const bytes = Buffer.alloc(rseqCriticalSection.size);
  memory.read(remoteAddress(section), bytes);
  const { start_ip, post_commit_offset, abort_ip } = rseqCriticalSection.decode(bytes);
  const offset = BigInt.asUintN(64, registers.get('rip') - start_ip);
  if (offset >= post_commit_offset) return registers;
  return registers.clone().set('rip', abort_ip).set('orig_rax', -1n);
}

/**
 * A signal that does nothing to the process, should nobody be there to take it: it is ignored, by default or
 * by choice, and none is pending that could be taken for it. A runtime that catches them all (Go's does, and
 * sends its threads SIGURG all the time) leaves SIGCONT, which does nothing to a process that is not stopped; one
 * that catches that too, any of its handlers, to whom a lone signal says nothing that a user could not say.
 */
function chooseEndSignal(target: InjectionTarget): number {
  const { caughtSignals: caught, ignoredSignals: ignored, pendingSignals: pending } = target;
  const all = Array.from({ length: NSIG }, (_, index) => index + 1);
  const stops = [signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU];
  const mayContinue = !target.stopped && stops.every((stop) => (pending & signalBit(stop)) === 0n);
  const isIn = (set: bigint, candidate: number): boolean => (set & signalBit(candidate)) !== 0n;
  const harmless = [
    ...IGNORED_BY_DEFAULT.filter((candidate) => !isIn(caught, candidate)),
    ...all.filter((candidate) => isIn(ignored, candidate) && candidate !== signal.SIGCONT),
    ...(mayContinue && !isIn(caught, signal.SIGCONT) ? [signal.SIGCONT] : []),
  ];
  const handled = [...IGNORED_BY_DEFAULT, ...all].filter(
    (candidate) => isIn(caught, candidate) && candidate !== signal.SIGCONT,
  );
  const chosen = [...harmless, ...handled].find((candidate) => !isIn(pending, candidate));
  if (chosen !== undefined) return chosen;
  throw new UnsupportedError([
    {
      pid: target.pid,
      what: 'every signal that it does not die of is pending',
      advice: 'let it take its signals',
    },
  ]);
}

function signalBit(number: number): bigint {
  return 1n << BigInt(number - 1);
}

function findPadding(target: InjectionTarget): RemoteAddress {
  const { vdso, memory, pid } = target;
  if (vdso !== undefined) {
    const start = advance(vdso.end, -VDSO_CODE_SIZE);
    const tail = Buffer.alloc(VDSO_CODE_SIZE);
    memory.read(start, tail);
    if (tail.every((byte) => byte === 0)) return start;
  }
  throw new UnsupportedError([
    {
      pid,
      what: vdso === undefined ? 'the process has no vdso' : 'the vdso has no free room at its end',
      advice: 'run it on a kernel that is not booted with vdso=0',
    },
  ]);
}

function noRoom(pid: number): UnsupportedError {
  return new UnsupportedError([
    { pid, what: 'its address space has no free range', advice: 'end it, or free some of its mappings' },
  ]);
}
