import { closeSync } from 'node:fs';
import { RestartFailedError, RestartRefusedError, StasisError } from '../../errors.js';
import { readInheritedState } from '../../objects/inherited.js';
import type { FileSource, InheritedState } from '../../objects/slice.js';
import { readProc } from '../../procfs/read.js';
import { parseStat } from '../../procfs/stat.js';
import { createPipe } from '../../sys/descriptors.js';
import { reapTracee, sendSignal, setChildSubreaper, waitFor } from '../../sys/process.js';
import { signal, wait } from '../../sys/uapi.js';
import type { Tracee } from '../../tracee/tracee.js';
import type { LoadedImage, LoadedProcess } from '../loadImage.js';
import { MappedObjects, rangesOf } from '../mm/restart.js';
import type { OutsideEnds } from './attachments.js';
import { Helper, type ReservedDescriptors } from './helper.js';
import { NewProcess, type NewTreeContext } from './newTree.js';
import { type Birth, planBirths } from './sessions.js';
import { tidsOf } from './verify.js';

/** The helper's descriptors of its lifeline and the image come before those of external resources. */
const FIRST_OUTSIDE_DESCRIPTOR = 2;
/** Enough attempts to get a helper whose pid is none of the tree's. */
const HELPER_ATTEMPTS = 10;

/**
 * A tree that is being built from an image. Until {@link release} nothing of it runs, and the scope's end
 * ends all of it; should this process die, the kernel does.
 */
export class TreeRestart implements Disposable {
  readonly warnings: string[] = [];
  private readonly inherited: InheritedState = readInheritedState();
  private readonly reserved: ReservedDescriptors;
  private readonly births: ReadonlyMap<number, Birth>;
  private readonly byPid: ReadonlyMap<number, LoadedProcess>;
  private readonly created: number[] = [];
  private readonly processes: NewProcess[] = [];
  private readonly sources = new Map<number, FileSource>();
  /** How many processes have each table of descriptors. */
  private readonly tableUsers = new Map<number, number>();
  private helper: Helper | undefined;
  private objects: MappedObjects | undefined;
  private released = false;
  private wasSubreaper: boolean | undefined;

  constructor(
    private readonly image: LoadedImage,
    private readonly imageFd: number,
    private readonly outside: OutsideEnds,
  ) {
    this.reserved = reserveDescriptors(image, FIRST_OUTSIDE_DESCRIPTOR + outside.descriptors.length);
    for (const { message } of image.processes) {
      this.tableUsers.set(message.files, (this.tableUsers.get(message.files) ?? 0) + 1);
    }
    this.byPid = new Map(image.processes.map((process) => [process.message.pid, process]));
    const { births, obstacles } = planBirths(image.processes.map(({ message }) => message));
    if (obstacles.length > 0) throw new RestartRefusedError(obstacles);
    this.births = new Map(births.map((birth) => [birth.member.pid, birth]));
  }

