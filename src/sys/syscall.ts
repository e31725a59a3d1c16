import koffi from 'koffi';
import { SystemCallError } from '../errors.js';
import { errnoName, errnoText } from './errno.js';

const libc = koffi.load('libc.so.6');
const rawSyscall = libc.func(
  'int64_t syscall(int64_t nr, int64_t a, int64_t b, int64_t c, int64_t d, int64_t e, int64_t f)',
);

/** An argument of a system call; a buffer stands for its address and must outlive the call. */
export type SyscallArgument = number | bigint | Uint8Array;

/** The address of a buffer's memory. Stable for as long as the buffer lives. */
export function addressOf(buffer: Uint8Array): bigint {
  return koffi.address(buffer);
}

/** Memory of this process at an address, without a copy. */
export function viewMemory(address: bigint, length: number): ArrayBuffer {
  return koffi.view(address, length);
}

function lower(argument: SyscallArgument | undefined): number | bigint {
  if (argument === undefined) return 0;
  return argument instanceof Uint8Array ? koffi.address(argument) : argument;
}

/**
 * Makes a system call on this thread and returns its result, or the negative errno.
 * Source: syscall(2).
 */
export function trySyscall(nr: number, ...args: SyscallArgument[]): number {
  const result = rawSyscall(
    nr,
    lower(args[0]),
    lower(args[1]),
    lower(args[2]),
    lower(args[3]),
    lower(args[4]),
    lower(args[5]),
  );
  return result === -1 ? -koffi.errno() : Number(result);
}

/** As {@link trySyscall}, on libuv's thread pool: for calls that block and are not bound to a thread. */
export function syscallInBackground(nr: number, ...args: SyscallArgument[]): Promise<number> {
  return new Promise((resolve, reject) => {
    rawSyscall.async(
      nr,
      lower(args[0]),
      lower(args[1]),
      lower(args[2]),
      lower(args[3]),
      lower(args[4]),
      lower(args[5]),
      (error: unknown, result: number | bigint) => {
        if (error) reject(error);
        else resolve(result === -1 ? -koffi.errno() : Number(result));
      },
    );
  });
}

/** Throws the {@link SystemCallError} for a result that is a negative errno; else returns the result. */
export function check(result: number, call: string, subject?: string): number {
  if (result < 0) throw systemCallError(-result, call, subject);
  return result;
}

/** The error for an errno that a call of ours returned. */
export function systemCallError(errno: number, call: string, subject?: string): SystemCallError {
  return new SystemCallError(call, errno, errnoName(errno), errnoText(errno), subject);
}
