import type { CensusFile, CensusMapping, Identity } from '../../objects/census.js';
import { isSharedMemory } from '../../objects/census.js';
import type { SharedKind, SharedObject, SharedObjects, Side } from '../../objects/sharedObjects.js';
import { tryReadLink } from '../../sys/files.js';
import { open } from '../../sys/uapi.js';
import { explainHiddenFile } from './hidden.js';
import { sideOfFile } from './pipe.js';
import { collectUnderWay } from './underWay.js';

/** `FMODE_WRITE` of linux/fs.h. */
const FMODE_WRITE = 0x2;
/** Of stat(2). */
const S_IFMT = 0o17_0000;
const S_IFCHR = 0o2_0000;
const S_IFDIR = 0o4_0000;
const S_IFREG = 0o10_0000;
const S_IFSOCK = 0o14_0000;
const S_IFIFO = 0o1_0000;
/** /dev/null, zero, full, random and urandom: `major << 8 | minor`. Source: Documentation/admin-guide/devices.txt. */
const STATELESS_DEVICES = new Set([0x103, 0x105, 0x107, 0x108, 0x109]);

/**
 * Open file descriptions: referred to by slots of descriptor tables, mappings and executables, and by what
 * is in flight in sockets. Source: `struct file` of linux/fs.h.
 */
export const file: SharedKind = {
  kind: 'file',
  refUsers: 'exact',

  collect(table) {
    const { slots, mappings, executables, inside } = table.census;
    const tables = ownersOf(table, slots, ({ table: identity }) => identity);
    const spaces = ownersOf(table, [...mappings, ...executables], ({ mm }) => mm);
    for (const used of [slots, mappings, executables]) {
      for (const { pid, file: own } of used) {
        if (inside.has(pid)) table.object('file', own.identity, own.count);
      }
    }
    for (const { pid, table: identity, fd, file: used } of slots) {
      const object = tables.get(identity)?.pid === pid ? table.find('file', used.identity) : undefined;
      if (object !== undefined) table.use(object, pid, { fd });
    }
    for (const { pid, mm, start, end, file: used } of mappings) {
      const object = spaces.get(mm)?.pid === pid ? table.find('file', used.identity) : undefined;
      if (object === undefined) continue;
      table.count(object, table.sideOf(pid));
      if (table.names(object)) table.addHolder(object, pid, { mapping: rangeText(start, end) });
    }
    for (const { mm, file: used } of executables) {
      const owner = spaces.get(mm);
      const object = owner && table.find('file', used.identity);
      if (owner !== undefined && object !== undefined) table.use(object, owner.pid, { how: 'executes it' });
    }
    collectInFlight(table);
    collectUnderWay(table);
  },

  judge(object, table) {
    const used = table.census.files.get(object.identity);
    const name = fileName(object, used);
    const hiddenIn = object.hidden > 0 ? explainHiddenFile(name, table) : [];
    const innocent = used === undefined ? undefined : harmlessUse(object, used, table);
    if (innocent !== undefined) {
      return { name, harmless: true, meaning: innocent, advice: 'nothing needs to be done', hiddenIn };
    }
    return { name, harmless: false, ...meaningOf(used), hiddenIn };
  },
};

/** What waits in the queue of a socket inside is inside: whoever receives it is. */
function collectInFlight(table: SharedObjects): void {
  const { inFlight, slots, carriers } = table.census;
  if (inFlight.length === 0) return;
  const sockets = [...slots, ...carriers].filter(({ file: used }) => used.socket !== undefined);
  for (const { socket, file: sent } of inFlight) {
    const receivers = sockets.filter(({ file: used }) => used.socket?.identity === socket);
    const side = sideOfFile(table, receivers);
    if (side === 'inside') table.object('file', sent.identity, sent.count);
    const object = table.find('file', sent.identity);
    if (object === undefined) continue;
    table.count(object, side);
    const first = receivers.find(({ pid }) => table.sideOf(pid) === side);
    if (first !== undefined) {
      table.addHolder(object, first.pid, { how: `in flight in socket:[${first.file.ino}]` });
    }
  }
}

/** Who stands for a table of descriptors or an address space that tasks may share. */
interface Owner {
  readonly pid: number;
  readonly side: Side;
}

