import { RestartRefusedError, TaskLostError } from '../../errors.js';
import { Vma_Kind } from '../../image/generated/mm_pb.js';
import { readMappings } from '../../objects/frozenProcess.js';
import type { InheritedState } from '../../objects/slice.js';
import type { ProcMapping } from '../../procfs/smaps.js';
import { reapTracee, sendSignal } from '../../sys/process.js';
import { rlimit64 } from '../../sys/structs.js';
import { cloneFlag, fcntl, mremapFlag, open, signal } from '../../sys/uapi.js';
import {
  type AddressRange,
  advance,
  findHole,
  type RemoteAddress,
  remoteAddress,
} from '../../tracee/address.js';
import { RemoteMemory } from '../../tracee/memory.js';
import { cString, type RemoteCalls } from '../../tracee/remoteCalls.js';
import { SCRATCH_SIZE, type Scratch, scratchAt } from '../../tracee/scratch.js';
import { BUILDING_MASK, mapScratch, startStub } from '../../tracee/stub.js';
import type { Tracee } from '../../tracee/tracee.js';
import { VSYSCALL, vmaKind } from '../mm/vma.js';
import { CHANGEABLE_SIGNALS } from '../sighand.js';
import { NamespaceInit } from './namespaceInit.js';
import { NewTask, type TaskIds } from './newTask.js';

const SIGSET_SIZE = 8;
const RLIMIT_NOFILE = 7;
/** Room for [vdso], [vvar] and their kin while a tree is built, bytes. */
const PARKING_SIZE = 0x4_0000;

/** A special mapping on its way from where the kernel put it to where it belongs. */
export interface ParkedMapping extends AddressRange {
  readonly name: string;
}

/** Numbers, free in all tables of the image, by which every new task reaches the helper and the image. */
export interface ReservedDescriptors {
  readonly helper: number;
  readonly image: number;
}

/**
 * The process that stands beside the new tree while it is built: it has every open file of the tree once,
 * and gives birth to the root. It ends before the tree is released.
 */
export class Helper implements Disposable {
  readonly scratch: Scratch;
  readonly parked: readonly ParkedMapping[];
  readonly calls: RemoteCalls;
  readonly memory: RemoteMemory;
  /** Its directory in the `/proc` of this process, wherever it goes: a descriptor of it. */
  readonly procSelf: number;
  private readonly task: NewTask;
  private ended = false;

  /**
   * @param descriptors what the helper starts with: a lifeline pipe, the image, then external resources
   * @param used all address ranges that the tree needs
   * @param onBirth is told of every task that it makes
   */
  constructor(
    descriptors: readonly number[],
    used: readonly AddressRange[],
    private readonly reserved: ReservedDescriptors,
    inherited: InheritedState,
    onBirth: (tid: number) => void,
  ) {
    this.tracee = startStub(descriptors);
    this.memory = new RemoteMemory(this.tracee.tid);
    try {
      const mappings = readMappings(this.tracee.tid).filter(({ name }) => name !== VSYSCALL);
      const start = chooseHole([...used, ...mappings.map(rangeOf)]);
      this.scratch = scratchAt(start);
      mapScratch(this.tracee, this.scratch);
      this.tracee.setSignalMask(BUILDING_MASK);
      this.task = new NewTask(this.tracee, this.pid, this.pid, this.memory, this.scratch, onBirth);
      this.calls = this.task.calls;
      this.parked = this.park(mappings);
      this.procSelf = this.prepare(inherited);
    } catch (error) {
      this[Symbol.dispose]();
      throw error;
    }
  }

  private readonly tracee: Tracee;

  get pid(): number {
    return this.tracee.tid;
  }

  /** Bytes of extended processor state that a task has here. */
  stateSize(): number {
    return this.tracee.getExtendedState().length;
  }

  /** Makes the root of the tree, as a child of this very process: the init of a new pid namespace, if so wished. */
  makeRoot(ids: TaskIds, isInit: boolean): Tracee {
    return this.makeSibling(ids, isInit ? cloneFlag.CLONE_NEWPID : 0);
  }

