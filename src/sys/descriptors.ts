import { nr } from './arch/index.js';
import { pollfd } from './structs.js';
import { check, trySyscall } from './syscall.js';
import { FIONREAD, fcntl, open } from './uapi.js';

/** An anonymous file in memory, close-on-exec. Source: memfd_create(2). */
export function createMemfd(name: string): number {
  const MFD_CLOEXEC = 1;
  return check(trySyscall(nr.memfd_create, Buffer.from(`${name}\0`), MFD_CLOEXEC), 'memfd_create', name);
}

/** Both ends of a new pipe, close-on-exec. Source: pipe2(2). */
export function createPipe(flags = 0): { readEnd: number; writeEnd: number } {
  const pair = Buffer.alloc(8);
  check(trySyscall(nr.pipe2, pair, open.O_CLOEXEC | flags), 'pipe2');
  return { readEnd: pair.readInt32LE(0), writeEnd: pair.readInt32LE(4) };
}

/** A pipe's capacity in bytes. Source: fcntl(2). */
export function pipeCapacity(fd: number): number {
  return check(trySyscall(nr.fcntl, fd, fcntl.F_GETPIPE_SZ, 0), 'fcntl F_GETPIPE_SZ');
}

/** Sets a pipe's capacity in bytes. */
export function setPipeCapacity(fd: number, bytes: number): void {
  check(trySyscall(nr.fcntl, fd, fcntl.F_SETPIPE_SZ, bytes), 'fcntl F_SETPIPE_SZ', `${bytes} bytes`);
}

/** Bytes that wait to be read from a pipe. Source: ioctl(2) FIONREAD. */
export function bytesReadable(fd: number): number {
  const count = Buffer.alloc(4);
  check(trySyscall(nr.ioctl, fd, FIONREAD, count), 'ioctl FIONREAD');
  return count.readInt32LE(0);
}

/** Copies up to `length` bytes of a pipe into another without taking them out. Source: tee(2). */
export function teePipe(from: number, to: number, length: number): number {
  const SPLICE_F_NONBLOCK = 2;
  return check(trySyscall(nr.tee, from, to, length, SPLICE_F_NONBLOCK), 'tee');
}

/** What poll(2) says of a descriptor at once: the `revents`. */
export function pollNow(fd: number, events: number): number {
  const entry = pollfd.encode({ fd, events });
  check(trySyscall(nr.poll, entry, 1, 0), 'poll');
  return pollfd.decode(entry).revents;
}

/** The next data at or after `offset` of a file with holes, or undefined. Source: lseek(2) SEEK_DATA. */
export function seekData(fd: number, offset: number): number | undefined {
  const SEEK_DATA = 3;
  const ENXIO = 6;
  const result = trySyscall(nr.lseek, fd, offset, SEEK_DATA);
  return result === -ENXIO ? undefined : check(result, 'lseek SEEK_DATA');
}

/** The next hole at or after `offset`. Source: lseek(2) SEEK_HOLE. */
export function seekHole(fd: number, offset: number): number {
  const SEEK_HOLE = 4;
  return check(trySyscall(nr.lseek, fd, offset, SEEK_HOLE), 'lseek SEEK_HOLE');
}
