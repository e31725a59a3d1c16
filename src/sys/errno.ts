import { constants } from 'node:os';
import { getSystemErrorName } from 'node:util';

/** Numbers of the errors that Stasis tells apart (asm-generic/errno.h). */
export const errno = constants.errno;

/** The symbolic name of a positive errno, such as `ENOENT`. */
export function errnoName(value: number): string {
  try {
    return getSystemErrorName(-value);
  } catch (error) {
    if (error instanceof RangeError) return `errno ${value}`;
    throw error;
  }
}

/** What an errno means to a person; the ones that Stasis can meet are worded for its own calls. */
export function errnoText(value: number): string {
  return TEXTS[errnoName(value)] ?? `the kernel answered ${errnoName(value)}`;
}

const TEXTS: Readonly<Record<string, string>> = {
  EPERM: 'operation not permitted',
  ENOENT: 'no such file or directory',
  ESRCH: 'no such process',
  EINTR: 'interrupted',
  EIO: 'input/output error',
  EBADF: 'bad file descriptor',
  ENOMEM: 'out of memory, or an address range that is not mapped',
  EACCES: 'permission denied',
  EFAULT: 'bad address',
  EBUSY: 'busy',
  EEXIST: 'already exists',
  ENODEV: 'no such device',
  ENOTDIR: 'not a directory',
  EISDIR: 'is a directory',
  EINVAL: 'invalid argument',
  EMFILE: 'too many open files in the process',
  ENFILE: 'too many open files in the system',
  ETXTBSY: 'text file busy',
  EFBIG: 'file too large',
  ENOSPC: 'no space left on device',
  EROFS: 'read-only file system',
  EPIPE: 'broken pipe',
  ENOSYS: 'not known to this kernel',
  EAGAIN: 'resource temporarily unavailable',
  EDQUOT: 'disk quota exceeded',
};
