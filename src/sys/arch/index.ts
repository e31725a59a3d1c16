import { InternalError } from '../../errors.js';
import { syscallNumbers } from './x86_64.js';

export { fileCalls, neverRestartedCalls } from './x86_64.js';

export type SyscallName = keyof typeof syscallNumbers;

/** The running machine's system call numbers. */
export const nr: Readonly<Record<SyscallName, number>> = selectNumbers();

const names = new Map<number, string>(Object.entries(nr).map(([name, number]) => [number, name]));

/** The name of a system call of this architecture, for messages. */
export function syscallName(number: number): string {
  return names.get(number) ?? `syscall ${number}`;
}

function selectNumbers(): Readonly<Record<SyscallName, number>> {
  if (process.arch === 'x64') return syscallNumbers;
  throw new InternalError(`the architecture ${process.arch} is not supported`);
}
