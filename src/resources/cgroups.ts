import { mkdirSync, rmdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { CgroupsSchema } from '../image/generated/cgroups_pb.js';
import { cgroupsOf, directoryOf } from '../objects/cgroups.js';
import { taskKind } from '../objects/slice.js';

/**
 * The control groups in which a process is, in all hierarchies. A group that is gone is made again where that is
 * possible, with the limits of a new one; where it is not, that is said. Source: cgroups(7).
 */
export const cgroups = taskKind({
  kind: 'cgroups',
  recordType: 23,
  scope: 'process',
  schema: CgroupsSchema,

  checkpoint({ live }) {
    const memberships = cgroupsOf(live).map(({ controllers, path }) => ({
      controllers: [...controllers],
      path,
    }));
    return () => ({ memberships });
  },

  validate({ memberships }) {
    const index = memberships.findIndex(
      ({ path }) => !path.startsWith('/') || path.split('/').includes('..'),
    );
    return index < 0
      ? undefined
      : { field: `memberships[${index}].path`, problem: `${memberships[index]?.path} leads elsewhere` };
  },

  /** Done from here, not by the task: it may have nothing mounted. */
  restart({ memberships }, _calls, { pid, cgroups: wanted, warn, undo }) {
    if (!wanted) return;
    const present = new Map(cgroupsOf(pid).map((group) => [nameOf(group.controllers), group]));
    for (const { controllers, path } of memberships) {
      const name = nameOf(controllers);
      const now = present.get(name);
      if (now?.path === path) continue;
      const directory = directoryOf({ hierarchy: controllers.length === 0 ? 0 : 1, controllers, path });
      const what = `process ${pid} is not in its control group ${path} (${name})`;
      if (now === undefined || directory === undefined) {
        warn(`${what}: that hierarchy is not mounted here`);
        continue;
      }
      try {
        for (const made of makeDirectories(directory)) undo(() => rmdirSync(made));
        writeFileSync(join(directory, 'cgroup.procs'), String(pid));
      } catch (error) {
        warn(`${what}: ${error instanceof Error ? error.message : String(error)}`);
      }
    }
  },
});

function nameOf(controllers: readonly string[]): string {
  return controllers.length === 0 ? 'version 2' : [...controllers].sort().join(',');
}

/** Makes a directory with those above it; returns those that were not there, the uppermost first. */
function makeDirectories(path: string): string[] {
  const first = mkdirSync(path, { recursive: true });
  const made: string[] = [];
  if (first === undefined) return made;
  for (let at = path; at.length >= first.length; at = dirname(at)) made.unshift(at);
  return made;
}
