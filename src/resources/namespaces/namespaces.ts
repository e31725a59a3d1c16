import { InternalError, type Obstacle } from '../../errors.js';
import { type MountNamespace_ProcMount, MountNamespaceSchema } from '../../image/generated/namespaces_pb.js';
import type { ImageWriter } from '../../image/writer.js';
import type { CensusTask } from '../../objects/census.js';
import type { FrozenProcess } from '../../objects/frozenProcess.js';
import type { ObjectTable, Objref } from '../../objects/objectTable.js';
import { readLinkIfAlive } from '../../procfs/read.js';
import { compareMounts, type ForeignMounts, MOUNT_NAMESPACE_RECORD, procMountOf } from './mountNamespace.js';

/** Kinds of namespaces in which all tasks have to be where Stasis itself is. */
const OUTER = ['cgroup', 'ipc', 'net', 'time', 'time_for_children', 'user', 'uts'] as const;
/** Those in which threads of one process may differ. */
const OF_THREADS = ['ipc', 'mnt', 'net', 'uts', 'pid_for_children', 'cgroup'] as const;

interface Known {
  readonly process: FrozenProcess;
  /** Links below `/proc/PID/ns`. */
  readonly pid: string;
  readonly pidForChildren: string | undefined;
  readonly mount: string;
}

interface KnownMounts {
  readonly objref: Objref;
  readonly foreign: ForeignMounts;
  readonly procs: MountNamespace_ProcMount[];
}

/** Which namespaces the processes of a tree are in. */
export class Namespaces {
  private readonly known = new Map<number, Known>();
  /** By link; those in which Stasis runs left out. */
  private readonly mounts = new Map<string, KnownMounts>();
  private readonly obstacles: Obstacle[] = [];

  constructor(private readonly table: ObjectTable) {}

  /**
   * Takes in a process; its parent was taken before it.
   * @param stasis what a census has of this process, where one was taken
   */
  collect(process: FrozenProcess, stasis: CensusTask | undefined): void {
    if (process.census !== undefined && stasis && hasSameNamespaces(process.census, stasis)) {
      this.known.set(process.pid, { process, ...ownNamespaces() });
      return;
    }
    const link = (kind: string): string | undefined => readLinkIfAlive(`/proc/${process.live}/ns/${kind}`);
    const pid = link('pid') ?? '';
    const known = { process, pid, pidForChildren: link('pid_for_children'), mount: link('mnt') ?? '' };
    this.known.set(process.pid, known);
    this.obstacles.push(...refuseOuter(process));
    this.checkPidNamespace(known);
    this.collectMounts(known);
  }

  refuse(): readonly Obstacle[] {
    return this.obstacles;
  }

  /** The objref of its mount namespace; 0 for the one in which Stasis runs. */
  mountsOf(pid: number): number {
    return this.mounts.get(this.known.get(pid)?.mount ?? '')?.objref ?? 0;
  }

  /** The init, by its pid here, of the pid namespace in which its children are born; undefined for its own. */
  initForChildren(pid: number): number | undefined {
    const known = this.known.get(pid);
    if (known === undefined || known.pidForChildren === known.pid) return undefined;
    return this.initOf(known.pidForChildren);
  }

  /** @param idOf translates a pid to that in the tree's own namespace */
  save(idOf: (pid: number) => number, writer: ImageWriter): void {
    for (const { objref, foreign, procs } of this.mounts.values()) {
      writer.record(MOUNT_NAMESPACE_RECORD, objref, MountNamespaceSchema, {
        propagation: foreign.propagation,
        procs: procs.map((proc) => ({ ...proc, pidNamespace: proc.pidNamespace && idOf(proc.pidNamespace) })),
      });
      this.table.markCheckpointed(objref);
    }
  }

  private get root(): Known {
    const [root] = this.known.values();
    if (root === undefined) throw new InternalError('no process was collected');
    return root;
  }

  private initOf(link: string | undefined): number | undefined {
    for (const { process, pid } of this.known.values()) {
      if (pid === link && process.ids.at(-1) === 1) return process.pid;
    }
    return undefined;
  }

  /** It has to be that of the parent, or one that begins with it, or the one that the parent has for its children. */
  private checkPidNamespace({ process, pid: link, pidForChildren }: Known): void {
    const { pid, parent, ids } = process;
    const above = this.known.get(parent);
    const isOneDeeper = ids.length === (above?.process.ids.length ?? 0) + 1;
    const isReachable =
      above === undefined ||
      above.pid === link ||
      (isOneDeeper && (ids.at(-1) === 1 || above.pidForChildren === link));
    if (!isReachable) {
      this.obstacles.push({
        pid,
        where: 'pid namespace',
        what: `it was brought into its pid namespace by somebody else than its parent ${parent}`,
        advice: 'checkpoint the inner container by its own init, or end what was brought into it',
      });
    }
    if (pidForChildren === undefined) {
      this.obstacles.push({
        pid,
        where: 'pid namespace',
        what: 'it has made a pid namespace in which nobody is yet',
        advice: 'checkpoint when it has made a child',
      });
    }
  }