  /** Starts the helper process. */
  startHelper(): void {
    // Should the tree be ended again, its orphans come to this process, and none is left as a zombie.
    this.wasSubreaper = setChildSubreaper(true);
    const used = this.image.processes.flatMap(({ mm }) => rangesOf(mm));
    const taken = new Set(tidsOf(this.image));
    const lifeline = createPipe();
    const unwanted: Helper[] = [];
    try {
      for (let attempt = 0; attempt < HELPER_ATTEMPTS; attempt++) {
        const descriptors = [lifeline.readEnd, this.imageFd, ...this.outside.descriptors];
        const helper = new Helper(descriptors, used, this.reserved, this.inherited);
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

  /** Makes all processes, each by its parent, in their sessions and groups. */
  makeProcesses(): void {
    const { helper } = this;
    const root = this.image.processes[0];
    if (helper === undefined || root === undefined) throw new RestartFailedError('there is no helper', {});
    const context: NewTreeContext = {
      helper,
      reserved: this.reserved,
      inherited: this.inherited,
      outsideGroup: parseStat(readProc('/proc/self/stat')).processGroup,
      warn: (text) => this.warnings.push(text),
    };
    const waiting: { pid: number; tracee: Tracee }[] = [
      { pid: root.message.pid, tracee: this.register(helper.makeRoot(root.message.pid)) },
    ];
    for (let next = waiting.shift(); next !== undefined; next = waiting.shift()) {
      const loaded = this.byPid.get(next.pid);
      const birth = this.births.get(next.pid);
      if (loaded === undefined || birth === undefined)
        throw new RestartFailedError(`no plan for ${next.pid}`, {});
      const process = new NewProcess(loaded, birth, next.tracee, context);
      this.processes.push(process);
      if (loaded === root) process.dropInheritedDescriptors();
      const sharesFiles = (pid: number): boolean =>
        this.byPid.get(pid)?.message.files === loaded.message.files;
      for (const child of process.makeChildren(sharesFiles)) {
        this.register(child.tracee);
        waiting.push(child);
      }
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
        shared<T>(key: string, make: () => T): T {
          if (!shared.has(key)) shared.set(key, make());
          return shared.get(key) as T;
        },
        external: (key, slot) => FIRST_OUTSIDE_DESCRIPTOR + this.outside.indexOf(key, slot),
      });
      this.sources.set(file.objref, source);
    }
    helper.calls.flush();
  }

  /** Builds every address space. */
  async buildMemory(): Promise<void> {
    const { helper, objects } = this;
    if (helper === undefined || objects === undefined) throw new RestartFailedError('nothing is open', {});
    for (const process of this.processes) {
      const loaded = this.loadedOf(process);
      const pages = this.image.pages.get(loaded.message.mm) ?? [];
      const source = { objects, parked: helper.parked, reserved: this.reserved, pages };
      await process.startMemory(source, this.imageFd);
      // Those that share a table would take each other's descriptors.
      if (this.sharesFiles(loaded)) process.finish();
    }
    for (const process of this.processes) process.finish();
  }

  /** Fills every table of descriptors once, and brings back the state of all tasks. */
  restoreState(): void {
    const filled = new Set<number>();
    for (const process of this.processes) {
      const { files } = this.loadedOf(process).message;
      if (!filled.has(files)) {
        filled.add(files);
        process.fillFiles({
          helper: this.reserved.helper,
          reserved: [this.reserved.helper, this.reserved.image],
          descriptorOf: (file, slot) => this.helperDescriptor(file, slot),
          describe: (file) => this.image.files.get(file)?.description ?? `file ${file}`,
        });
        process.closeReserved();
      }
      process.startState();
    }
    for (const process of this.processes) {
      process.finish();
      process.restoreThreads();
    }
  }

  /** Ends the helper and sets all registers. */
  complete(): void {
    this.helper?.[Symbol.dispose]();
    for (const process of this.processes) process.complete();
  }

  /**
   * Lets the tree run. First all tasks are freed from ending with this process, while none of them runs and
   * competes with it for a processor: should it be killed after that, all of them go on.
   */
  release(): void {
    for (const process of this.processes) process.disarm();
    this.released = true;
    for (const process of this.processes) process.release();
  }

  [Symbol.dispose](): void {
    for (const process of this.processes) process[Symbol.dispose]();
    this.helper?.[Symbol.dispose]();
    if (!this.released) this.endAll();
    if (this.wasSubreaper === false) setChildSubreaper(false);
  }

  /** The root is our child; the others become it when their parents end. */
  private endAll(): void {
    for (const pid of this.created) sendSignal(pid, signal.SIGKILL);
    const pids = this.created.splice(0);
    // A leader's end is reported after those of its threads; one that was not made yet is not ours, and gone.
    for (const tid of tidsOf(this.image)) if (!pids.includes(tid)) reapTracee(tid);
    for (const pid of pids) reapTracee(pid);
    for (const pid of pids) waitFor(pid, wait.WNOHANG);
  }

  private sharesFiles({ message }: LoadedProcess): boolean {
    return (this.tableUsers.get(message.files) ?? 0) > 1;
  }

  private register(tracee: Tracee): Tracee {
    this.created.push(tracee.tid);
    return tracee;
  }

  private loadedOf({ pid }: NewProcess): LoadedProcess {
    const loaded = this.byPid.get(pid);
    if (loaded === undefined) throw new RestartFailedError(`process ${pid} is not in the image`, {});
    return loaded;
  }

  private helperDescriptor(file: number, slot: number): number {
    const source = this.sources.get(file);
    if (source === undefined) throw new RestartFailedError(`the file ${file} was not opened`, {});
    if (typeof source === 'function') return source(slot);
    return typeof source === 'number' ? source : source.value;
  }

  /** The processor must have the same extended state as the one on which the image was made. */
  private checkProcessor(): void {
    const own = this.helper?.stateSize() ?? 0;
    for (const { message } of this.image.processes) {
      for (const { tid, extendedState } of message.threads) {
        if (extendedState.length === own) continue;
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