  /** Makes a new pid namespace with an init, in which the root is made then. */
  makePidNamespace(): NamespaceInit {
    this.calls.call('unshare', [cloneFlag.CLONE_NEWPID], { purpose: 'making a pid namespace' });
    return new NamespaceInit(this.makeSibling({ id: 1, nested: [] }, 0), this.scratch);
  }

  /** From here on it sees the mounts that a process sees. */
  enterMountNamespace(pid: number): void {
    const pidfd = this.calls.call('pidfd_open', [pid, 0]);
    this.calls.call('setns', [pidfd, cloneFlag.CLONE_NEWNS], { purpose: `entering the mounts of ${pid}` });
    this.calls.call('close', [pidfd]);
    this.calls.flush();
  }

  private makeSibling(ids: TaskIds, flags: number): Tracee {
    const [task] = this.task.make([{ ids, flags: flags | cloneFlag.CLONE_PARENT, exitSignal: 0 }]);
    if (task === undefined) throw new TaskLostError(this.pid, 'the root of the tree was not made');
    return task;
  }

  [Symbol.dispose](): void {
    if (this.ended) return;
    this.ended = true;
    this.memory[Symbol.dispose]();
    sendSignal(this.pid, signal.SIGKILL);
    reapTracee(this.pid);
  }

  /** Moves the kernel's mappings out of the way, and unmaps all others: new tasks begin empty. */
  private park(mappings: readonly ProcMapping[]): ParkedMapping[] {
    const parked: ParkedMapping[] = [];
    let at = this.scratch.end;
    for (const mapping of mappings) {
      const length = mapping.end - mapping.start;
      if (vmaKind(mapping) !== Vma_Kind.SPECIAL) {
        this.calls.call('munmap', [mapping.start, length]);
        continue;
      }
      queueMove(this.calls, rangeOf(mapping), at, mapping.name);
      parked.push({ name: mapping.name, start: at, end: advance(at, length) });
      at = advance(at, length);
    }
    return parked;
  }

  private prepare({ limits }: InheritedState): number {
    const { calls, reserved } = this;
    const own = limits[RLIMIT_NOFILE];
    if (own !== undefined) {
      const all = rlimit64.encode({ rlim_cur: own.hard, rlim_max: own.hard });
      calls.call('prlimit64', [0, RLIMIT_NOFILE, all, 0], { purpose: 'raising the limit of open files' });
    }
    for (const number of CHANGEABLE_SIGNALS)
      calls.call('rt_sigaction', [number, new Uint8Array(32), 0, SIGSET_SIZE]);
    const pidfd = calls.call('pidfd_open', [this.pid, 0]);
    calls.call('dup3', [pidfd, reserved.helper, open.O_CLOEXEC]);
    calls.call('dup3', [1, reserved.image, open.O_CLOEXEC]);
    calls.call('umask', [0]);
    const flags = open.O_PATH | open.O_DIRECTORY | open.O_CLOEXEC;
    const procSelf = calls.call('openat', [fcntl.AT_FDCWD, cString('/proc/self'), flags, 0]);
    calls.flush();
    return procSelf.value;
  }
}

/** Queues the move of a whole mapping. Source: mremap(2). */
export function queueMove(calls: RemoteCalls, from: AddressRange, to: RemoteAddress, name: string): void {
  const length = from.end - from.start;
  const flags = mremapFlag.MREMAP_MAYMOVE | mremapFlag.MREMAP_FIXED;
  calls.call('mremap', [from.start, length, length, flags, to], { purpose: `moving ${name}` });
}

function chooseHole(used: readonly AddressRange[]): RemoteAddress {
  const hole = findHole(used, SCRATCH_SIZE + PARKING_SIZE);
  if (hole !== undefined) return hole;
  throw new RestartRefusedError([
    {
      what: 'the processes together leave no free address range',
      advice: 'restart fewer of them in one image',
    },
  ]);
}

function rangeOf({ start, end }: ProcMapping): AddressRange {
  return { start: remoteAddress(start), end: remoteAddress(end) };
}
