import type { CensusFile } from '../../objects/census.js';
import type { SharedKind, SharedObjects } from '../../objects/sharedObjects.js';
import { fileName } from './file.js';
import { insideIdentities, type OpenEnd, openEnds, openFiles, sideOfFile, useOpenFile } from './pipe.js';

/** /dev/ptmx, and masters of old style: `major << 8 | minor`. Source: Documentation/admin-guide/devices.txt. */
const PTMX = 0x502;
const FIRST_MASTER_MAJOR = 128;
const LAST_MASTER_MAJOR = 135;

/**
 * Terminals, by their open files. Of a pseudoterminal both sides are shown: who has the master sees and
 * types everything. Source: `struct tty_struct` of linux/tty.h.
 */
export const terminal: SharedKind = {
  kind: 'terminal',
  refUsers: 'exact',

  collect(table) {
    for (const { file, holders } of openEnds(table, ({ terminal: behind }) => behind?.identity)) {
      if (file.terminal === undefined) continue;
      const object = table.object('terminal', file.terminal.identity, file.terminal.count);
      useOpenFile(table, object, holders);
    }
    for (const { file, holders } of otherSides(table)) {
      const object = table.find('terminal', file.terminal?.link ?? 0);
      if (object === undefined) continue;
      const side = sideOfFile(table, holders);
      // The kernel counts an open master as a user of the slave, and not the other way round.
      if (isMaster(file)) table.count(object, side);
      for (const { pid, fd } of holders) {
        if (table.sideOf(pid) === side) table.addHolder(object, pid, { fd, how: 'has the other side' });
      }
    }
  },

  judge: (object) => ({
    name: fileName(
      { ...object, inside: object.inside.filter(({ how }) => how === undefined) } as typeof object,
      undefined,
    ),
    harmless: false,
    meaning: 'the terminal is used, or its other side is held, outside',
    advice: 'accept it and attach a terminal at restart, or start the program without one',
  }),
};

/** Open files of terminals whose other side something inside has open. */
function otherSides(table: SharedObjects): readonly OpenEnd[] {
  const sides = insideIdentities(table, ({ terminal: behind }) => behind?.identity);
  return openFiles(table, ({ terminal: behind }) => sides.has(behind?.link));
}

function isMaster({ rdev }: CensusFile): boolean {
  return rdev === PTMX || (rdev >> 8 >= FIRST_MASTER_MAJOR && rdev >> 8 <= LAST_MASTER_MAJOR);
}
