import type { Obstacle } from '../../errors.js';
import {
  MountNamespace_Propagation as Copied,
  type MountNamespace,
  type MountNamespace_ProcMount,
} from '../../image/generated/namespaces_pb.js';
import { type Mount, parseMountinfo } from '../../procfs/mountinfo.js';
import { readLinkIfAlive, readProc } from '../../procfs/read.js';
import { cloneFlag, mountFlag } from '../../sys/uapi.js';
import { cString, type RemoteCalls } from '../../tracee/remoteCalls.js';

/**
 * Mount namespaces: `struct mnt_namespace`. What is supported is a copy of the one in which Stasis runs that has
 * its own proc file systems on top, as a new pid namespace needs. Source: mount_namespaces(7).
 */

export const MOUNT_NAMESPACE_RECORD = 54;

/** What a mount namespace has beyond the one in which Stasis runs. */
export interface ForeignMounts {
  readonly propagation: Copied;
  readonly procs: readonly ForeignProc[];
  readonly obstacles: readonly Obstacle[];
}

export interface ForeignProc {
  readonly mount: Mount;
  /** The link of the pid namespace that it shows; undefined where another mount hides it. */
  readonly pidNamespace: string | undefined;
}

/** Compares the mounts that a process sees with those of this process. */
export function compareMounts(pid: number): ForeignMounts {
  const own = parseMountinfo(readProc('/proc/self/mountinfo'));
  const mounts = parseMountinfo(readProc(`/proc/${pid}/mountinfo`));
  const left = new Map<string, Mount[]>();
  for (const mount of own) left.set(keyOf(mount), [...(left.get(keyOf(mount)) ?? []), mount]);
  const pairs: (readonly [Mount, Mount])[] = [];
  const foreign: Mount[] = [];
  for (const mount of mounts) {
    const known = left.get(keyOf(mount))?.shift();
    if (known === undefined) foreign.push(mount);
    else pairs.push([known, mount]);
  }
  const missing = [...left.values()].flat();
  const propagation = propagationOf(pairs);
  return {
    propagation: propagation ?? Copied.INHERITED,
    procs: foreign.filter(isProc).map((mount) => ({ mount, pidNamespace: shownBy(pid, mount, mounts) })),
    obstacles: [
      ...foreign.filter((mount) => !isProc(mount)).map((mount) => unknownMount(pid, mount)),
      ...missing.map((mount) => missingMount(pid, mount)),
      ...foreign.filter(({ propagation: its }) => its === 'shared').map((mount) => sharedMount(pid, mount)),
      ...(propagation === undefined ? [mixedPropagation(pid)] : []),
    ],
  };
}

type ProcMount = Pick<MountNamespace_ProcMount, 'mountpoint' | 'flags' | 'data'>;

/** How a proc file system is mounted again, for the pid namespace of whoever does it. */
export function procMountOf({ mountpoint, options, superOptions }: Mount, pidNamespace: number) {
  return {
    mountpoint,
    flags: options.reduce((flags, option) => flags | (FLAGS[option] ?? 0), 0),
    data: superOptions.filter((option) => option !== '' && option !== 'rw' && option !== 'ro').join(','),
    pidNamespace,
  };
}

/** Queues the copying of a mount namespace. The task must be the only one in its process. */
export function copyMountNamespace(
  { propagation }: Pick<MountNamespace, 'propagation'>,
  calls: RemoteCalls,
): void {
  calls.call('unshare', [cloneFlag.CLONE_NEWNS], { purpose: 'making a mount namespace' });
  if (propagation === Copied.INHERITED) return;
  const type = propagation === Copied.PRIVATE ? mountFlag.MS_PRIVATE : mountFlag.MS_SLAVE;
  calls.call('mount', [0, cString('/'), 0, mountFlag.MS_REC | type, 0]);
}

/** Queues the mounting of a proc file system for the task's own pid namespace. */
export function mountProc({ mountpoint, flags, data }: ProcMount, calls: RemoteCalls): void {
  const options = data === '' ? 0 : cString(data);
  calls.call('mount', [cString('proc'), cString(mountpoint), cString('proc'), flags, options], {
    purpose: `mounting ${mountpoint}`,
  });
}

/** For a tree that gets a pid namespace of its own: a copy of the mounts here, with its own /proc on top. */
export function mountFreshProc(calls: RemoteCalls): void {
  copyMountNamespace({ propagation: Copied.SLAVE }, calls);
  const flags = mountFlag.MS_NOSUID | mountFlag.MS_NODEV | mountFlag.MS_NOEXEC;
  mountProc({ mountpoint: '/proc', flags, data: '' }, calls);
}

const FLAGS: Readonly<Record<string, number>> = {
  ro: mountFlag.MS_RDONLY,
  nosuid: mountFlag.MS_NOSUID,
  nodev: mountFlag.MS_NODEV,
  noexec: mountFlag.MS_NOEXEC,
  noatime: mountFlag.MS_NOATIME,
  nodiratime: mountFlag.MS_NODIRATIME,
  relatime: mountFlag.MS_RELATIME,
};

function isProc({ type, root }: Mount): boolean {
  return type === 'proc' && root === '/';
}

function keyOf({ device, root, mountpoint, options, type }: Mount): string {
  return JSON.stringify([device, root, mountpoint, options, type]);
}

/** Only the uppermost mount at a place can be looked into. */
function shownBy(pid: number, mount: Mount, mounts: readonly Mount[]): string | undefined {
  if (mounts.findLast(({ mountpoint }) => mountpoint === mount.mountpoint) !== mount) return undefined;
  return readLinkIfAlive(`/proc/${pid}/root${mount.mountpoint}/1/ns/pid`);
}

/** How the propagation of all mounts was changed; undefined where that was not done to all alike. */
function propagationOf(pairs: readonly (readonly [Mount, Mount])[]): Copied | undefined {
  if (pairs.every(([own, mount]) => own.propagation === mount.propagation)) return Copied.INHERITED;
  if (pairs.every(([, mount]) => mount.propagation === 'private')) return Copied.PRIVATE;
  const isSlave = ([own, mount]: readonly [Mount, Mount]) =>
    mount.propagation === (own.propagation === 'shared' ? 'slave' : own.propagation);
  return pairs.every(isSlave) ? Copied.SLAVE : undefined;
}

function unknownMount(pid: number, { type, mountpoint }: Mount): Obstacle {
  return {
    pid,
    where: 'mount namespace',
    what: `${type} is mounted on ${mountpoint}, and not where stasis runs`,
    advice: 'only proc file systems of its own are supported; run stasis in the same mount namespace',
  };
}

function missingMount(pid: number, { type, mountpoint }: Mount): Obstacle {
  return {
    pid,
    where: 'mount namespace',
    what: `${mountpoint} (${type}) is not mounted there as it is where stasis runs`,
    advice: 'run stasis in the same mount namespace; root directories of containers are not supported yet',
  };
}

function sharedMount(pid: number, { mountpoint }: Mount): Obstacle {
  return {
    pid,
    where: 'mount namespace',
    what: `the mount on ${mountpoint} is shared with other mount namespaces`,
    advice: 'make it private (mount --make-rprivate /) before it is made',
  };
}

function mixedPropagation(pid: number): Obstacle {
  return {
    pid,
    where: 'mount namespace',
    what: 'some of its mounts are private and others are not',
    advice: 'make all of them private, or all of them slaves (mount --make-rslave /)',
  };
}
