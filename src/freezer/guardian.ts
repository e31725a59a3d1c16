import { closeSync, openSync } from 'node:fs';
import { createPipe } from '../sys/descriptors.js';
import { reapTracee, sendSignal } from '../sys/process.js';
import { signal } from '../sys/uapi.js';
import { spawnGuardian } from '../tracee/stub.js';

/**
 * A process of one page that writes some text to a file when this process ends without having dismissed it:
 * whatever kills Stasis, what it has frozen is thawed.
 */
export class Guardian implements Disposable {
  private constructor(
    private readonly pid: number,
    private readonly lifeline: number,
  ) {}

  /** Starts one that stands by to write `text` to a file. */
  static start(path: string, text: string): Guardian {
    const file = openSync(path, 'w');
    const { readEnd, writeEnd } = createPipe();
    try {
      return new Guardian(spawnGuardian([readEnd, file], text), writeEnd);
    } catch (error) {
      closeSync(writeEnd);
      throw error;
    } finally {
      closeSync(readEnd);
      closeSync(file);
    }
  }

  /** Dismisses it. */
  [Symbol.dispose](): void {
    sendSignal(this.pid, signal.SIGKILL);
    reapTracee(this.pid);
    closeSync(this.lifeline);
  }
}
