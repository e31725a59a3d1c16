import type { NamespaceKind } from '../../bpf/taskProgram.js';
import type { CensusTask, Identity } from '../../objects/census.js';
import type { SharedKind, SharedObject, SharedObjects } from '../../objects/sharedObjects.js';

const FILES = 'open and mounted files of /proc/PID/ns are counted with it';

/** What else holds namespaces of a kind, so that their count says nothing about tasks. */
const UNCOUNTED: Readonly<Record<NamespaceKind, string>> = {
  uts: FILES,
  ipc: FILES,
  mnt: FILES,
  pid: 'its count has every pid in it',
  net: 'its count has sockets and devices in it',
  cgroup: FILES,
  time: FILES,
  user: 'its count has credentials and all namespaces below in it',
};

/** A kind of namespace: with whom it is shared. Source: namespaces(7). */
export function namespace(name: NamespaceKind): SharedKind {
  const kind = `${name}Namespace`;
  return {
    kind,
    refUsers: { unknown: UNCOUNTED[name] },

    /** One user for each process. */
    collect(table) {
      const { inside } = table.census;
      for (const task of table.leaders) {
        const own = task.namespaces[name];
        if (own !== undefined && !task.dead && inside.has(task.pid))
          table.object(kind, own.identity, undefined);
      }
      for (const task of table.leaders) {
        const own = task.namespaces[name];
        const object = own && table.find(kind, own.identity);
        if (object !== undefined && !task.dead) table.use(object, task.pid);
      }
    },

    judge(object, table) {
      const inum = inumOf(object, name, table);
      const label = `${name}:[${inum}]`;
      if (isOfTheHost(object.identity, name, table)) {
        return {
          name: label,
          harmless: true,
          meaning: 'the namespace of the host: a restart takes that of where it runs',
          advice: 'start the container with one of its own where that matters',
        };
      }
      return {
        name: label,
        harmless: false,
        meaning: `the ${name} namespace is shared with processes outside that are not the host's`,
        advice: 'checkpoint the processes that share it together, or end those outside',
      };
    },
  };
}

/** The host's are those of pid 1, as far as this process sees it. */
function isOfTheHost(identity: Identity, name: NamespaceKind, { census }: SharedObjects): boolean {
  const init = census.tasks.find(({ tid }) => tid === 1);
  const own = census.tasks.find(({ tid }) => tid === process.pid);
  return [init, own].some((task: CensusTask | undefined) => task?.namespaces[name]?.identity === identity);
}

function inumOf(object: SharedObject, name: NamespaceKind, { census }: SharedObjects): number {
  const task = census.tasks.find(({ namespaces }) => namespaces[name]?.identity === object.identity);
  return task?.namespaces[name]?.inum ?? 0;
}
