import { closeSync } from 'node:fs';
import { type Vma, Vma_Kind } from './image/generated/mm_pb.js';
import { openImage } from './image/input.js';
import { type LoadedImage, type LoadedProcess, loadImage } from './resources/loadImage.js';
import { PAGE_SIZE } from './sys/uapi.js';

/** What `stasis inspect --json` prints: stable, see docs/image-format.md. All sizes are bytes. */
export interface ImageDescription {
  readonly stasisVersion: string;
  readonly kernelRelease: string;
  readonly hostname: string;
  /** ISO 8601. */
  readonly createdAt: string;
  readonly rootPid: number;
  /** The root is the init of a pid namespace. */
  readonly container: boolean;
  /** The pids are those of a pid namespace of its own. */
  readonly innerPids: boolean;
  readonly killed: boolean;
  readonly size: number;
  readonly processes: readonly ProcessDescription[];
  readonly zombies: readonly ZombieDescription[];
  readonly files: readonly FileDescription[];
  readonly sharedMemory: readonly SharedMemoryDescription[];
  readonly mappedFiles: readonly { readonly path: string; readonly size: number }[];
  /** Keys for `restart --attach`. */
  readonly external: readonly string[];
}

/** A process that has ended, whose parent has not waited for it. */
export interface ZombieDescription {
  readonly pid: number;
  readonly parent: number;
  readonly command: string;
  /** As wait4(2) tells it. */
  readonly status: number;
}

export interface ProcessDescription {
  readonly pid: number;
  /** 0 for the root. */
  readonly parent: number;
  /** 0 where they are led from outside the tree. */
  readonly processGroup: number;
  readonly session: number;
  readonly command: string;
  /** The signal that has stopped it; 0 for none. */
  readonly stopped: number;
  readonly threads: readonly { readonly tid: number; readonly name: string }[];
  /** Bytes of pages that are this process's own and in the image. */
  readonly memory: number;
  readonly mappings: readonly MappingDescription[];
  readonly descriptors: readonly {
    readonly fd: number;
    readonly closeOnExec: boolean;
    /** An id of `files`. */
    readonly file: number;
  }[];
  /** Pids that share its table of descriptors. */
  readonly sharesDescriptorsWith: readonly number[];
}

export interface MappingDescription {
  /** Hexadecimal. */
  readonly start: string;
  readonly size: number;
  /** As in /proc/PID/maps, such as `rw-p`. */
  readonly protection: string;
  readonly name: string;
  /** Bytes of its pages in the image. */
  readonly saved: number;
}

export interface FileDescription {
  readonly id: number;
  readonly kind: string;
  readonly description: string;
  /** All slots that refer to it. */
  readonly users: readonly { readonly pid: number; readonly fd: number }[];
}

export interface SharedMemoryDescription {
  readonly id: number;
  readonly size: number;
  readonly saved: number;
  /** Pids that have it mapped. */
  readonly users: readonly number[];
}

/** Describes an image, given by a path or an open descriptor. Throws ImageError. */
export async function inspect(input: string | number): Promise<ImageDescription> {
  const fd = openImage(input);
  try {
    return describeImage(await loadImage(fd));
  } finally {
    closeSync(fd);
  }
}

function describeImage(image: LoadedImage): ImageDescription {
  const { header } = image;
  const files = [...image.files.values()].map((file) => ({
    id: file.objref,
    kind: file.kind,
    description: file.description,
    users: image.processes.flatMap(({ message, files: table }) =>
      table.descriptors
        .filter((descriptor) => descriptor.file === file.objref)
        .map(({ fd }) => ({ pid: message.pid, fd })),
    ),
  }));
  return {
    stasisVersion: header.stasisVersion,
    kernelRelease: header.kernelRelease,
    hostname: header.hostname,
    createdAt: new Date(Number(header.createdAt)).toISOString(),
    rootPid: header.rootPid,
    container: header.container,
    innerPids: header.innerPids,
    killed: header.killed,
    size: image.size,
    processes: image.processes.map((process) => describeProcess(process, image)),
    zombies: image.members.flatMap(({ pid, parent, command, zombie }) =>
      zombie === undefined ? [] : [{ pid, parent, command, status: zombie.status }],
    ),
    files,
    sharedMemory: [...image.sharedMemory].map(([id, { size }]) => ({
      id,
      size: Number(size),
      saved: savedBytes(image, id),
      users: image.processes
        .filter(({ mm }) =>
          mm.vmas.some((vma) => vma.kind === Vma_Kind.SHARED_ANONYMOUS && vma.object === id),
        )
        .map(({ message }) => message.pid),
    })),
    mappedFiles: [...image.mappedFiles.values()].map(({ path, size }) => ({ path, size: Number(size) })),
    external: [...image.files.values()]
      .filter((file) => file.kind === 'external')
      .map((file) => (file.message as { key: string }).key)
      .filter((key, index, keys) => keys.indexOf(key) === index),
  };
}

function describeProcess(
  { message, threads, mm, files }: LoadedProcess,
  image: LoadedImage,
): ProcessDescription {
  return {
    pid: message.pid,
    parent: message.parent,
    processGroup: message.processGroup,
    session: message.session,
    command: message.command,
    stopped: message.stopped?.signal ?? 0,
    threads: threads.map(({ message: thread, states }) => ({ tid: thread.tid, name: threadName(states) })),
    memory: savedBytes(image, message.mm),
    mappings: mm.vmas.map((vma) => ({
      start: vma.start.toString(16),
      size: Number(vma.end - vma.start),
      protection: protectionText(vma),
      name: mappingName(vma, image),
      saved: savedBytes(image, message.mm, vma),
    })),
    descriptors: files.descriptors.map(({ fd, closeOnExec, file }) => ({ fd, closeOnExec, file })),
    sharesDescriptorsWith: image.processes
      .filter((other) => other.message.files === message.files && other.message.pid !== message.pid)
      .map((other) => other.message.pid),
  };
}

function threadName(states: LoadedProcess['threads'][number]['states']): string {
  const state = states.find(({ kind }) => kind === 'threadState')?.message as
    | { name: Uint8Array }
    | undefined;
  return state === undefined ? '' : Buffer.from(state.name).toString('utf8');
}

function mappingName({ kind, object, name }: Vma, image: LoadedImage): string {
  const file = image.mappedFiles.get(object);
  if (file !== undefined && kind !== Vma_Kind.SHARED_ANONYMOUS) return file.path;
  return kind === Vma_Kind.SHARED_ANONYMOUS ? `shared memory #${object}` : name;
}

function protectionText({ protection, kind }: Vma): string {
  const shared = kind === Vma_Kind.SHARED_ANONYMOUS || kind === Vma_Kind.SHARED_FILE;
  return `${protection & 1 ? 'r' : '-'}${protection & 2 ? 'w' : '-'}${protection & 4 ? 'x' : '-'}${shared ? 's' : 'p'}`;
}

/** Bytes of pages of an object in the image; of one mapping only, when it is given. */
function savedBytes(image: LoadedImage, objref: number, vma?: Vma): number {
  let bytes = 0n;
  for (const { runs } of image.pages.get(objref) ?? []) {
    for (const { start, pages } of runs) {
      const end = start + BigInt(pages) * BigInt(PAGE_SIZE);
      const from = vma !== undefined && vma.start > start ? vma.start : start;
      const to = vma !== undefined && vma.end < end ? vma.end : end;
      if (to > from) bytes += to - from;
    }
  }
  return Number(bytes);
}
