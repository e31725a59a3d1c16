import { ProcFormatError } from '../errors.js';

/** A System V shared memory segment. */
export interface SegmentRow {
  readonly id: number;
  /** How often it is attached. */
  readonly attachments: number;
}

/** A set of System V semaphores. */
export interface SemaphoreRow {
  readonly id: number;
  readonly count: number;
}

/** A System V message queue. Pids are 0 where nobody has used it. */
export interface MessageQueueRow {
  readonly id: number;
  readonly lastSender: number;
  readonly lastReceiver: number;
}

/** Parses `/proc/sysvipc/shm`. Source: proc_sysvipc(5). Throws ProcFormatError. */
export function parseSegments(text: string): SegmentRow[] {
  return rows(text, '/proc/sysvipc/shm', ['shmid', 'nattch']).map(([id, attachments]) => ({
    id: id as number,
    attachments: attachments as number,
  }));
}

/** Parses `/proc/sysvipc/sem`. Throws ProcFormatError. */
export function parseSemaphores(text: string): SemaphoreRow[] {
  return rows(text, '/proc/sysvipc/sem', ['semid', 'nsems']).map(([id, count]) => ({
    id: id as number,
    count: count as number,
  }));
}

/** Parses `/proc/sysvipc/msg`. Throws ProcFormatError. */
export function parseMessageQueues(text: string): MessageQueueRow[] {
  return rows(text, '/proc/sysvipc/msg', ['msqid', 'lspid', 'lrpid']).map(([id, sender, receiver]) => ({
    id: id as number,
    lastSender: sender as number,
    lastReceiver: receiver as number,
  }));
}

/** The wanted columns of all rows below the line with their names. */
function rows(text: string, file: string, wanted: readonly string[]): number[][] {
  const [head = '', ...lines] = text.split('\n');
  const names = head.trim().split(/\s+/);
  const columns = wanted.map((name) => {
    const column = names.indexOf(name);
    if (column < 0) throw new ProcFormatError(file, `it has no column ${name}`);
    return column;
  });
  return lines
    .filter((line) => line.trim() !== '')
    .map((line) => {
      const values = line.trim().split(/\s+/);
      return columns.map((column) => {
        const value = values[column];
        if (value === undefined || !/^\d+$/.test(value)) {
          throw new ProcFormatError(file, `column ${column + 1} of '${line.trim()}' is no number`);
        }
        return Number(value);
      });
    });
}
