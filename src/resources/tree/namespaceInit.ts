import { kernelSigaction } from '../../sys/structs.js';
import { prctl, SIG_IGN, signal } from '../../sys/uapi.js';
import { RemoteMemory } from '../../tracee/memory.js';
import type { Scratch } from '../../tracee/scratch.js';
import { becomeInit } from '../../tracee/stub.js';
import type { Tracee } from '../../tracee/tracee.js';
import { NewTask } from './newTask.js';

const SIGSET_SIZE = 8;
/** Below the numbers that are closed. */
const PIDFD = 0;

/**
 * The init of a pid namespace that is made for a tree which had none: it waits for whoever is left to it, and ends
 * after the last of them. Its children's ends are none of the tree's business: the root is not one of them.
 */
export class NamespaceInit implements Disposable {
  private readonly memory: RemoteMemory;
  private readonly task: NewTask;

  constructor(
    private readonly tracee: Tracee,
    private readonly scratch: Scratch,
  ) {
    this.memory = new RemoteMemory(tracee.tid);
    this.task = new NewTask(tracee, 1, 1, this.memory, scratch, () => undefined);
  }

  /** As this process sees it. */
  get pid(): number {
    return this.tracee.tid;
  }

  /** Prepares it for its task; `root` is the pid of the tree's root inside. */
  prepare(root: number): void {
    const { calls } = this.task;
    const ignore = kernelSigaction.encode({
      sa_handler: SIG_IGN,
      sa_flags: 0n,
      sa_restorer: 0n,
      sa_mask: 0n,
    });
    calls.call('rt_sigaction', [signal.SIGCHLD, ignore, 0, SIGSET_SIZE]);
    calls.call('prctl', [prctl.PR_SET_NAME, Buffer.from('stasis-init\0'), 0, 0, 0]);
    calls.call('setsid', []);
    calls.call('close_range', [0, 0xffff_ffff, 0]);
    calls.call('pidfd_open', [root, 0]);
    calls.flush();
    becomeInit(this.tracee, this.memory, this.scratch, PIDFD);
  }

  /** From here on it does not end with this process. */
  disarm(): void {
    this.tracee.setOptions(0);
  }

  release(): void {
    this.tracee.detachIfAlive();
  }

  [Symbol.dispose](): void {
    this.memory[Symbol.dispose]();
  }
}
