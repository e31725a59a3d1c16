import { ProcFormatError } from '../errors.js';

/** A system call in which a task waits. */
export interface CallUnderWay {
  readonly number: number;
  readonly args: readonly bigint[];
}

/**
 * Parses `/proc/PID/task/TID/syscall`: undefined for a task that runs, or that waits outside of a call. Source:
 * proc_pid_syscall(5). Throws ProcFormatError.
 */
export function parseSyscall(text: string): CallUnderWay | undefined {
  const line = text.trimEnd();
  if (line === 'running' || line.startsWith('-1 ')) return undefined;
  const match = /^(\d+)((?: 0x[0-9a-f]+){6}) 0x[0-9a-f]+ 0x[0-9a-f]+$/.exec(line);
  if (match === null) throw new ProcFormatError('syscall', `'${line}' is no system call`);
  const [, number, args = ''] = match;
  return { number: Number(number), args: args.trim().split(' ').map(BigInt) };
}
