import { closeSync, openSync } from 'node:fs';
import type { CensusMapping } from '../../objects/census.js';
import { isSharedMemory } from '../../objects/census.js';
import type { SharedKind, SharedObjects } from '../../objects/sharedObjects.js';
import { readProc } from '../../procfs/read.js';
import {
  type MessageQueueRow,
  parseMessageQueues,
  parseSegments,
  parseSemaphores,
} from '../../procfs/sysvipc.js';
import { nr } from '../../sys/arch/index.js';
import { tryReadLink } from '../../sys/files.js';
import { check, trySyscall } from '../../sys/syscall.js';
import { cloneFlag } from '../../sys/uapi.js';
import { rangeText } from './file.js';

/** Of semctl(2). */
const GETPID = 11;

/** System V shared memory, by its attachments in address spaces. Source: shmctl(2), `shm_nattch`. */
export const sharedSegment: SharedKind = {
  kind: 'sharedSegment',
  refUsers: 'exact',

  collect(table) {
    const attached = table.census.mappings.filter((mapping) => isSegment(mapping));
    const wanted = attached.filter(({ pid }) => table.census.inside.has(pid));
    if (wanted.length === 0) return;
    const segments = inIpcNamespace(table, () => parseSegments(readProc('/proc/sysvipc/shm')));
    const seen = new Set<string>();
    for (const { file } of wanted) {
      const known = segments.find(({ id }) => id === file.ino);
      table.object('sharedSegment', file.inode, known?.attachments);
    }
    for (const { pid, mm, start, end, file } of attached) {
      const object = table.find('sharedSegment', file.inode);
      if (object === undefined || seen.has(`${mm} ${start}`)) continue;
      seen.add(`${mm} ${start}`);
      table.use(object, pid, { mapping: rangeText(start, end) });
    }
  },

  judge(object, table) {
    const mapping = table.census.mappings.find(({ file }) => file.inode === object.identity);
    return {
      name: `segment ${mapping?.file.ino ?? object.identity}`,
      harmless: false,
      meaning: 'processes outside are attached to the same System V memory',
      advice: 'end them, or give the container an ipc namespace of its own',
      hiddenIn: object.hidden > 0 ? ['attached in another pid namespace'] : [],
    };
  },
};

const LAST_CALLS = 'the kernel keeps only the pid of the last call';

/** System V semaphores that were last used by both sides. Source: semctl(2), GETPID. */
export const semaphores: SharedKind = {
  kind: 'semaphores',
  refUsers: { unknown: LAST_CALLS },

  collect(table) {
    const sets = inIpcNamespace(table, () =>
      parseSemaphores(readProc('/proc/sysvipc/sem')).map(({ id, count }) => ({
        id,
        pids: Array.from({ length: count }, (_, index) => trySyscall(nr.semctl, id, index, GETPID, 0)),
      })),
    );
    for (const { id, pids } of sets) addLastUsers(table, 'semaphores', id, pids);
  },

  judge: ({ identity }) => ({
    name: `set ${identity}`,
    harmless: false,
    meaning: 'processes on both sides use the same System V semaphores',
    advice: 'give the container an ipc namespace of its own',
  }),
};

/** System V message queues that were last used by both sides. Source: msgctl(2). */
export const messageQueues: SharedKind = {
  kind: 'messageQueue',
  refUsers: { unknown: LAST_CALLS },

  collect(table) {
    const queues: MessageQueueRow[] = inIpcNamespace(table, () =>
      parseMessageQueues(readProc('/proc/sysvipc/msg')),
    );
    for (const { id, lastSender, lastReceiver } of queues) {
      addLastUsers(table, 'messageQueue', id, [lastSender, lastReceiver]);
    }
  },

  judge: ({ identity }) => ({
    name: `queue ${identity}`,
    harmless: false,
    meaning: 'processes on both sides use the same System V message queue',
    advice: 'give the container an ipc namespace of its own',
  }),
};

/** Whether a mapping is one of System V memory: its inode has the segment's id as number. */
export function isSegment({ pid, start, end, shared, file }: CensusMapping): boolean {
  if (!shared || !isSharedMemory(file.magic)) return false;
  const name = tryReadLink(`/proc/${pid}/map_files/${start.toString(16)}-${end.toString(16)}`);
  return typeof name === 'string' && /^\/SYSV[0-9a-f]{8}/.test(name);
}

function addLastUsers(table: SharedObjects, kind: string, id: number, pids: readonly number[]): void {
  const users = [...new Set(pids)].filter((pid) => pid > 0);
  if (!users.some((pid) => table.census.inside.has(pid))) return;
  const object = table.object(kind, id, undefined);
  for (const pid of users) table.use(object, pid, { how: 'used it last' });
}

/** Lets `read` see the System V objects of the root. This thread is in its ipc namespace meanwhile. */
function inIpcNamespace<T>(table: SharedObjects, read: () => T): T {
  const { root } = table.census;
  const target = tryReadLink(`/proc/${root}/ns/ipc`);
  if (target === tryReadLink('/proc/self/ns/ipc') || typeof target !== 'string') return read();
  const own = openSync('/proc/thread-self/ns/ipc', 'r');
  try {
    const fd = openSync(`/proc/${root}/ns/ipc`, 'r');
    try {
      check(trySyscall(nr.setns, fd, cloneFlag.CLONE_NEWIPC), 'setns', `ipc namespace of ${root}`);
    } finally {
      closeSync(fd);
    }
    try {
      return read();
    } finally {
      check(trySyscall(nr.setns, own, cloneFlag.CLONE_NEWIPC), 'setns', 'the own ipc namespace');
    }
  } finally {
    closeSync(own);
  }
}
