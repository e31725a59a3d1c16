import type { CensusMapping } from '../../objects/census.js';
import type { SharedKind, SharedObjects } from '../../objects/sharedObjects.js';
import { readNumbersIfAlive, readProcIfAlive } from '../../procfs/read.js';
import { nr } from '../../sys/arch/index.js';
import { rangeText } from './file.js';

/** Tasks outside that wait on a futex in memory that is shared with the inside. Source: futex(2). */
export const futex: SharedKind = {
  kind: 'futex',
  refUsers: { unknown: 'the kernel keeps no count of waiters that can be read' },

  collect(table) {
    const { mappings, inside } = table.census;
    const shared = mappings.filter((mapping) => mapping.shared && mapping.mayWrite);
    const inodes = new Set(shared.filter(({ pid }) => inside.has(pid)).map(({ file }) => file.inode));
    for (const mapping of shared) {
      if (table.sideOf(mapping.pid) !== 'outside' || !inodes.has(mapping.file.inode)) continue;
      for (const { tid, offset } of waiters(mapping)) {
        const object = table.object('futex', `${mapping.file.inode} ${offset}`, undefined);
        object.crosses = true;
        table.addHolder(object, mapping.pid, { how: `thread ${tid} waits` });
        addInside(table, object, mapping);
      }
    }
  },

  judge: (object) => ({
    name: `offset ${String(object.identity).split(' ')[1]} of ${object.inside[0]?.mapping ?? 'shared memory'}`,
    harmless: false,
    meaning: 'a thread outside waits to be woken through memory that is shared with the inside',
    advice: 'end it, or have it unmap the memory',
  }),
};

function addInside(
  table: SharedObjects,
  object: ReturnType<SharedObjects['object']>,
  other: CensusMapping,
): void {
  if (object.inside.length > 0) return;
  for (const { pid, start, end, file, shared } of table.census.mappings) {
    if (!shared || file.inode !== other.file.inode || table.sideOf(pid) !== 'inside') continue;
    table.addHolder(object, pid, { mapping: rangeText(start, end) });
  }
}

/** Threads of a mapping's process that wait on a futex in it. Source: proc_pid_syscall(5). */
function waiters({ pid, start, end }: CensusMapping): { tid: number; offset: number }[] {
  const found: { tid: number; offset: number }[] = [];
  for (const tid of readNumbersIfAlive(`/proc/${pid}/task`) ?? []) {
    const [number, address] = (readProcIfAlive(`/proc/${pid}/task/${tid}/syscall`) ?? '').split(' ');
    if (Number(number) !== nr.futex || address === undefined) continue;
    const at = Number(address);
    if (at >= start && at < end) found.push({ tid, offset: at - start });
  }
  return found;
}
