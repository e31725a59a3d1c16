import { RestartFailedError, TaskLostError } from '../../errors.js';
import { type Vma, Vma_Kind } from '../../image/generated/mm_pb.js';
import {
  type Process,
  type RestartBlock,
  RestartBlock_Kind,
  type Thread,
} from '../../image/generated/process_pb.js';
import type { InheritedState, TaskRestart } from '../../objects/slice.js';
import { nr } from '../../sys/arch/index.js';
import { reapTracee, sendSignal } from '../../sys/process.js';
import { prctl, ptraceOption, signal, wait } from '../../sys/uapi.js';
import { remoteAddress } from '../../tracee/address.js';
import {
  ERESTART_RESTARTBLOCK,
  Registers,
  resolveInterruptedSyscall,
} from '../../tracee/arch/x86_64/registers.js';
import type { Scratch } from '../../tracee/scratch.js';
import {
  BUILDING_MASK,
  interruptCall,
  RESTART_OPTIONS,
  scratchSyscallInstruction,
  unmapByStepping,
} from '../../tracee/stub.js';
import { describeStop, isEventStop, type Tracee } from '../../tracee/tracee.js';
import { type FilesSource, fillFilesStruct } from '../filesStruct.js';
import type { LoadedProcess } from '../loadImage.js';
import { finishMemory, type MemorySource, mapMemory, readPages } from '../mm/restart.js';
import { planFill, writePages } from '../mm/sharedFill.js';
import { endOf } from '../process.js';
import { discardSignals } from '../sighand.js';
import type { Forked } from './forking.js';
import type { Helper, ReservedDescriptors } from './helper.js';
import type { NewTask } from './newTask.js';

/** `syscall` (0F 05). */
const SYSCALL_INSTRUCTION = Buffer.from([0x0f, 0x05]);

/** What the processes of a new tree are built with. */
export interface NewTreeContext {
  readonly helper: Helper;
  readonly reserved: ReservedDescriptors;
  readonly inherited: InheritedState;
  readonly cgroups: boolean;
  warn(text: string): void;
  undo(action: () => void): void;
}

/** A process of the new tree that lives, up to its release. Everything is queued and run in it by itself. */
export class NewProcess {
  private readonly leader: NewTask;
  /** What the calls returned in which threads wait, by index. */
  private readonly results = new Map<number, bigint>();

  constructor(
    readonly loaded: LoadedProcess,
    private readonly forked: Forked,
    private readonly context: NewTreeContext,
  ) {
    const [leader] = forked.tasks;
    if (leader === undefined) throw new RestartFailedError(`process ${loaded.message.pid} was not made`, {});
    this.leader = leader;
  }

  /** As this process sees it. */
  get pid(): number {
    return this.leader.tid;
  }

  /**
   * Sets off building its address space. Of a large one a part is written from here, and awaited, meanwhile.
   */
  async startMemory(source: MemorySource, imageFd: number): Promise<void> {
    const { calls, tid } = this.leader;
    const { mm } = this.loaded;
    mapMemory(mm, source, calls);
    for (const { read, written } of planFill(source.pages)) {
      if (written.length > 0) calls.flush();
      readPages(source, read, calls);
      if (written.length === 0) continue;
      calls.start();
      await writePages(tid, imageFd, written);
      calls.finish();
    }
    finishMemory(mm, source, calls);
    calls.start();
  }

  /** Waits for what was set off last. Meanwhile other processes can be at work. */
  finish(): void {
    this.leader.calls.finish();
  }

  /**
   * Stops all of it, as the signal that it was stopped by did. From here on it is stopped again as soon as it is
   * let go.
   */
  stop(parent: NewTask | undefined, pidForParent: number): void {
    const { stopped } = this.loaded.message;
    if (stopped === undefined) return;
    // What nobody will ask for can be any stop; others than SIGSTOP have no effect in an orphaned group.
    const wanted = stopped.unreported ? stopped.signal : signal.SIGSTOP;
    if (!this.stopBy(wanted) && !this.stopBy(signal.SIGSTOP)) {
      throw new TaskLostError(this.leader.tid, `process ${this.loaded.message.pid} could not be stopped`);
    }
    if (stopped.unreported || parent === undefined) return;
    parent.calls.call('wait4', [pidForParent, 0, wait.WUNTRACED | wait.WNOHANG | wait.__WALL, 0], {
      purpose: `waiting for the stop of ${pidForParent}`,
    });
    parent.calls.flush();
  }

  /** Takes away the signals that arrived while the tree was built: those of helpers, zombies and stops. */
  discardSignals(signals: readonly number[]): void {
    discardSignals(signals, this.leader.calls);
  }

  /** Fills its table of descriptors. */
  fillFiles(source: FilesSource): void {
    fillFilesStruct(this.loaded.files, source, this.leader.calls);
  }

