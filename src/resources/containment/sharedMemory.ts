import type { Identity } from '../../objects/census.js';
import { isSharedMemory } from '../../objects/census.js';
import type { Place, SharedKind } from '../../objects/sharedObjects.js';
import { fileName, rangeText } from './file.js';
import { socketsWithDescriptors } from './hidden.js';
import { useOpenFile } from './pipe.js';
import { isSegment } from './systemV.js';

/**
 * Memory that is a file to the kernel: shared anonymous memory, memfd_create(2), and what shm_open(3) makes.
 * The kernel counts its open files with its name (dentry): others than those inside reach the same memory.
 */
export const sharedMemory: SharedKind = {
  kind: 'sharedMemory',
  refUsers: 'exact',

  collect(table) {
    const { census } = table;
    const shared = new Set<Identity>();
    for (const { pid, file } of census.slots) {
      if (census.inside.has(pid) && isSharedMemory(file.magic) && file.links === 0) shared.add(file.inode);
    }
    for (const mapping of census.mappings) {
      const { pid, file, shared: isShared } = mapping;
      if (census.inside.has(pid) && isSharedMemory(file.magic) && isShared && !isSegment(mapping))
        shared.add(file.inode);
    }
    if (shared.size === 0) return;
    const holders = new Map<Identity, ({ pid: number } & Place)[]>();
    for (const { pid, fd, file } of census.slots) {
      if (shared.has(file.inode)) addTo(holders, file.identity, { pid, fd });
    }
    for (const { pid, start, end, file } of census.mappings) {
      if (shared.has(file.inode)) addTo(holders, file.identity, { pid, mapping: rangeText(start, end) });
    }
    for (const file of census.files.values()) {
      if (!shared.has(file.inode)) continue;
      const count = file.dentry?.count;
      // A name on a tmpfs keeps one reference to itself. Source: shmem_mknod of mm/shmem.c.
      const named = file.links > 0 ? 1 : 0;
      const object = table.object(
        'sharedMemory',
        file.inode,
        count === undefined ? undefined : count - named,
      );
      useOpenFile(table, object, holders.get(file.identity) ?? []);
    }
  },

  judge(object, table) {
    return {
      name: fileName(object, undefined),
      harmless: false,
      meaning: 'the same memory can be read or changed from outside: futexes in it work across the border',
      advice: 'end the process outside, or have it unmap and close the memory',
      hiddenIn: object.hidden > 0 ? socketsWithDescriptors(table) : [],
    };
  },
};

function addTo<T>(holders: Map<Identity, T[]>, identity: Identity, holder: T): void {
  const known = holders.get(identity);
  if (known === undefined) holders.set(identity, [holder]);
  else known.push(holder);
}
