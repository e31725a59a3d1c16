import { RestartFailedError } from '../../errors.js';
import { type MappedFile, type MemoryMap, type Vma, Vma_Kind } from '../../image/generated/mm_pb.js';
import { iovec, prctlMmMap } from '../../sys/structs.js';
import { fcntl, MADV_GUARD_INSTALL, madvise, mapFlag, open, PAGE_SIZE, prctl, prot } from '../../sys/uapi.js';
import { type AddressRange, remoteAddress } from '../../tracee/address.js';
import { cString, type RemoteCalls, type RemoteResult } from '../../tracee/remoteCalls.js';
import type { LoadedImage, PageRecord } from '../loadImage.js';
import { type Helper, type ParkedMapping, queueMove, type ReservedDescriptors } from '../tree/helper.js';
import { ADVICE, anonymousName, MAP_FLAGS } from './vma.js';

/** IOV_MAX of limits.h. */
const MAX_VECTORS = 1024;
const LARGE_RUN_PAGES = 64;
/** Where the helper maps shared memory while it is filled; its address space is otherwise empty. */
const HELPER_WORKSPACE = remoteAddress(0x10_0000_0000n);

/** The files and shared memory objects behind the mappings of a tree, opened once, in the helper. */
export class MappedObjects {
  private readonly descriptors = new Map<string, RemoteResult>();

  constructor(
    private readonly image: LoadedImage,
    private readonly helper: Helper,
    private readonly imageFd: number,
  ) {}

  /** Opens and fills everything that the address spaces need. */
  open(): void {
    for (const { mm } of this.image.processes) {
      this.openFile(mm.exe, false);
      for (const vma of mm.vmas) {
        if (isFile(vma)) this.openFile(vma.object, isWritableShare(vma));
        else if (vma.kind === Vma_Kind.SHARED_ANONYMOUS) this.openSharedMemory(vma.object);
      }
    }
    this.helper.calls.flush();
  }

  /** The helper's descriptor of what a mapping maps. */
  descriptorOf(vma: Vma): number {
    return this.descriptor(isFile(vma) ? key(vma.object, isWritableShare(vma)) : key(vma.object, true));
  }

  descriptorOfExe({ exe }: MemoryMap): number {
    return this.descriptor(key(exe, false));
  }

  private descriptor(name: string): number {
    const result = this.descriptors.get(name);
    if (result === undefined) throw new RestartFailedError(`the mapped object ${name} was not opened`, {});
    return result.value;
  }

  private openFile(objref: number, writable: boolean): void {
    const name = key(objref, writable);
    const file: MappedFile | undefined = this.image.mappedFiles.get(objref);
    if (file === undefined || this.descriptors.has(name)) return;
    const flags = writable ? open.O_RDWR : open.O_RDONLY;
    const result = this.helper.calls.call('openat', [fcntl.AT_FDCWD, cString(file.path), flags, 0], {
      purpose: `opening ${file.path} to map it`,
    });
    this.descriptors.set(name, result);
  }

  /**
   * Shared anonymous memory has no name by which others could map it; the link in map_files of whoever has
   * mapped it is one. Source: proc_pid_map_files(5).
   */
  private openSharedMemory(objref: number): void {
    const name = key(objref, true);
    const memory = this.image.sharedMemory.get(objref);
    if (memory === undefined || this.descriptors.has(name)) return;
    const { calls } = this.helper;
    const start = HELPER_WORKSPACE;
    const end = start + pageAligned(memory.size);
    const flags =
      mapFlag.MAP_SHARED | mapFlag.MAP_ANONYMOUS | mapFlag.MAP_FIXED_NOREPLACE | mapFlag.MAP_NORESERVE;
    calls.call('mmap', [start, end - start, prot.PROT_READ | prot.PROT_WRITE, flags, -1, 0], {
      purpose: `making ${memory.size} bytes of shared memory`,
    });
    queueReads(calls, this.imageFd, this.image.pages.get(objref) ?? [], start);
    const link = `map_files/${start.toString(16)}-${end.toString(16)}`;
    this.descriptors.set(
      name,
      calls.call('openat', [this.helper.procSelf, cString(link), open.O_RDWR, 0], {
        purpose: 'opening shared memory',
      }),
    );
    calls.call('munmap', [start, end - start]);
  }
}

