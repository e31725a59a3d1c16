import type { Obstacle } from '../errors.js';
import type { HeldProcess } from '../freezer/freeze.js';
import type { CensusTask } from '../objects/census.js';
import type { FrozenProcess, FrozenThread } from '../objects/frozenProcess.js';
import { readLink, readLinkIfAlive } from '../procfs/read.js';
import { PF_IO_WORKER } from '../sys/uapi.js';

/** States of tasks that have no slice yet: each is refused by name. */

const NAMESPACES = [
  'cgroup',
  'ipc',
  'mnt',
  'net',
  'pid',
  'pid_for_children',
  'time',
  'time_for_children',
  'user',
  'uts',
];

/** Everything about a process, its threads aside, that has no slice. */
export function refuseProcess(
  process: FrozenProcess,
  sessions: ReadonlySet<number>,
  own: CensusTask | undefined,
): Obstacle[] {
  const { pid, stat, status } = process;
  const obstacles = [...refuseNamespaces(process, own)];
  if (stat.terminal !== 0 && sessions.has(stat.session)) {
    obstacles.push({
      pid,
      what: `its session ${stat.session} is in the tree and has a controlling terminal`,
      advice: 'start the job with setsid and without a terminal, or checkpoint below the session leader',
    });
  }
  if (status.namespacePids.length > 1 && process.pid !== status.namespacePids[0]) {
    obstacles.push({ pid, what: 'its pid is that of another namespace', advice: 'run stasis on the host' });
  }
  return obstacles;
}

/** Everything about a thread that has no slice. */
export function refuseThread(thread: FrozenThread): Obstacle[] {
  const { tid: pid, status, stat } = thread;
  const obstacles: Obstacle[] = [];
  if (!thread.is64Bit) {
    obstacles.push({ pid, what: 'a 32-bit task', advice: 'use a 64-bit build of the program' });
  }
  if (status.seccomp !== 0) {
    obstacles.push({
      pid,
      what: status.seccomp === 1 ? 'seccomp strict mode' : 'a seccomp filter',
      advice: 'run it without the filter; not supported yet',
    });
  }
  if (status.threadFeatures.includes('shstk')) {
    obstacles.push({
      pid,
      what: 'a shadow stack (CET)',
      advice: 'run it with GLIBC_TUNABLES=glibc.cpu.x86_shstk=off',
    });
  }
  if ((stat.flags & PF_IO_WORKER) !== 0) {
    obstacles.push({ pid, what: 'a worker thread of io_uring', advice: 'io_uring is not supported yet' });
  }
  return obstacles;
}

/** Threads that can't be held. */
export function refuseUnheld({ pid, zombie, unheld }: HeldProcess): Obstacle[] {
  if (zombie) return [];
  return unheld
    .filter((tid) => tid !== pid)
    .map((tid) => ({
      pid,
      where: `thread ${tid}`,
      what: 'a thread that can not be held (a worker of io_uring)',
      advice: 'not supported yet',
    }));
}

const ownNamespaces = new Map<string, string | undefined>();

/** This process's own; it does not change them. Undefined for a kind that the kernel does not have. */
function ownNamespace(name: string): string | undefined {
  if (!ownNamespaces.has(name)) ownNamespaces.set(name, readLinkIfAlive(`/proc/self/ns/${name}`));
  return ownNamespaces.get(name);
}

/** A set of namespaces is never changed, but those of pids and users are not in it. */
function hasSameNamespaces(one: CensusTask, other: CensusTask): boolean {
  const identities = ({ structures, namespaces }: CensusTask) => [
    structures.nsproxy?.identity,
    namespaces.pid?.identity,
    namespaces.user?.identity,
  ];
  const wanted = identities(other);
  return identities(one).every((identity, index) => identity !== undefined && identity === wanted[index]);
}

function refuseNamespaces({ pid, live, census }: FrozenProcess, own: CensusTask | undefined): Obstacle[] {
  if (census !== undefined && own !== undefined && hasSameNamespaces(census, own)) return [];
  const foreign = NAMESPACES.filter((name) => {
    const link = ownNamespace(name);
    return link !== undefined && readLink(`/proc/${live}/ns/${name}`) !== link;
  });
  if (foreign.length === 0) return [];
  const plural = foreign.length === 1 ? 'a namespace' : 'namespaces';
  return [
    {
      pid,
      what: `${plural} of its own: ${foreign.join(', ')}`,
      advice: 'run stasis in the same namespaces; containers are not supported yet',
    },
  ];
}
