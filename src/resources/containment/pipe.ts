import type { CensusFile, Identity } from '../../objects/census.js';
import type { Place, SharedKind, SharedObject, SharedObjects, Side } from '../../objects/sharedObjects.js';
import { open } from '../../sys/uapi.js';
import { fileName } from './file.js';
import { socketsWithDescriptors } from './hidden.js';

/**
 * Pipes and named pipes, by their open ends: each open file is one reference, also where the other end is a
 * file of its own outside. Source: `struct pipe_inode_info` of linux/pipe_fs_i.h.
 */
export const pipe: SharedKind = {
  kind: 'pipe',
  refUsers: 'exact',

  collect(table) {
    for (const { file, holders } of openEnds(table, ({ pipe: behind }) => behind?.identity)) {
      const object = file.pipe && table.object('pipe', file.pipe.identity, file.pipe.count);
      if (object === undefined) continue;
      const how = END_NAMES[file.flags & open.O_ACCMODE];
      useOpenFile(table, object, holders, how === undefined ? {} : { how });
    }
  },

  judge(object, table) {
    const hiddenIn = object.hidden > 0 ? socketsWithDescriptors(table) : [];
    const name = fileName(object, undefined);
    return {
      name,
      harmless: false,
      meaning: 'the other end, or another open end, of the pipe is outside: what is written goes across',
      advice: 'end the process at the other end, or accept it and attach a new end at restart',
      hiddenIn,
    };
  },
};

const END_NAMES: Readonly<Record<number, string>> = {
  [open.O_RDONLY]: 'reads',
  [open.O_WRONLY]: 'writes',
  [open.O_RDWR]: 'reads and writes',
};

/** An open file of a kind, with the slots that hold it. */
export interface OpenEnd {
  readonly file: CensusFile;
  readonly holders: readonly { readonly pid: number; readonly fd: number }[];
}

/** The distinct open files of a census that are wanted, each with all of its slots. */
export function openFiles(
  { census }: SharedObjects,
  isWanted: (file: CensusFile) => boolean,
): readonly OpenEnd[] {
  const ends = new Map<Identity, { file: CensusFile; holders: { pid: number; fd: number }[] }>();
  for (const { pid, fd, file } of census.slots) {
    if (!isWanted(file)) continue;
    let end = ends.get(file.identity);
    if (end === undefined) {
      end = { file, holders: [] };
      ends.set(file.identity, end);
    }
    end.holders.push({ pid, fd });
  }
  return [...ends.values()];
}

/** What the open files inside lead to, as `identityOf` says. */
export function insideIdentities(
  { census }: SharedObjects,
  identityOf: (file: CensusFile) => Identity | undefined,
): ReadonlySet<Identity | undefined> {
  const wanted = new Set(
    census.slots.map(({ pid, file }) => (census.inside.has(pid) ? identityOf(file) : undefined)),
  );
  wanted.delete(undefined);
  return wanted;
}

/**
 * The distinct open files behind which is an object of a kind, of all objects that something inside has
 * open.
 */
export function openEnds(
  table: SharedObjects,
  identityOf: (file: CensusFile) => Identity | undefined,
): readonly OpenEnd[] {
  const wanted = insideIdentities(table, identityOf);
  return openFiles(table, (file) => wanted.has(identityOf(file)));
}

/**
 * Counts an open file as one reference, and adds its holders. Those outside of one that is held inside as well
 * are not added: that the open file itself is shared is a finding of its own.
 */
export function useOpenFile(
  table: SharedObjects,
  object: SharedObject,
  holders: readonly ({ readonly pid: number } & Place)[],
  details: Place = {},
): void {
  const side = sideOfFile(table, holders);
  table.count(object, side);
  for (const { pid, ...place } of holders) {
    if (table.sideOf(pid) === side) table.addHolder(object, pid, { ...place, ...details });
  }
}

/** An open file is inside when any task inside has it. */
export function sideOfFile(table: SharedObjects, holders: readonly { readonly pid: number }[]): Side {
  const sides = holders.map(({ pid }) => table.sideOf(pid));
  if (sides.includes('inside')) return 'inside';
  return sides.includes('outside') ? 'outside' : 'own';
}
