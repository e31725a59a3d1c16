import { closeSync } from 'node:fs';
import { nr } from './arch/index.js';
import { errno } from './errno.js';
import { check, systemCallError, trySyscall } from './syscall.js';

/** A unix socket of this network namespace. */
export interface UnixSocketRow {
  readonly inode: number;
  /** Inode of the peer; undefined when it has none, or one that no file has. */
  readonly peer: number | undefined;
  /** Of a listening socket: inodes of those that wait to be accepted, 0 for ones that were closed. */
  readonly waiting: readonly number[];
}

/** Of linux/netlink.h, linux/sock_diag.h, linux/unix_diag.h. */
const AF_UNIX = 1;
const AF_NETLINK = 16;
const SOCK_RAW = 3;
const SOCK_CLOEXEC = 0o2000000;
const NETLINK_SOCK_DIAG = 4;
const SOCK_DIAG_BY_FAMILY = 20;
const NLM_F_REQUEST = 1;
const NLM_F_DUMP = 0x300;
const NLMSG_ERROR = 2;
const NLMSG_DONE = 3;
const UDIAG_SHOW_PEER = 4;
const UDIAG_SHOW_ICONS = 8;
const UNIX_DIAG_PEER = 2;
const UNIX_DIAG_ICONS = 3;
const HEADER_SIZE = 16;
const REQUEST_SIZE = 24;
const MESSAGE_SIZE = 16;
const ATTRIBUTE_HEADER_SIZE = 4;
const RECEIVE_SIZE = 1 << 16;

/**
 * All unix sockets of this network namespace; undefined on a kernel without CONFIG_UNIX_DIAG. Throws
 * SystemCallError. Source: sock_diag(7).
 */
export function listUnixSockets(): UnixSocketRow[] | undefined {
  const fd = check(
    trySyscall(nr.socket, AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG),
    'socket',
    'sock_diag',
  );
  try {
    check(trySyscall(nr.write, fd, request(), HEADER_SIZE + REQUEST_SIZE), 'write', 'sock_diag');
    const rows: UnixSocketRow[] = [];
    const buffer = Buffer.alloc(RECEIVE_SIZE);
    for (;;) {
      const count = check(trySyscall(nr.read, fd, buffer, buffer.length), 'read', 'sock_diag');
      const state = parseMessages(buffer.subarray(0, count), rows);
      if (state === -errno.ENOENT) return undefined;
      if (state < 0) throw systemCallError(-state, 'sock_diag');
      if (state === 0) return rows;
    }
  } finally {
    closeSync(fd);
  }
}

function request(): Buffer {
  const bytes = Buffer.alloc(HEADER_SIZE + REQUEST_SIZE);
  bytes.writeUInt32LE(bytes.length, 0);
  bytes.writeUInt16LE(SOCK_DIAG_BY_FAMILY, 4);
  bytes.writeUInt16LE(NLM_F_REQUEST | NLM_F_DUMP, 6);
  bytes.writeUInt8(AF_UNIX, HEADER_SIZE);
  bytes.writeUInt32LE(0xffff_ffff, HEADER_SIZE + 4);
  bytes.writeUInt32LE(UDIAG_SHOW_PEER | UDIAG_SHOW_ICONS, HEADER_SIZE + 12);
  return bytes;
}

/** Adds the sockets of one read to `rows`. Returns 1 when more follow, 0 at the end, or a negative errno. */
export function parseMessages(bytes: Buffer, rows: UnixSocketRow[]): number {
  for (let at = 0; at + HEADER_SIZE <= bytes.length; ) {
    const length = bytes.readUInt32LE(at);
    const type = bytes.readUInt16LE(at + 4);
    if (type === NLMSG_DONE || length < HEADER_SIZE || at + length > bytes.length) return 0;
    if (type === NLMSG_ERROR)
      return length < HEADER_SIZE + 4 ? 0 : Math.min(0, bytes.readInt32LE(at + HEADER_SIZE));
    if (length >= HEADER_SIZE + MESSAGE_SIZE) {
      rows.push(parseSocket(bytes.subarray(at + HEADER_SIZE, at + length)));
    }
    at += (length + 3) & ~3;
  }
  return bytes.length > 0 ? 1 : 0;
}

function parseSocket(bytes: Buffer): UnixSocketRow {
  let peer: number | undefined;
  const waiting: number[] = [];
  for (let at = MESSAGE_SIZE; at + ATTRIBUTE_HEADER_SIZE <= bytes.length; ) {
    const length = bytes.readUInt16LE(at);
    const end = at + length;
    if (length < ATTRIBUTE_HEADER_SIZE || end > bytes.length) break;
    const type = bytes.readUInt16LE(at + 2);
    const first = at + ATTRIBUTE_HEADER_SIZE;
    if (type === UNIX_DIAG_PEER && first + 4 <= end) peer = bytes.readUInt32LE(first) || undefined;
    if (type === UNIX_DIAG_ICONS) {
      for (let i = first; i + 4 <= end; i += 4) waiting.push(bytes.readUInt32LE(i));
    }
    at = (end + 3) & ~3;
  }
  return {
    inode: bytes.readUInt32LE(4),
    peer,
    waiting,
  };
}
