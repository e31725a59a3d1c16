import { join } from 'node:path';
import { type CgroupMembership, parseCgroups } from '../procfs/cgroup.js';
import { type Mount, parseMountinfo } from '../procfs/mountinfo.js';
import { readProc, readProcIfAlive } from '../procfs/read.js';

/** A control group and its directory. */
export interface Cgroup extends CgroupMembership {
  /** Undefined where its hierarchy is not mounted here, or it is outside of what is mounted. */
  readonly directory: string | undefined;
}

/** The control groups of a task, one in each hierarchy; none of a task that is gone. Source: cgroups(7). */
export function cgroupsOf(pid: number): Cgroup[] {
  return parseCgroups(readProcIfAlive(`/proc/${pid}/cgroup`) ?? '').map((membership) => ({
    ...membership,
    directory: directoryOf(membership),
  }));
}

/** Where a group is, or would be, in the file system. */
export function directoryOf({ hierarchy, controllers, path }: CgroupMembership): string | undefined {
  const mount = cgroupMounts().find((candidate) =>
    hierarchy === 0
      ? candidate.type === 'cgroup2'
      : candidate.type === 'cgroup' &&
        controllers.every((controller) => candidate.superOptions.includes(controller)),
  );
  if (mount === undefined || path.startsWith('/..')) return undefined;
  if (mount.root === '/') return join(mount.mountpoint, path);
  const isInside = path === mount.root || path.startsWith(`${mount.root}/`);
  return isInside ? join(mount.mountpoint, path.slice(mount.root.length)) : undefined;
}

/** The processes in a group itself; undefined when the group is gone, or is threaded. */
export function processesIn(directory: string): number[] | undefined {
  const text = readProcIfAlive(join(directory, 'cgroup.procs'));
  return text?.split('\n').filter(Boolean).map(Number);
}

let mounts: readonly Mount[] | undefined;

function cgroupMounts(): readonly Mount[] {
  mounts ??= parseMountinfo(readProc('/proc/self/mountinfo')).filter(({ type }) => type.startsWith('cgroup'));
  return mounts;
}
