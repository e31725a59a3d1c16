import { RestartFailedError } from '../../errors.js';
import type { InheritedState, TaskRestart } from '../../objects/slice.js';
import { cloneFlag, signal } from '../../sys/uapi.js';
import { Registers, resolveInterruptedSyscall } from '../../tracee/arch/x86_64/registers.js';
import { RemoteMemory } from '../../tracee/memory.js';
import type { RemoteCalls } from '../../tracee/remoteCalls.js';
import { callsOfNewTask, scratchSyscallInstruction, unmapByStepping } from '../../tracee/stub.js';
import type { Tracee } from '../../tracee/tracee.js';
import { type FilesSource, fillFilesStruct } from '../filesStruct.js';
import type { LoadedProcess } from '../loadImage.js';
import { finishMemory, type MemorySource, mapMemory, readPages } from '../mm/restart.js';
import { planFill, writePages } from '../mm/sharedFill.js';
import { adoptBorn, type Helper, queueClone, type ReservedDescriptors } from './helper.js';
import type { Birth } from './sessions.js';

const THREAD_FLAGS =
  cloneFlag.CLONE_VM |
  cloneFlag.CLONE_FS |
  cloneFlag.CLONE_FILES |
  cloneFlag.CLONE_SIGHAND |
  cloneFlag.CLONE_THREAD |
  cloneFlag.CLONE_SYSVSEM;

/** `syscall` (0F 05). */
const SYSCALL_INSTRUCTION = Buffer.from([0x0f, 0x05]);

/** What the processes of a new tree are built with. */
export interface NewTreeContext {
  readonly helper: Helper;
  readonly reserved: ReservedDescriptors;
  readonly inherited: InheritedState;
  /** The process group of Stasis, which stands for the one outside. */
  readonly outsideGroup: number;
  warn(text: string): void;
}

/** A process of the new tree, from its birth to its release. Everything is queued and run in it by itself. */
export class NewProcess implements Disposable {
  readonly pid: number;
  private readonly memory: RemoteMemory;
  private readonly calls: RemoteCalls;
  private readonly threads: Tracee[];
  private readonly born: number[] = [];

  constructor(
    private readonly loaded: LoadedProcess,
    private readonly birth: Birth,
    private readonly leader: Tracee,
    private readonly context: NewTreeContext,
  ) {
    this.pid = loaded.message.pid;
    this.memory = new RemoteMemory(this.pid);
    this.threads = [leader];
    this.calls = callsOfNewTask(leader, this.pid, this.memory, context.helper.scratch, (tid) => {
      this.born.push(tid);
    });
  }

  /** Leaves the helper's descriptors behind, but for the reserved ones. */
  dropInheritedDescriptors(): void {
    const { helper, image } = this.context.reserved;
    this.calls.call('close_range', [0, helper - 1, 0]);
    this.calls.call('close_range', [image + 1, 0xffff_ffff, 0]);
  }

  /** Enters its session and group and makes its children, in the order that the plan found. */
  makeChildren(sharesFiles: (pid: number) => boolean): { pid: number; tracee: Tracee }[] {
    const { calls, birth } = this;
    const children: { pid: number; tracee: Tracee }[] = [];
    const make = ({ pid }: { readonly pid: number }): void => {
      const flags = sharesFiles(pid) ? cloneFlag.CLONE_FILES : 0;
      queueClone(calls, pid, { flags, exitSignal: signal.SIGCHLD });
    };
    if (birth.leadsGroup) calls.call('setpgid', [0, 0]);
    birth.childrenBefore.forEach(make);
    if (birth.leadsSession) calls.call('setsid', []);
    birth.childrenAfter.forEach(make);
    calls.flush();
    for (const { pid } of [...birth.childrenBefore, ...birth.childrenAfter]) {
      const at = this.born.indexOf(pid);
      if (at < 0) throw new RestartFailedError(`process ${pid} was not made`, {});
      this.born.splice(at, 1);
      children.push({ pid, tracee: adoptBorn([pid], pid) });
    }
    return children;
  }

