import { closeSync } from 'node:fs';
import { RestartFailedError, RestartRefusedError, StasisError } from '../../errors.js';
import type { Process } from '../../image/generated/process_pb.js';
import { readInheritedState } from '../../objects/inherited.js';
import type { FileSource, InheritedState, OpenedFiles } from '../../objects/slice.js';
import { createPipe } from '../../sys/descriptors.js';
import { reapTracees, sendSignal, setChildSubreaper, waitFor } from '../../sys/process.js';
import { fcntl, open, signal, wait } from '../../sys/uapi.js';
import { Guardian } from '../../tracee/guardian.js';
import { cString, type RemoteCalls } from '../../tracee/remoteCalls.js';
import type { LoadedImage } from '../loadImage.js';
import { MappedObjects, rangesOf } from '../mm/restart.js';
import { mountFreshProc } from '../namespaces/mountNamespace.js';
import type { OutsideEnds } from './attachments.js';
import type { BirthPlan } from './births.js';
import { Forking } from './forking.js';
import { Helper, type ReservedDescriptors } from './helper.js';
import type { NamespaceInit } from './namespaceInit.js';
import { endAsZombie, NewProcess, type NewTreeContext } from './newProcess.js';
import { neededPids } from './verify.js';

/** The helper's descriptors of its lifeline and the image come before those of external resources. */
const FIRST_OUTSIDE_DESCRIPTOR = 2;
/** Enough attempts to get a helper whose pid is none of the tree's. */
const HELPER_ATTEMPTS = 10;

export interface TreeRestartOptions {
  /** Whether it gets a pid namespace of its own, in which its pids are free. */
  readonly newPidNamespace: boolean;
  /** Whether its processes are put into their control groups. */
  readonly cgroups: boolean;
}

/**
 * A tree that is being built from an image. Until {@link release} nothing of it runs, and the scope's end
 * ends all of it; should this process die, the kernel does.
 */
export class TreeRestart implements Disposable {
  readonly warnings: string[] = [];
  private readonly inherited: InheritedState = readInheritedState();
  private readonly reserved: ReservedDescriptors;
  private readonly created: number[] = [];
  private readonly processes: NewProcess[] = [];
  private readonly sources = new Map<number, FileSource>();
  private readonly opened: OpenedFiles = {
    descriptorOf: (file, slot) => {
      const source = this.sources.get(file);
      if (source === undefined) throw new RestartFailedError(`the file ${file} was not opened`, {});
      if (typeof source === 'function') return source(slot);
      return typeof source === 'number' ? source : source.value;
    },
    describe: (file) => this.image.files.get(file)?.description ?? `file ${file}`,
  };
  /** How many processes have each address space or table of descriptors. */
  private readonly users = new Map<number, number>();
  private helper: Helper | undefined;
  private init: NamespaceInit | undefined;
  private rootTid = 0;
  private forking: Forking | undefined;
  private objects: MappedObjects | undefined;
  private released = false;
  /** What was made outside of the tree, in that order. */
  private readonly undoing: (() => void)[] = [];
  private wasSubreaper: boolean | undefined;

  constructor(
    private readonly image: LoadedImage,
    private readonly plan: BirthPlan,
    private readonly imageFd: number,
    private readonly outside: OutsideEnds,
    private readonly options: TreeRestartOptions,
  ) {
    this.reserved = reserveDescriptors(image, FIRST_OUTSIDE_DESCRIPTOR + outside.descriptors.length);
    for (const { message } of image.processes) {
      for (const objref of [message.mm, message.files]) {
        this.users.set(objref, (this.users.get(objref) ?? 0) + 1);
      }
    }
  }

  /** The root, and the init that was made for it, as this process sees them. */
  get pids(): { readonly root: number; readonly init: number | undefined } {
    return { root: this.rootTid, init: this.init?.pid };
  }

  /** Starts the helper process. */
  startHelper(): void {
    // Should the tree be ended again, its orphans come to this process, and none is left as a zombie.
    this.wasSubreaper = setChildSubreaper(true);
    const used = this.image.processes.flatMap(({ mm }) => rangesOf(mm));
    const taken = new Set(this.options.newPidNamespace ? [] : neededPids(this.image, this.plan));
    const lifeline = createPipe();
    const unwanted: Helper[] = [];
    try {
      for (let attempt = 0; attempt < HELPER_ATTEMPTS; attempt++) {
        const descriptors = [lifeline.readEnd, this.imageFd, ...this.outside.descriptors];
        const helper = new Helper(descriptors, used, this.reserved, this.inherited, this.onBirth);
        if (!taken.has(helper.pid)) {
          this.helper = helper;
          break;
        }
        unwanted.push(helper);
      }
    } finally {
      for (const helper of unwanted) helper[Symbol.dispose]();
      closeSync(lifeline.readEnd);
      closeSync(lifeline.writeEnd);
    }
    this.checkProcessor();
  }

