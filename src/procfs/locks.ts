import { ProcFormatError } from '../errors.js';

/** A lock, or somebody who waits for one. */
export interface LockRow {
  /** Those who wait have the number of the lock that they wait for. */
  readonly id: number;
  readonly waits: boolean;
  /** -1 for locks of open file descriptions, which belong to no process. */
  readonly pid: number;
  /** `major:minor:inode`. */
  readonly inode: string;
}

const LINE = /^(\d+): (-> )?\s*\S+\s+\S+\s+\S+\s+(-?\d+) ([0-9a-f]+:[0-9a-f]+:\d+) /;

/** Parses `/proc/locks`. Source: proc_locks(5). Throws ProcFormatError. */
export function parseLocks(text: string): LockRow[] {
  return text
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => {
      const match = LINE.exec(line);
      if (match === null) throw new ProcFormatError('/proc/locks', `'${line}' is no lock`);
      return {
        id: Number(match[1]),
        waits: match[2] !== undefined,
        pid: Number(match[3]),
        inode: match[4] as string,
      };
    });
}