  /**
   * Sets off joining its process group, which exists by now, and building its address space. Of a large one
   * a part is written from here, and awaited, meanwhile.
   */
  async startMemory(source: MemorySource, imageFd: number): Promise<void> {
    const { birth, calls } = this;
    if (!birth.leadsSession && !birth.leadsGroup && birth.member.processGroup !== birth.birthGroup) {
      const group = birth.member.processGroup || this.context.outsideGroup;
      calls.call('setpgid', [0, group], { purpose: `joining process group ${group}` });
    }
    mapMemory(this.loaded.mm, source, calls);
    for (const { read, written } of planFill(source.pages)) {
      if (written.length > 0) calls.flush();
      readPages(source, read, calls);
      if (written.length === 0) continue;
      calls.start();
      await writePages(this.pid, imageFd, written);
      calls.finish();
    }
    finishMemory(this.loaded.mm, source, calls);
    calls.start();
  }

  /** Waits for what was set off last. Meanwhile other processes can be at work. */
  finish(): void {
    this.calls.finish();
  }

  /** Fills its table of descriptors. */
  fillFiles(source: FilesSource): void {
    fillFilesStruct(this.loaded.files, source, this.calls);
  }

  /** Closes the ways to the helper and the image. */
  closeReserved(): void {
    const { helper, image } = this.context.reserved;
    this.calls.call('close_range', [helper, image, 0]);
  }

  /** Sets off making the other threads, and bringing back the state of the process. */
  startState(): void {
    for (const { message } of this.loaded.threads.slice(1)) {
      queueClone(this.calls, message.tid, { flags: THREAD_FLAGS, exitSignal: 0 });
    }
    for (const state of this.loaded.states) state.restart(this.calls, this.restartContext(this.pid));
    // Without other threads the leader's own state can follow at once.
    if (this.loaded.threads.length === 1) this.queueLeaderState();
    this.calls.start();
  }

  /** Brings back the state of all threads, the leader's last. */
  restoreThreads(): void {
    const others = this.loaded.threads.slice(1);
    if (others.length === 0) return;
    for (const { message, states } of others) {
      const tracee = adoptBorn([message.tid], message.tid);
      this.threads.push(tracee);
      const calls = callsOfNewTask(tracee, this.pid, this.memory, this.context.helper.scratch);
      for (const state of states) state.restart(calls, this.restartContext(message.tid));
      calls.flush();
    }
    this.queueLeaderState();
    this.calls.flush();
  }

  private queueLeaderState(): void {
    for (const state of this.loaded.threads[0]?.states ?? []) {
      state.restart(this.calls, this.restartContext(this.pid));
    }
  }

  /** Removes the scratch area and sets all registers: from here on the tasks can only be released. */
  complete(): void {
    const { scratch } = this.context.helper;
    const instruction = scratchSyscallInstruction(scratch);
    this.memory.write(instruction, SYSCALL_INSTRUCTION);
    unmapByStepping(this.leader, instruction, scratch);
    for (const [index, { message }] of this.loaded.threads.entries()) {
      const tracee = this.threads[index];
      if (tracee === undefined) throw new RestartFailedError(`thread ${message.tid} was not made`, {});
      tracee.setExtendedState(message.extendedState);
      tracee.setRegisters(resolveInterruptedSyscall(new Registers(message.registers), 'lost'));
      tracee.setSignalMask(message.signalMask);
    }
  }

  /** From here on the threads run, and do not end, should this process be killed. */
  disarm(): void {
    for (const tracee of this.threads) tracee.setOptions(0);
  }

  /** Lets all threads run. */
  release(): void {
    for (const tracee of this.threads) tracee.detachIfAlive();
  }

  [Symbol.dispose](): void {
    this.memory[Symbol.dispose]();
  }

  private restartContext(tid: number): TaskRestart {
    const { inherited, warn } = this.context;
    return { pid: this.pid, tid, inherited, warn };
  }
}
