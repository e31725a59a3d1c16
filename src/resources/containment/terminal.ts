import type { SharedKind } from '../../objects/sharedObjects.js';
import { fileName } from './file.js';
import { openEnds, useOpenFile } from './pipe.js';

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
    for (const { pid, fd, file } of table.census.slots) {
      const link = file.terminal?.link;
      const object = link === undefined ? undefined : table.find('terminal', link);
      if (object !== undefined) table.addHolder(object, table.holder(pid, { fd, how: 'has the other side' }));
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
