import type { SharedKind } from '../../objects/sharedObjects.js';
import { parseLocks } from '../../procfs/locks.js';
import { readProc } from '../../procfs/read.js';
import { fileName } from './file.js';

/** File locks that one side holds while the other waits. Source: proc_locks(5). */
export const fileLock: SharedKind = {
  kind: 'fileLock',
  refUsers: { unknown: 'a lock is held by its owner only; who waits is what counts' },

  collect(table) {
    // The kernel holds all processors up to write /proc/locks, which takes it ten milliseconds.
    const { slots, inside } = table.census;
    if (!slots.some(({ pid, file }) => file.mayBeLocked && inside.has(pid))) return;
    const groups = new Map<number, { pid: number; waits: boolean; inode: string }[]>();
    for (const { id, pid, waits, inode } of parseLocks(readProc('/proc/locks'))) {
      groups.set(id, [...(groups.get(id) ?? []), { pid, waits, inode }]);
    }
    for (const [id, users] of groups) {
      const sides = new Set(users.filter(({ pid }) => pid > 0).map(({ pid }) => table.sideOf(pid)));
      if (!sides.has('inside') || !sides.has('outside')) continue;
      const object = table.object('fileLock', `${users[0]?.inode} ${id}`, undefined);
      for (const { pid, waits } of users) {
        if (pid > 0) table.use(object, pid, { how: waits ? 'waits for it' : 'holds it' });
      }
    }
  },

  judge(object, table) {
    const ino = Number(/:(\d+) /.exec(String(object.identity))?.[1]);
    const slot = table.census.slots.find(({ pid, file }) => table.census.inside.has(pid) && file.ino === ino);
    const locked =
      slot === undefined
        ? undefined
        : fileName(
            { ...object, inside: [{ pid: slot.pid, comm: '', fd: slot.fd }] } as typeof object,
            slot.file,
          );
    return {
      name: locked ?? String(object.identity),
      harmless: false,
      meaning: 'one side holds a lock on the file for which the other waits',
      advice: 'wait until it is released, or end the process outside',
    };
  },
};
