import { closeSync } from 'node:fs';
import { pid as ownPid } from 'node:process';
import { InternalError, type Obstacle } from '../errors.js';
import type { ImageWriter } from '../image/writer.js';
import type { Identity } from '../objects/census.js';
import type { Descriptor, FrozenProcess } from '../objects/frozenProcess.js';
import { KcmpIndex } from '../objects/kcmpIndex.js';
import type { ObjectTable, TableObject } from '../objects/objectTable.js';
import type { FileCheckpoint, FileKind, OpenFile } from '../objects/slice.js';
import { readNumbersIfAlive, visibleDescriptors } from '../procfs/read.js';
import { tryReadLink } from '../sys/files.js';
import { getDescriptor, openPidfd, openThreadPidfd } from '../sys/process.js';
import { kcmpType, open } from '../sys/uapi.js';
import type { Containment } from './containment/containment.js';
import { external } from './external.js';

/**
 * The open file descriptions of a tree: which slots refer to the same one, of what kind each is, and their
 * records.
 */
export class OpenFiles implements Disposable {
  private readonly index = new KcmpIndex<OpenFile>(kcmpType.KCMP_FILE);
  private readonly byIdentity = new Map<Identity, OpenFile>();
  private readonly byLink = new Map<string, OpenFile[]>();
  private readonly kinds = new Map<OpenFile, FileKind>();
  private readonly pidfds = new Map<number, number>();
  private readonly recorded = new Set<TableObject>();
  private readonly pids = new Set<number>();
  readonly files: OpenFile[] = [];

  constructor(
    private readonly table: ObjectTable,
    private readonly registry: readonly FileKind[],
    /** What has identified files by their kernel addresses; without it kcmp does. */
    private readonly containment?: Containment,
  ) {}

  /** Adds all slots of a process's table. */
  collect(process: FrozenProcess): void {
    this.pids.add(process.pid);
    for (const descriptor of process.descriptors) this.collectSlot(process, descriptor);
  }

  /** Finds out the kind of each file. Returns what can't be brought back. */
  classify(): Obstacle[] {
    const context = this.context(undefined);
    return this.files.flatMap((file) => {
      const where = `fd ${file.descriptor.fd}`;
      const kind = context.isAcceptedLeak(file)
        ? external
        : this.registry.find((candidate) => candidate.claims(file, context));
      if (kind === undefined) {
        return [
          { pid: file.pid, where, what: describeUnknown(file), advice: 'not supported yet; close it first' },
        ];
      }
      this.kinds.set(file, kind);
      const refusal = kind.refuse(file, context);
      return refusal === undefined ? [] : [{ pid: file.pid, where, ...refusal }];
    });
  }

  /** The object of a slot. */
  objectOf(process: FrozenProcess, descriptor: Descriptor): TableObject {
    const { value } = this.findOrAdd(process, descriptor, () => {
      throw new InternalError(`pid ${process.pid} fd ${descriptor.fd} was not collected`);
    });
    return value.object;
  }

  /** Writes the records of all files. */
  save(writer: ImageWriter): void {
    const context = this.context(writer);
    for (const file of this.files) {
      this.kinds.get(file)?.save(file, context);
      this.table.markCheckpointed(file.object.objref);
    }
  }

  [Symbol.dispose](): void {
    for (const pidfd of this.pidfds.values()) closeSync(pidfd);
    this.pidfds.clear();
  }

  private collectSlot(process: FrozenProcess, descriptor: Descriptor): void {
    const { pid, live } = process;
    const { value, fresh } = this.findOrAdd(process, descriptor, (identity) => ({
      object: this.table.add('file', identity),
      pid,
      live,
      descriptor,
      slots: [],
    }));
    value.slots.push({ pid, fd: descriptor.fd });
    if (!fresh) {
      value.object.users++;
      return;
    }
    this.files.push(value);
    const sameLink = this.byLink.get(descriptor.link);
    if (sameLink === undefined) this.byLink.set(descriptor.link, [value]);
    else sameLink.push(value);
  }

  private findOrAdd(
    { pid, live }: FrozenProcess,
    descriptor: Descriptor,
    make: (identity: Identity | undefined) => OpenFile,
  ): { value: OpenFile; fresh: boolean } {
    const identity = this.containment?.identityOf(pid, descriptor.fd);
    if (identity === undefined) {
      return this.index.findOrAdd(groupOf(descriptor), live, descriptor.fd, () => make(undefined));
    }
    const known = this.byIdentity.get(identity);
    if (known !== undefined) return { value: known, fresh: false };
    const value = make(identity);
    this.byIdentity.set(identity, value);
    return { value, fresh: true };
  }

  private context(writer: ImageWriter | undefined): FileCheckpoint {
    return {
      get writer(): ImageWriter {
        if (writer === undefined) throw new InternalError('a file was saved before the image was begun');
        return writer;
      },
      borrow: (file, use) => {
        const fd = getDescriptor(this.pidfdOf(file), file.descriptor.fd);
        try {
          return use(fd);
        } finally {
          closeSync(fd);
        }
      },
      files: this.files,
      sameLink: (file) => this.byLink.get(file.descriptor.link) ?? [],
      endsWithStasis: ({ descriptor: { link } }) => isHeldByUsAlone(link, this.pids),
      isAcceptedLeak: (file) =>
        file.slots.some(({ pid, fd }) => this.containment?.isAccepted(pid, fd) === true),
      collect: (kind, key) => this.table.collect(kind, key),
      claimRecord: (object) => {
        if (this.recorded.has(object)) return false;
        this.recorded.add(object);
        this.table.markCheckpointed(object.objref);
        return true;
      },
    };
  }

  private pidfdOf({ pid, live }: OpenFile): number {
    let pidfd = this.pidfds.get(live);
    if (pidfd === undefined) {
      pidfd = live === pid ? openPidfd(pid) : openThreadPidfd(live);
      this.pidfds.set(live, pidfd);
    }
    return pidfd;
  }
}

/** Whether this process has something open, and nobody else outside of the tree. */
function isHeldByUsAlone(link: string, inside: ReadonlySet<number>): boolean {
  if (!hasOpen(ownPid, link)) return false;
  const pids = readNumbersIfAlive('/proc') ?? [];
  return !pids.some((pid) => pid !== ownPid && !inside.has(pid) && hasOpen(pid, link));
}

function hasOpen(pid: number, link: string): boolean {
  return visibleDescriptors(pid).some((fd) => tryReadLink(`/proc/${pid}/fd/${fd}`) === link);
}

/** Slots that differ in any of this can't refer to the same open file description. */
function groupOf({ link, info }: Descriptor): string {
  return `${link} ${info.position} ${info.flags & ~open.O_CLOEXEC}`;
}

function describeUnknown({ descriptor: { link, stats } }: OpenFile): string {
  if (link.startsWith('socket:')) return `a socket (${link})`;
  if (link.startsWith('anon_inode:')) return `${link.slice('anon_inode:'.length)}`;
  if (stats.isFIFO()) return `the named pipe ${link}`;
  if (stats.isBlockDevice()) return `the block device ${link}`;
  if (stats.isCharacterDevice()) return `the device ${link}`;
  return link;
}
