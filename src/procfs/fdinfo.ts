import { ProcFormatError } from '../errors.js';

/** `/proc/PID/fdinfo/FD` (proc_pid_fdinfo(5)): what all kinds have, and the lines of the kind's own. */
export interface ProcFdinfo {
  /** Bytes. */
  readonly position: bigint;
  /** O_… flags, O_CLOEXEC included. */
  readonly flags: number;
  readonly locks: readonly ProcLock[];
  /** What an epoll set watches. */
  readonly epollTargets: readonly ProcEpollTarget[];
  /** Lines of the kind, such as `eventfd-count`, by name. */
  readonly extra: ReadonlyMap<string, string>;
}

/** A `tfd:` line. */
export interface ProcEpollTarget {
  /** The descriptor by which it was added. */
  readonly fd: number;
  /** EPOLL… bits. */
  readonly events: number;
  readonly data: bigint;
}

/** A file lock, as the `lock:` lines and `/proc/locks` have it (proc_locks(5)). */
export interface ProcLock {
  readonly type: 'POSIX' | 'FLOCK' | 'OFDLCK' | 'LEASE' | 'DELEG' | 'other';
  readonly mode: 'READ' | 'WRITE' | 'other';
  /** The owner; -1 for locks of an open file description. */
  readonly pid: number;
  /** First byte. */
  readonly start: bigint;
  /** Last byte, or undefined for the end of the file, wherever that is. */
  readonly end: bigint | undefined;
}

const EPOLL_TARGET =
  /^(\d+) events: +([0-9a-f]+) data: +([0-9a-f]+) +pos:-?\d+ ino:[0-9a-f]+ sdev:[0-9a-f]+$/;
const LOCK =
  /^\d+:\s+(?:->\s+)?(POSIX|FLOCK|OFDLCK|LEASE|DELEG|\S+)\s+\S+\s+(READ|WRITE|\S+)\s+(-?\d+)\s+\S+\s+(\d+)\s+(\d+|EOF)$/;

/** Parses a descriptor's fdinfo. Throws ProcFormatError. */
export function parseFdinfo(text: string): ProcFdinfo {
  const extra = new Map<string, string>();
  const locks: ProcLock[] = [];
  const epollTargets: ProcEpollTarget[] = [];
  for (const line of text.split('\n')) {
    const colon = line.indexOf(':');
    if (colon < 0) continue;
    const name = line.slice(0, colon).trim();
    const value = line.slice(colon + 1).trim();
    if (name === 'lock') locks.push(parseLock(value));
    else if (name === 'tfd') epollTargets.push(parseEpollTarget(value));
    else extra.set(name, value);
  }
  const position = extra.get('pos');
  const flags = extra.get('flags');
  if (position === undefined || !/^\d+$/.test(position)) throw new ProcFormatError('fdinfo', 'no line pos');
  if (flags === undefined || !/^[0-7]+$/.test(flags)) throw new ProcFormatError('fdinfo', 'no line flags');
  return { position: BigInt(position), flags: Number.parseInt(flags, 8), locks, epollTargets, extra };
}

function parseEpollTarget(text: string): ProcEpollTarget {
  const match = EPOLL_TARGET.exec(text);
  if (match === null) throw new ProcFormatError('fdinfo', `the watched file ${JSON.stringify(text)}`);
  const [, fd, events = '', data] = match;
  return {
    fd: Number(fd),
    events: Number.parseInt(events, 16),
    data: BigInt(`0x${data}`),
  };
}

function parseLock(text: string): ProcLock {
  const match = LOCK.exec(text);
  if (match === null) throw new ProcFormatError('fdinfo', `the lock ${JSON.stringify(text)}`);
  const [, type = '', mode = '', pid, start, end] = match;
  return {
    type: isLockType(type) ? type : 'other',
    mode: mode === 'READ' || mode === 'WRITE' ? mode : 'other',
    pid: Number(pid),
    start: BigInt(start ?? 0),
    end: end === 'EOF' || end === undefined ? undefined : BigInt(end),
  };
}

function isLockType(type: string): type is 'POSIX' | 'FLOCK' | 'OFDLCK' | 'LEASE' | 'DELEG' {
  return ['POSIX', 'FLOCK', 'OFDLCK', 'LEASE', 'DELEG'].includes(type);
}