  /** Makes all processes and threads, in their sessions and groups. */
  makeProcesses(): void {
    const { helper, image } = this;
    const root = image.members[0];
    if (helper === undefined || root === undefined) throw new RestartFailedError('there is no helper', {});
    const forking = new Forking(
      image.members,
      image.mountNamespaces,
      this.plan,
      helper.scratch,
      this.options.newPidNamespace,
      this.onBirth,
    );
    this.forking = forking;
    const { container, innerPids } = image.header;
    if (this.options.newPidNamespace && !container) this.init = helper.makePidNamespace();
    const tracee = helper.makeRoot({ id: root.pid, nested: root.nestedPids }, container);
    this.rootTid = tracee.tid;
    const { calls } = forking.adoptRoot(root.pid, tracee);
    // The helper's descriptors stay behind, but for the reserved ones.
    calls.call('close_range', [0, this.reserved.helper - 1, 0]);
    calls.call('close_range', [this.reserved.image + 1, 0xffff_ffff, 0]);
    const seesOuterProc = this.options.newPidNamespace && !innerPids && root.mountNamespace === 0;
    if (seesOuterProc) mountFreshProc(calls);
    forking.run();
    if (this.options.newPidNamespace) setLastPid(Math.max(...neededPids(image, this.plan)), calls);
    if (seesOuterProc || root.mountNamespace !== 0) helper.enterMountNamespace(tracee.tid);
    this.init?.prepare(root.pid);
    const context: NewTreeContext = {
      helper,
      reserved: this.reserved,
      inherited: this.inherited,
      cgroups: this.options.cgroups,
      warn: (text) => this.warnings.push(text),
      undo: (action) => this.undoing.push(action),
    };
    for (const loaded of image.processes) {
      this.processes.push(new NewProcess(loaded, forking.processOf(loaded.message.pid), context));
    }
  }

  /** Opens everything that the tree maps or has open, in the helper. */
  openObjects(): void {
    const { helper } = this;
    if (helper === undefined) throw new RestartFailedError('there is no helper', {});
    this.objects = new MappedObjects(this.image, helper, IMAGE_IN_HELPER);
    this.objects.open();
    const shared = new Map<string, unknown>();
    for (const file of this.image.files.values()) {
      const source = file.restart({
        calls: helper.calls,
        procSelf: helper.procSelf,
        shared<T>(key: string, make: () => T): T {
          if (!shared.has(key)) shared.set(key, make());
          return shared.get(key) as T;
        },
        external: (key, slot) => FIRST_OUTSIDE_DESCRIPTOR + this.outside.indexOf(key, slot),
      });
      this.sources.set(file.objref, source);
    }
    helper.calls.flush();
    for (const file of this.image.files.values()) {
      if (file.references.length === 0) continue;
      file.connect(this.opened.descriptorOf(file.objref, 0), { ...this.opened, calls: helper.calls });
    }
    helper.calls.flush();
  }

  /** Builds every address space. */
  async buildMemory(): Promise<void> {
    const { helper, objects } = this;
    if (helper === undefined || objects === undefined) throw new RestartFailedError('nothing is open', {});
    for (const process of this.firstWith('mm')) {
      const { mm, files } = process.loaded.message;
      const pages = this.image.pages.get(mm) ?? [];
      const source = { objects, parked: helper.parked, reserved: this.reserved, pages };
      await process.startMemory(source, this.imageFd);
      // Those that share a table would take each other's descriptors, those that share memory the scratch area.
      if (this.isShared(mm) || this.isShared(files)) process.finish();
    }
    for (const process of this.processes) process.finish();
  }

  /**
   * Ends who is there only for a moment, and who has ended; stops who was stopped. Parents are told of all that
   * now, and forget it: their own signals come later.
   */
  settle(): void {
    const { forking, image } = this;
    if (forking === undefined) throw new RestartFailedError('there are no processes', {});
    forking.bury();
    const zombies = this.endZombies(false);
    const stopped = this.processes.filter(({ loaded }) => loaded.message.stopped !== undefined);
    for (const process of stopped) {
      const { parent, pid } = process.loaded.message;
      const waiting = parent === 0 ? undefined : forking.processOf(parent).tasks[0];
      process.stop(waiting, forking.pidSeenBy(parent, pid));
    }
    const signals = [...new Set([signal.SIGCHLD, ...image.members.map(({ exitSignal }) => exitSignal)])];
    const parents = new Set([
      ...[...zombies, ...stopped.map(({ loaded }) => loaded.message)].map(({ parent }) => parent),
      ...this.plan.ghosts.flatMap(({ parent, adopter }) => [parent, adopter]),
    ]);
    for (const process of this.processes) {
      if (parents.has(process.loaded.message.pid))
        process.discardSignals(signals.filter((number) => number > 0));
    }
  }

  /** Fills every table of descriptors once, and brings back the state of all tasks. */
  restoreState(): void {
    for (const process of this.firstWith('files')) {
      process.fillFiles({
        helper: this.reserved.helper,
        reserved: [this.reserved.helper, this.reserved.image],
        ...this.opened,
      });
      process.closeReserved();
    }
    for (const process of this.processes) process.restoreSeccomp();
    for (const process of this.processes) {
      process.startState();
      if (this.isShared(process.loaded.message.mm)) process.finish();
    }
    for (const process of this.processes) {
      process.finish();
      process.restoreThreads();
    }
  }