const RANK: Readonly<Record<Side, number>> = { inside: 2, outside: 1, own: 0 };

/**
 * One task for each table or address space, one inside when there is any: a reference counts once, also
 * where several tasks share what has it. That they share it is a finding of its own.
 */
function ownersOf<T extends { readonly pid: number }>(
  table: SharedObjects,
  users: readonly T[],
  identityOf: (user: T) => Identity,
): ReadonlyMap<Identity, Owner> {
  const owners = new Map<Identity, Owner>();
  let last: Owner | undefined;
  let lastIdentity: Identity | undefined;
  for (const user of users) {
    const identity = identityOf(user);
    // What one task has comes in a row.
    if (identity === lastIdentity && user.pid === last?.pid) continue;
    const side = table.sideOf(user.pid);
    const known = owners.get(identity);
    if (known === undefined || RANK[side] > RANK[known.side]) owners.set(identity, { pid: user.pid, side });
    lastIdentity = identity;
    last = { pid: user.pid, side };
  }
  return owners;
}

/** A mapping's place, as findings have it. */
export function rangeText(start: number, end: number): string {
  return `${start.toString(16)}-${end.toString(16)}`;
}

/** The path or other name of a file, by one of its holders. */
export function fileName(object: SharedObject, used: CensusFile | undefined): string {
  for (const { pid, fd, mapping, how } of [...object.inside, ...object.outside]) {
    const link =
      fd !== undefined
        ? `/proc/${pid}/fd/${fd}`
        : mapping !== undefined
          ? `/proc/${pid}/map_files/${mapping}`
          : how === 'executes it'
            ? `/proc/${pid}/exe`
            : undefined;
    const target = link === undefined ? undefined : tryReadLink(link);
    if (typeof target === 'string') return target;
  }
  return used === undefined || used.ino === 0 ? `file ${object.identity}` : `inode ${used.ino}`;
}

/** Why nothing that can change is shared through this file; undefined when something is. */
function harmlessUse(object: SharedObject, used: CensusFile, table: SharedObjects): string | undefined {
  if ((used.flags & open.O_PATH) !== 0) return 'it was opened by its path only, and has no state';
  if ((used.inodeMode & S_IFMT) === S_IFCHR && STATELESS_DEVICES.has(used.rdev)) {
    return 'a device without state';
  }
  if (object.inside.some(({ fd }) => fd !== undefined)) return undefined;
  const writable = (mapping: CensusMapping): boolean =>
    mapping.shared && mapping.mayWrite && mapping.file.identity === used.identity;
  const insideWrites = table.census.mappings.some(
    (mapping) => table.census.inside.has(mapping.pid) && writable(mapping),
  );
  if (insideWrites && (used.mode === undefined || (used.mode & FMODE_WRITE) !== 0)) return undefined;
  return 'it is only executed or mapped without changing it, such as a library: nothing that can change is shared';
}

function meaningOf(used: CensusFile | undefined): { meaning: string; advice: string } {
  if (used !== undefined && isSharedMemory(used.magic)) {
    return {
      meaning: 'the same memory can be read or changed from outside: futexes in it work across the border',
      advice: 'end the process outside, or have it unmap and close the memory',
    };
  }
  switch ((used?.inodeMode ?? 0) & S_IFMT) {
    case S_IFSOCK:
      return {
        meaning: 'what is sent and received through this socket is shared',
        advice: 'close it outside, or accept it and attach a new end at restart',
      };
    case S_IFIFO:
      return {
        meaning: 'this end of the pipe is shared',
        advice: 'close it outside, or accept it and attach a new end at restart',
      };
    case S_IFCHR:
      return {
        meaning: 'the open device is shared',
        advice: 'start the program with streams of its own, or accept it and attach one at restart',
      };
    case S_IFDIR:
    case S_IFREG:
      return {
        meaning: 'its position and status flags are shared: after a restart they no longer would be',
        advice: 'open it again on one side, close it outside, or accept it and attach a file at restart',
      };
    default:
      return {
        meaning: 'the open file, and what it stands for, is shared',
        advice: 'close it outside, or accept it and attach a new end at restart',
      };
  }
}