  private collectMounts({ process, mount, pid: link }: Known): void {
    if (mount === ownNamespaces().mount) return;
    const above = this.known.get(process.parent);
    if (above?.mount === mount) return;
    if (this.mounts.has(mount)) {
      this.obstacles.push({
        pid: process.pid,
        where: 'mount namespace',
        what: 'it shares its mount namespace with others than its parent',
        advice: 'checkpoint the processes of that mount namespace by themselves',
      });
      return;
    }
    const foreign = compareMounts(process.live);
    const procs: MountNamespace_ProcMount[] = [];
    this.mounts.set(mount, { objref: this.table.add('mountNamespace').objref, foreign, procs });
    this.obstacles.push(...foreign.obstacles);
    this.unfinished.push(() => this.findProcs(process, link, foreign, above, procs));
  }

  /** What is known only when all processes are. */
  private readonly unfinished: (() => void)[] = [];

  /** All processes were taken in. */
  finish(): void {
    for (const known of this.known.values()) {
      const { process, pidForChildren, pid } = known;
      if (pidForChildren === undefined || pidForChildren === pid) continue;
      if (this.initOf(pidForChildren) !== undefined) continue;
      this.obstacles.push({
        pid: process.pid,
        where: 'pid namespace',
        what: 'its children are born in a pid namespace whose init is not in the tree',
        advice: 'checkpoint the tree from further up',
      });
    }
    for (const finish of this.unfinished.splice(0)) finish();
  }

  private findProcs(
    process: FrozenProcess,
    link: string,
    foreign: ForeignMounts,
    above: Known | undefined,
    procs: MountNamespace_ProcMount[],
  ): void {
    const inherited = [...(this.mounts.get(above?.mount ?? '')?.foreign.procs ?? [])];
    for (const { mount, pidNamespace } of foreign.procs) {
      const at = inherited.findIndex(
        (proc) => proc.mount.device === mount.device && proc.mount.mountpoint === mount.mountpoint,
      );
      if (at >= 0) {
        inherited.splice(at, 1);
        continue;
      }
      const init = pidNamespace === this.root.pid ? 0 : this.initOf(pidNamespace);
      // Whoever mounts it again has to be in both namespaces.
      const mounter = [...this.known.values()].some(
        (known) => known.mount === this.known.get(process.pid)?.mount && known.pid === pidNamespace,
      );
      if (init === undefined || !mounter) {
        this.obstacles.push(unknownProc(process.pid, mount.mountpoint, pidNamespace ?? link));
        continue;
      }
      procs.push(procMountOf(mount, init) as MountNamespace_ProcMount);
    }
    for (const { mount } of inherited) {
      this.obstacles.push({
        pid: process.pid,
        where: 'mount namespace',
        what: `the proc file system that its parent has on ${mount.mountpoint} is not mounted there`,
        advice: 'checkpoint the processes of that mount namespace by themselves',
      });
    }
  }
}

/** Where threads of a process have gone into namespaces of their own. */
export function refuseThreadNamespaces({ pid, live, threads }: FrozenProcess): Obstacle[] {
  return threads
    .filter(({ tid }) => tid !== live)
    .flatMap(({ tid }) =>
      OF_THREADS.filter(
        (kind) => readLinkIfAlive(`/proc/${tid}/ns/${kind}`) !== readLinkIfAlive(`/proc/${live}/ns/${kind}`),
      ).map((kind) => ({
        pid,
        where: `thread ${tid}`,
        what: `a namespace of its own: ${kind}`,
        advice: 'checkpoint when the thread has ended; not supported yet',
      })),
    );
}

function unknownProc(pid: number, mountpoint: string, link: string): Obstacle {
  return {
    pid,
    where: 'mount namespace',
    what: `the proc file system on ${mountpoint} shows a pid namespace (${link}) that is hidden, or of nobody there`,
    advice: 'unmount it, or mount it anew from a process of the tree',
  };
}

interface OwnNamespaces {
  readonly pid: string;
  readonly pidForChildren: string;
  readonly mount: string;
  readonly outer: ReadonlyMap<string, string | undefined>;
}

let own: OwnNamespaces | undefined;

/** Those of this process; it does not change them. */
function ownNamespaces(): OwnNamespaces {
  own ??= {
    pid: readLinkIfAlive('/proc/self/ns/pid') ?? '',
    pidForChildren: readLinkIfAlive('/proc/self/ns/pid_for_children') ?? '',
    mount: readLinkIfAlive('/proc/self/ns/mnt') ?? '',
    outer: new Map(OUTER.map((kind) => [kind, readLinkIfAlive(`/proc/self/ns/${kind}`)])),
  };
  return own;
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

function refuseOuter({ pid, live }: FrozenProcess): Obstacle[] {
  const { outer } = ownNamespaces();
  const foreign = OUTER.filter((kind) => {
    const link = outer.get(kind);
    return link !== undefined && readLinkIfAlive(`/proc/${live}/ns/${kind}`) !== link;
  });
  if (foreign.length === 0) return [];
  const plural = foreign.length === 1 ? 'a namespace' : 'namespaces';
  return [
    {
      pid,
      what: `${plural} of its own: ${foreign.join(', ')}`,
      advice: 'run stasis in the same namespaces; only those of pids and mounts are supported yet',
    },
  ];
}