  /** Ends those whose parents have been told of it already, or the others. */
  private endZombies(untold: boolean): readonly Process[] {
    const { forking, image } = this;
    const zombies = image.members.filter(({ zombie }) => zombie !== undefined && zombie.untold === untold);
    for (const zombie of zombies) {
      const [task] = forking?.processOf(zombie.pid).tasks ?? [];
      if (task !== undefined) endAsZombie(zombie, task);
    }
    return zombies;
  }

  /** Ends the helper and sets all registers. */
  complete(): void {
    this.endZombies(true);
    this.helper?.[Symbol.dispose]();
    for (const process of this.processes) process.restoreRestartBlocks();
    for (const process of this.firstWith('mm')) process.unmapScratch();
    for (const process of this.processes) process.setRegisters();
  }

  /**
   * Lets the tree run. First all tasks are freed from ending with this process, one after the other, while none of
   * them runs: should it be killed before it is through, a guardian ends them; should it be killed after that,
   * all of them go on.
   */
  release(): void {
    const pids = [
      ...(this.init === undefined ? [] : [this.init.pid]),
      ...this.processes.map(({ pid }) => pid),
    ];
    {
      using _guardian = Guardian.toKill(pids);
      this.init?.disarm();
      for (const process of this.processes) process.disarm();
    }
    this.released = true;
    this.init?.release();
    for (const process of this.processes) process.release();
  }

  [Symbol.dispose](): void {
    this.forking?.[Symbol.dispose]();
    this.init?.[Symbol.dispose]();
    this.helper?.[Symbol.dispose]();
    if (!this.released) this.endAll();
    if (this.wasSubreaper === false) setChildSubreaper(false);
  }

  /** The root is our child; the others become it when their parents end. */
  private endAll(): void {
    for (const pid of this.created) sendSignal(pid, signal.SIGKILL);
    const pids = this.created.splice(0);
    reapTracees(pids);
    for (const pid of pids) waitFor(pid, wait.WNOHANG);
    for (const undo of this.undoing.splice(0).reverse()) undo();
  }

  /** Every task that was made, in that order, as this process sees it. */
  private readonly onBirth = (tid: number): void => {
    this.created.push(tid);
  };

  /** The first process with each address space or table: it brings it back for all that share it. */
  private firstWith(structure: 'mm' | 'files'): NewProcess[] {
    const seen = new Set<number>();
    return this.processes.filter(({ loaded: { message } }) => {
      if (seen.has(message[structure])) return false;
      seen.add(message[structure]);
      return true;
    });
  }

  private isShared(objref: number): boolean {
    return (this.users.get(objref) ?? 0) > 1;
  }

  /** The processor must have the same extended state as the one on which the image was made. */
  private checkProcessor(): void {
    const own = this.helper?.stateSize() ?? 0;
    for (const { message } of this.image.processes) {
      for (const { tid, extendedState, ended } of message.threads) {
        if (ended !== undefined || extendedState.length === own) continue;
        throw new RestartRefusedError([
          {
            pid: tid,
            where: 'processor state',
            what: `${extendedState.length} bytes of FPU and AVX state, this processor has ${own}`,
            advice: 'restart it on a processor of the same kind',
          },
        ]);
      }
    }
  }
}

const IMAGE_IN_HELPER = 1;

/**
 * The next process gets a pid after those of the tree, as it would have: one of a process that the tree remembers
 * comes again as late as possible. Kernels without CONFIG_CHECKPOINT_RESTORE do not have the file.
 */
function setLastPid(pid: number, calls: RemoteCalls): void {
  const text = Buffer.from(String(pid));
  const path = cString('/proc/sys/kernel/ns_last_pid');
  const fd = calls.call('openat', [fcntl.AT_FDCWD, path, open.O_WRONLY, 0], { mayFail: true });
  calls.call('write', [fd, text, text.length], { mayFail: true });
  calls.call('close', [fd], { mayFail: true });
  calls.flush();
}

/** Two neighbouring numbers that no table of the image uses, above those with which the helper starts. */
function reserveDescriptors(image: LoadedImage, helperDescriptors: number): ReservedDescriptors {
  const used = new Set(image.processes.flatMap(({ files }) => files.descriptors.map(({ fd }) => fd)));
  let number = helperDescriptors + 1;
  while (used.has(number) || used.has(number + 1)) number++;
  return { helper: number, image: number + 1 };
}

/** Says of any error that it ended a restart. */
export function restartFailed(error: unknown): unknown {
  if (!(error instanceof StasisError) || error instanceof RestartRefusedError) return error;
  return new RestartFailedError(`restart failed: ${error.message}`, {
    ...(error.reason === undefined ? {} : { reason: error.reason }),
    advice: error.advice ?? 'nothing is left of what had been started; see to the reason and try again',
    cause: error,
  });
}