  /** Closes the ways to the helper and the image. */
  closeReserved(): void {
    const { helper, image } = this.context.reserved;
    this.leader.calls.call('close_range', [helper, image, 0]);
  }

  /** Restricts what its threads may call, which takes effect when they are released. */
  restoreSeccomp(): void {
    if (this.loaded.threads.every(({ seccomp }) => seccomp === undefined)) return;
    for (const { tracee } of this.forked.tasks) {
      tracee.setOptions(RESTART_OPTIONS | ptraceOption.PTRACE_O_SUSPEND_SECCOMP);
    }
    for (const [index, { seccomp }] of this.loaded.threads.entries()) {
      const task = this.forked.tasks[index];
      if (task === undefined || seccomp === undefined) continue;
      seccomp.restart(task.calls, this.restartContext(task));
      task.calls.flush();
    }
  }

  /** Sets off bringing back the state of the process. */
  startState(): void {
    for (const state of this.loaded.states)
      state.restart(this.leader.calls, this.restartContext(this.leader));
    // Without other threads the leader's own state can follow at once.
    if (this.forked.tasks.length === 1) this.queueThreadState(0);
    this.leader.calls.start();
  }

  /** Brings back the state of all threads, the leader's last. */
  restoreThreads(): void {
    const { tasks } = this.forked;
    if (tasks.length === 1) return;
    for (const [index, task] of tasks.entries()) {
      if (index === 0) continue;
      this.queueThreadState(index);
      task.calls.flush();
    }
    this.queueThreadState(0);
    this.leader.calls.flush();
  }

  /**
   * Puts threads that waited with a timeout back into their calls: the kernel makes their restart blocks. Nothing
   * that uses one may be done in them any more.
   */
  restoreRestartBlocks(): void {
    const { scratch } = this.context.helper;
    const instruction = scratchSyscallInstruction(scratch);
    for (const [index, { message }] of this.loaded.threads.entries()) {
      const task = this.forked.tasks[index];
      if (task === undefined || message.restartBlock === undefined) continue;
      const call = waitingCall(message.restartBlock, new Registers(message.registers), scratch);
      if (call === undefined) continue;
      this.forked.memory.write(instruction, SYSCALL_INSTRUCTION);
      this.forked.memory.write(scratch.data, call.time);
      this.results.set(index, interruptCall(task.tracee, instruction, call.number, call.args));
    }
  }

  /** Removes the scratch area, which is the last thing that is done in an address space. */
  unmapScratch(): void {
    const { scratch } = this.context.helper;
    const instruction = scratchSyscallInstruction(scratch);
    this.forked.memory.write(instruction, SYSCALL_INSTRUCTION);
    unmapByStepping(this.leader.tracee, instruction, scratch);
  }

  /** Sets all registers: from here on the tasks can only be released. */
  setRegisters(): void {
    this.loaded.threads.forEach(({ message }, index) => {
      const tracee = this.forked.tasks[index]?.tracee;
      if (tracee === undefined) throw new RestartFailedError(`thread ${message.tid} was not made`, {});
      if (message.ended !== undefined) {
        this.prepareEnd(tracee, message.ended);
        return;
      }
      tracee.setExtendedState(message.extendedState);
      tracee.setRegisters(this.finalRegisters(message, index));
      tracee.setSignalMask(message.signalMask);
    });
  }

  /** From here on the threads run, and do not end, should this process be killed. */
  disarm(): void {
    for (const { tracee } of this.forked.tasks) tracee.setOptions(0);
  }

  /** Lets all threads run. */
  release(): void {
    for (const { tracee } of this.forked.tasks) tracee.detachIfAlive();
  }

  private finalRegisters({ registers: bytes, restartBlock }: Thread, index: number): Registers {
    const registers = new Registers(bytes);
    // The call is the same, also where it was being restarted already.
    if (restartBlock?.kind === RestartBlock_Kind.FUTEX_UNTIL) registers.set('orig_rax', BigInt(nr.futex));
    const result = this.results.get(index);
    if (result === undefined) return resolveInterruptedSyscall(registers, 'lost');
    if (result === ERESTART_RESTARTBLOCK) return resolveInterruptedSyscall(registers, 'kept');
    return registers.set('rax', result).set('orig_rax', -1n);
  }

  private queueThreadState(index: number): void {
    const task = this.forked.tasks[index];
    if (task === undefined) return;
    for (const state of this.loaded.threads[index]?.states ?? []) {
      state.restart(task.calls, this.restartContext(task));
    }
  }