/** What a new task needs to build its address space. */
export interface MemorySource {
  readonly objects: MappedObjects;
  readonly parked: readonly ParkedMapping[];
  readonly reserved: ReservedDescriptors;
  readonly pages: readonly PageRecord[];
}

/** Queues the calls that map everything in a task that has no memory but the scratch area. */
export function mapMemory(mm: MemoryMap, source: MemorySource, calls: RemoteCalls): void {
  moveSpecial(mm.vmas, source.parked, calls);
  mapAll(mm.vmas, vmasWithPages(mm.vmas, source.pages), source, calls);
}

/** Queues the reads that bring pages from the image. */
export function readPages(source: MemorySource, pages: readonly PageRecord[], calls: RemoteCalls): void {
  queueReads(calls, source.reserved.image, pages, 0n);
}

/** Queues what is left to do when all pages are there: protections, advice, names, and the layout. */
export function finishMemory(mm: MemoryMap, source: MemorySource, calls: RemoteCalls): void {
  const filled = vmasWithPages(mm.vmas, source.pages);
  for (const vma of mm.vmas) finishVma(vma, filled.has(vma), calls);
  for (const { start, pages } of mm.guards) {
    calls.call('madvise', [start, pages * PAGE_SIZE, MADV_GUARD_INSTALL], {
      purpose: 'making guard pages, which Linux has since 6.13',
    });
  }
  setLayout(mm, source, calls);
}

function moveSpecial(vmas: readonly Vma[], parked: readonly ParkedMapping[], calls: RemoteCalls): void {
  for (const mapping of parked) {
    const wanted = vmas.find((vma) => vma.kind === Vma_Kind.SPECIAL && vma.name === mapping.name);
    if (wanted === undefined) calls.call('munmap', [mapping.start, mapping.end - mapping.start]);
    else queueMove(calls, mapping, remoteAddress(wanted.start), mapping.name);
  }
}

function mapAll(
  vmas: readonly Vma[],
  filled: ReadonlySet<Vma>,
  source: MemorySource,
  calls: RemoteCalls,
): void {
  const byDescriptor = new Map<number, Vma[]>();
  for (const vma of vmas) {
    if (vma.kind === Vma_Kind.SPECIAL) continue;
    if (vma.kind === Vma_Kind.ANONYMOUS) {
      queueMmap(vma, filled.has(vma), -1, calls);
      continue;
    }
    const descriptor = source.objects.descriptorOf(vma);
    const same = byDescriptor.get(descriptor);
    if (same === undefined) byDescriptor.set(descriptor, [vma]);
    else same.push(vma);
  }
  for (const [descriptor, same] of byDescriptor) {
    const fd = calls.call('pidfd_getfd', [source.reserved.helper, descriptor, 0], {
      purpose: 'taking a mapped file',
    });
    for (const vma of same) queueMmap(vma, filled.has(vma), fd, calls);
    calls.call('close', [fd]);
  }
}

function queueMmap(vma: Vma, filled: boolean, fd: number | RemoteResult, calls: RemoteCalls): void {
  const shared = vma.kind === Vma_Kind.SHARED_ANONYMOUS || vma.kind === Vma_Kind.SHARED_FILE;
  const flags =
    (shared ? mapFlag.MAP_SHARED : mapFlag.MAP_PRIVATE) |
    (fd === -1 ? mapFlag.MAP_ANONYMOUS : 0) |
    mapFlag.MAP_FIXED_NOREPLACE |
    vma.flags.reduce((sum, flag) => sum | (MAP_FLAGS[flag] ?? 0), 0);
  const protection = vma.protection | (filled ? prot.PROT_WRITE : 0);
  calls.call('mmap', [vma.start, vma.end - vma.start, protection, flags, fd, vma.offset], {
    purpose: `mapping ${vma.start.toString(16)}-${vma.end.toString(16)} ${vma.name}`,
  });
}

function finishVma(vma: Vma, filled: boolean, calls: RemoteCalls): void {
  const length = vma.end - vma.start;
  if (filled && (vma.protection & prot.PROT_WRITE) === 0) {
    calls.call('mprotect', [vma.start, length, vma.protection], { purpose: 'protecting a mapping' });
  }
  for (const flag of vma.flags) {
    const advice = ADVICE[flag];
    if (advice !== undefined)
      calls.call('madvise', [vma.start, length, advice], { purpose: `advice ${flag}` });
  }
  const name = anonymousName(vma.name);
  if (name !== undefined) {
    calls.call('prctl', [prctl.PR_SET_VMA, prctl.PR_SET_VMA_ANON_NAME, vma.start, length, cString(name)], {
      purpose: `naming a mapping ${name}`,
    });
  }
}

