import { errno } from '../sys/errno.js';
import { tryListDirectory, tryReadFile, tryReadLink } from '../sys/files.js';
import { systemCallError } from '../sys/syscall.js';

/** The whole text of a file below `/proc`, one character a byte. Throws SystemCallError. */
export function readProc(path: string): string {
  return orThrow(tryReadFile(path), path).toString('latin1');
}

/** As {@link readProc}, as bytes of their own. */
export function readProcBytes(path: string): Buffer {
  return Buffer.from(orThrow(tryReadFile(path), path));
}

/** The text, or undefined when the task that it tells of has ended. */
export function readProcIfAlive(path: string): string | undefined {
  const contents = tryReadFile(path);
  return isGone(contents) ? undefined : orThrow(contents, path).toString('latin1');
}

/** As {@link readProcIfAlive}, undefined also for a task that nobody may look into. */
export function readProcIfVisible(path: string): string | undefined {
  const contents = tryReadFile(path);
  if (isGone(contents) || contents === -errno.EACCES || contents === -errno.EPERM) return undefined;
  return orThrow(contents, path).toString('latin1');
}

/** Where a link leads. Throws SystemCallError. */
export function readLink(path: string): string {
  return orThrow(tryReadLink(path), path);
}

/** The target of a link below `/proc`, or undefined when its task has ended or there is none. */
export function readLinkIfAlive(path: string): string | undefined {
  const target = tryReadLink(path);
  return isGone(target) ? undefined : orThrow(target, path);
}

/** The numeric names in a directory below `/proc`, ascending; undefined when its task has ended. */
export function readNumbersIfAlive(path: string): number[] | undefined {
  const names = tryListDirectory(path);
  if (isGone(names)) return undefined;
  return orThrow(names, path)
    .map(Number)
    .filter((number) => Number.isInteger(number))
    .sort((a, b) => a - b);
}

/** The descriptors of a process; none of one that has ended, or that nobody may look into. */
export function visibleDescriptors(pid: number): number[] {
  const path = `/proc/${pid}/fd`;
  const names = tryListDirectory(path);
  if (isGone(names) || names === -errno.EACCES) return [];
  return orThrow(names, path).map(Number);
}

function isGone(result: unknown): boolean {
  return result === -errno.ENOENT || result === -errno.ESRCH;
}

function orThrow<T>(result: T | number, path: string): T {
  if (typeof result === 'number') throw systemCallError(-result, 'reading', path);
  return result;
}