  /** Whether the signal has stopped all threads. It has to be under way already: each is held at a stop. */
  private stopBy(number: number): boolean {
    const { leader } = this;
    leader.calls.call('getpid', []);
    leader.calls.flush();
    leader.tracee.setSignalMask(0n);
    leader.tracee.resume(number);
    const stop = leader.tracee.wait();
    leader.tracee.setSignalMask(BUILDING_MASK);
    // Otherwise it had no effect, and the task has come to the end of its calls again.
    if (!isEventStop(stop)) return false;
    // The stop is complete, and the parent told, when all threads have taken part.
    for (const { tracee } of this.forked.tasks.slice(1)) {
      tracee.resume();
      const taken = tracee.wait();
      if (isEventStop(taken)) continue;
      throw new TaskLostError(tracee.tid, `task ${tracee.tid} did not stop with its process`, {
        reason: describeStop(taken),
      });
    }
    return true;
  }

  /** The leader ends as soon as it is let go: it is set before a system call of the vdso, as exit(2). */
  private prepareEnd(tracee: Tracee, status: number): void {
    const end = endOf(status);
    const registers = tracee.getRegisters();
    registers
      .set('rip', this.vdsoSyscall())
      .set('rax', BigInt(nr.exit))
      .set('rdi', BigInt(end !== undefined && 'status' in end ? end.status : 0))
      .set('orig_rax', -1n);
    tracee.setRegisters(registers);
  }

  private vdsoSyscall(): bigint {
    const vdso: Vma | undefined = this.loaded.mm.vmas.find(
      ({ kind, name }) => kind === Vma_Kind.SPECIAL && name === '[vdso]',
    );
    if (vdso !== undefined) {
      const code = Buffer.alloc(Number(vdso.end - vdso.start));
      this.forked.memory.read(remoteAddress(vdso.start), code);
      const at = code.indexOf(SYSCALL_INSTRUCTION);
      if (at >= 0) return vdso.start + BigInt(at);
    }
    throw new RestartFailedError(`process ${this.loaded.message.pid} has no system call in its vdso`, {
      reason: 'its leader has ended, and can only be ended by one',
    });
  }

  private restartContext({ tid, ownPid, ownTid }: NewTask): TaskRestart {
    const { inherited, cgroups, warn, undo } = this.context;
    return { pid: this.leader.tid, tid, ownPid, ownTid, inherited, cgroups, warn, undo };
  }
}

const NANOSECONDS = 1_000_000_000n;
const NANOSECONDS_OF_MILLISECOND = 1_000_000n;

interface WaitingCall {
  readonly number: number;
  readonly args: readonly bigint[];
  /** The `struct timespec` at the beginning of the scratch data. */
  readonly time: Buffer;
}

/** The call with what remains of its timeout; undefined for one that is just issued again. */
function waitingCall(
  { kind, clock, remainingNanoseconds, remainder }: RestartBlock,
  registers: Registers,
  { data }: Scratch,
): WaitingCall | undefined {
  const time = Buffer.alloc(16);
  time.writeBigInt64LE(remainingNanoseconds / NANOSECONDS, 0);
  time.writeBigInt64LE(remainingNanoseconds % NANOSECONDS, 8);
  const [first, second, third] = [registers.get('rdi'), registers.get('rsi'), registers.get('rdx')];
  switch (kind) {
    case RestartBlock_Kind.SLEEP:
      return { number: nr.clock_nanosleep, args: [BigInt(clock), 0n, data, remainder], time };
    case RestartBlock_Kind.POLL: {
      const milliseconds =
        (remainingNanoseconds + NANOSECONDS_OF_MILLISECOND - 1n) / NANOSECONDS_OF_MILLISECOND;
      return { number: nr.poll, args: [first, second, milliseconds], time };
    }
    case RestartBlock_Kind.FUTEX:
      return { number: nr.futex, args: [first, second, third, data], time };
    default:
      return undefined;
  }
}

/** Makes a new task into a zombie that ended as the image says. */
export function endAsZombie({ zombie }: Process, { tracee, calls, tid }: NewTask): void {
  if (zombie === undefined) return;
  calls.call('prctl', [prctl.PR_SET_NAME, Buffer.concat([zombie.name, Buffer.alloc(1)]), 0, 0, 0]);
  calls.call('setresgid', [zombie.gid, zombie.gid, zombie.gid]);
  calls.call('setresuid', [zombie.uid, zombie.uid, zombie.uid]);
  // No core is dumped for a signal that would.
  calls.call('prctl', [prctl.PR_SET_DUMPABLE, 0, 0, 0, 0]);
  const end = endOf(zombie.status);
  if (end !== undefined && 'signal' in end) {
    calls.flush();
    if (end.signal === signal.SIGKILL) sendSignal(tid, signal.SIGKILL);
    else {
      tracee.setSignalMask(0n);
      tracee.resume(end.signal);
    }
  } else {
    calls.call('exit_group', [end?.status ?? 0]);
    calls.start();
  }
  reapTracee(tid);
}