/** brk, arguments, environment, auxiliary vector and executable, in one call. Source: prctl(2) PR_SET_MM_MAP. */
function setLayout(mm: MemoryMap, source: MemorySource, calls: RemoteCalls): void {
  // The table is empty but for the two reserved numbers, which are higher: this descriptor is 0.
  const exe = calls.call('pidfd_getfd', [source.reserved.helper, source.objects.descriptorOfExe(mm), 0], {
    purpose: 'taking the executable',
  });
  const bytes = prctlMmMap.encode({
    start_code: mm.startCode,
    end_code: mm.endCode,
    start_data: mm.startData,
    end_data: mm.endData,
    start_brk: mm.startBrk,
    brk: mm.brk,
    start_stack: mm.startStack,
    arg_start: mm.argStart,
    arg_end: mm.argEnd,
    env_start: mm.envStart,
    env_end: mm.envEnd,
    auxv_size: mm.auxv.length,
    exe_fd: 0,
  });
  const layout = { bytes, pointers: [{ at: prctlMmMap.offsets.auxv, to: mm.auxv }] };
  calls.call('prctl', [prctl.PR_SET_MM, prctl.PR_SET_MM_MAP, layout, prctlMmMap.size, 0], {
    purpose: 'setting the layout of the address space',
  });
  calls.call('close', [exe]);
}

/**
 * Queues reads from the image that put pages where they belong, `base` bytes further on. The kernel makes
 * the pages of large runs before they are read into: a quarter less time for a gigabyte (409 against
 * 565 ms, best of four) than one fault for each page. Source: madvise(2).
 */
function queueReads(calls: RemoteCalls, imageFd: number, records: readonly PageRecord[], base: bigint): void {
  for (const { offset, runs } of records) {
    let position = offset;
    for (let i = 0; i < runs.length; i += MAX_VECTORS) {
      const part = runs.slice(i, i + MAX_VECTORS);
      for (const { start, pages } of part) {
        if (pages < LARGE_RUN_PAGES) continue;
        // It may fail where memory is locked or protected; the read then faults the pages in.
        calls.call('madvise', [base + start, pages * PAGE_SIZE, madvise.MADV_POPULATE_WRITE], {
          mayFail: true,
        });
      }
      const vectors = Buffer.concat(
        part.map(({ start, pages }) =>
          iovec.encode({ iov_base: base + start, iov_len: BigInt(pages) * BigInt(PAGE_SIZE) }),
        ),
      );
      const length = part.reduce((sum, { pages }) => sum + pages, 0) * PAGE_SIZE;
      calls.call('preadv', [imageFd, vectors, part.length, position, 0], {
        expect: length,
        purpose: 'reading pages of the image',
      });
      position += length;
    }
  }
}

function vmasWithPages(vmas: readonly Vma[], records: readonly PageRecord[]): Set<Vma> {
  const filled = new Set<Vma>();
  for (const { runs } of records) {
    let index = 0;
    for (const { start, pages } of runs) {
      const end = start + BigInt(pages) * BigInt(PAGE_SIZE);
      while (index < vmas.length && (vmas[index] as Vma).end <= start) index++;
      for (let i = index; i < vmas.length && (vmas[i] as Vma).start < end; i++) filled.add(vmas[i] as Vma);
    }
  }
  return filled;
}

/** The address ranges of a process, for whoever must keep clear of them. */
export function rangesOf({ vmas }: MemoryMap): AddressRange[] {
  return vmas.map(({ start, end }) => ({ start: remoteAddress(start), end: remoteAddress(end) }));
}

function isFile({ kind }: Vma): boolean {
  return kind === Vma_Kind.PRIVATE_FILE || kind === Vma_Kind.SHARED_FILE;
}

function isWritableShare(vma: Vma): boolean {
  return vma.kind === Vma_Kind.SHARED_FILE && vma.mayWrite;
}

function key(objref: number, writable: boolean): string {
  return `${objref} ${writable ? 'rw' : 'ro'}`;
}

function pageAligned(size: bigint): bigint {
  const page = BigInt(PAGE_SIZE);
  return ((size + page - 1n) / page) * page;
}
