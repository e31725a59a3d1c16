import { closeSync, openSync } from 'node:fs';
import { createPipe } from '../sys/descriptors.js';
import { reapTracee, sendSignal } from '../sys/process.js';
import { signal } from '../sys/uapi.js';
import { spawnKiller, spawnWriter } from './stub.js';

/**
 * A process of few pages that puts something in order when this process ends without having dismissed it: whatever
 * kills Stasis, what it was about is not left halfway.
 */
export class Guardian implements Disposable {
  private constructor(
    private readonly pid: number,
    private readonly lifeline: number,
  ) {}

  /** Starts one that stands by to write `text` to a file. */
  static toWrite(path: string, text: string): Guardian {
    const file = openSync(path, 'w');
    try {
      return Guardian.start((readEnd) => spawnWriter([readEnd, file], text));
    } finally {
      closeSync(file);
    }
  }

  /** Starts one that stands by to kill processes. */
  static toKill(pids: readonly number[]): Guardian {
    return Guardian.start((readEnd) => spawnKiller([readEnd], pids));
  }

  /** Dismisses it, in one moment. */
  [Symbol.dispose](): void {
    sendSignal(this.pid, signal.SIGKILL);
    reapTracee(this.pid);
    closeSync(this.lifeline);
  }

  private static start(spawn: (readEnd: number) => number): Guardian {
    const { readEnd, writeEnd } = createPipe();
    try {
      return new Guardian(spawn(readEnd), writeEnd);
    } catch (error) {
      closeSync(writeEnd);
      throw error;
    } finally {
      closeSync(readEnd);
    }
  }
}
