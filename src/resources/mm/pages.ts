import { closeSync, openSync, readSync } from 'node:fs';
import { recordType } from '../../image/format.js';
import { PagemapSchema } from '../../image/generated/image_pb.js';
import type { ImageWriter } from '../../image/writer.js';
import { nr } from '../../sys/arch/index.js';
import { seekData, seekHole } from '../../sys/descriptors.js';
import { errno } from '../../sys/errno.js';
import { pageRegion, pmScanArg } from '../../sys/structs.js';
import { addressOf, check, trySyscall } from '../../sys/syscall.js';
import { PAGE_SIZE, pagemap } from '../../sys/uapi.js';
import { type AddressRange, remoteAddress } from '../../tracee/address.js';
import { type RemoteMemory, readRanges } from '../../tracee/memory.js';

const PAGE = BigInt(PAGE_SIZE);
/** Bytes of pages in one record: large runs, but a buffer that stays in the processor's cache. */
const CHUNK_SIZE = 2 << 20;
const REGIONS = 4096;
const regions = Buffer.alloc(REGIONS * pageRegion.size);
let scanKnown: boolean | undefined;
let guardsKnown: boolean | undefined;

/** What the kernel tells of the pages in some ranges. */
export interface PageSurvey {
  /** Present or swapped out, and neither a file's nor the zero page. */
  readonly own: readonly AddressRange[];
  /** Guard pages, which no line of maps shows: the stacks of threads end in them with glibc 2.42. */
  readonly guards: readonly AddressRange[];
}

/**
 * Surveys the pages in the given ranges of a process, which ascend. Guard pages can be seen since Linux
 * 6.15; of 6.13 and 6.14, which have them too, they make a checkpoint fail.
 * Source: Documentation/admin-guide/mm/pagemap.rst.
 */
export function surveyPages(pid: number, ranges: readonly AddressRange[]): PageSurvey {
  const first = ranges[0];
  const last = ranges.at(-1);
  if (first === undefined || last === undefined) return { own: [], guards: [] };
  const fd = openSync(`/proc/${pid}/pagemap`, 'r');
  try {
    const regions = scanPages(fd, first.start, last.end);
    if (regions === undefined) return { own: readPagemap(fd, ranges), guards: [] };
    const without = Number(pagemap.PAGE_IS_PFNZERO | pagemap.PAGE_IS_GUARD);
    const guard = Number(pagemap.PAGE_IS_GUARD);
    return {
      own: intersect(
        regions.filter(({ categories }) => (categories & without) === 0),
        ranges,
      ),
      guards: intersect(
        regions.filter(({ categories }) => (categories & guard) !== 0),
        ranges,
      ),
    };
  } finally {
    closeSync(fd);
  }
}

/** A run of pages with the same categories. */
interface Region extends AddressRange {
  /** `PAGE_IS_…`. */
  readonly categories: number;
}

/**
 * By the ioctl PAGEMAP_SCAN of Linux 6.7 and later; undefined where there is none. Guard pages look like
 * swapped ones, unless the kernel is asked for them.
 */
function scanPages(fd: number, start: bigint, end: bigint): Region[] | undefined {
  if (scanKnown === false) return undefined;
  const wanted = pagemap.PAGE_IS_PRESENT | pagemap.PAGE_IS_SWAPPED;
  const own = { inverted: pagemap.PAGE_IS_FILE, mask: pagemap.PAGE_IS_FILE, anyOf: wanted };
  const returned = wanted | pagemap.PAGE_IS_PFNZERO;
  if (guardsKnown !== false) {
    const found = scan(fd, start, end, { ...own, returned: returned | pagemap.PAGE_IS_GUARD });
    guardsKnown = found !== undefined;
    if (found !== undefined) return found;
  }
  const found = scan(fd, start, end, { ...own, returned });
  scanKnown = found !== undefined;
  return found;
}

/** Categories of pages, as `struct pm_scan_arg` has them. */
interface Categories {
  readonly inverted: bigint;
  readonly mask: bigint;
  readonly anyOf: bigint;
  readonly returned: bigint;
}

/** The regions of these categories; undefined where the kernel does not know them. */
function scan(fd: number, start: bigint, end: bigint, categories: Categories): Region[] | undefined {
  const found: Region[] = [];
  const { start: from, end: to, categories: which } = pageRegion.offsets;
  for (let at = start; at < end; ) {
    const argument = pmScanArg.encode({
      size: BigInt(pmScanArg.size),
      start: at,
      end,
      vec: addressOf(regions),
      vec_len: BigInt(REGIONS),
      category_inverted: categories.inverted,
      category_mask: categories.mask,
      category_anyof_mask: categories.anyOf,
      return_mask: categories.returned,
    });
    const count = trySyscall(nr.ioctl, fd, pagemap.PAGEMAP_SCAN, argument);
    if (count === -errno.ENOTTY || count === -errno.EINVAL) return undefined;
    check(count, 'ioctl PAGEMAP_SCAN');
    for (let i = 0; i < count; i++) {
      const region = i * pageRegion.size;
      found.push({
        start: remoteAddress(regions.readBigUInt64LE(region + from)),
        end: remoteAddress(regions.readBigUInt64LE(region + to)),
        categories: regions.readUInt32LE(region + which),
      });
    }
    at = pmScanArg.decode(argument).walk_end;
  }
  return found;
}

/** By reading `/proc/PID/pagemap`: 64 bits a page. */
export function readPagemap(fd: number, ranges: readonly AddressRange[]): AddressRange[] {
  const PRESENT_OR_SWAPPED = 0xc000_0000;
  const FILE_OR_SHARED = 0x2000_0000;
  const entries = Buffer.alloc(0x1_0000);
  const found: { start: bigint; end: bigint }[] = [];
  for (const range of ranges) {
    for (let at: bigint = range.start; at < range.end; ) {
      const wanted = Math.min(entries.length, Number((range.end - at) / PAGE) * 8);
      const got = readSync(fd, entries, 0, wanted, Number(at / PAGE) * 8);
      if (got === 0) break;
      for (let i = 0; i < got; i += 8, at += PAGE) {
        const high = entries.readUInt32LE(i + 4);
        if ((high & PRESENT_OR_SWAPPED) === 0 || (high & FILE_OR_SHARED) !== 0) continue;
        const previous = found.at(-1);
        if (previous?.end === at && at !== range.start) previous.end = at + PAGE;
        else found.push({ start: at, end: at + PAGE });
      }
    }
  }
  return found as { start: AddressRange['start']; end: AddressRange['end'] }[];
}

/** What is in both lists; both ascend. */
export function intersect(one: readonly AddressRange[], other: readonly AddressRange[]): AddressRange[] {
  const result: AddressRange[] = [];
  let j = 0;
  for (const range of one) {
    while (j < other.length && (other[j] as AddressRange).end <= range.start) j++;
    for (let k = j; k < other.length; k++) {
      const limit = other[k] as AddressRange;
      if (limit.start >= range.end) break;
      result.push({
        start: limit.start > range.start ? limit.start : range.start,
        end: limit.end < range.end ? limit.end : range.end,
      });
    }
  }
  return result;
}

/** Writes the pages in `ranges` of a process as records that belong to `objref`. Yields how many each piece has. */
export function savePages(
  memory: RemoteMemory,
  objref: number,
  ranges: readonly AddressRange[],
  writer: ImageWriter,
): AsyncIterable<number> {
  return saveChunks(ranges, objref, writer, (part, buffer) => {
    readRanges(memory, part, buffer);
  });
}

/** Writes the data of a shared memory object, open at `fd`, leaving its holes out. Yields how many pages each piece has. */
export function saveSharedPages(
  fd: number,
  size: number,
  objref: number,
  writer: ImageWriter,
): AsyncIterable<number> {
  const ranges: AddressRange[] = [];
  for (let at = seekData(fd, 0); at !== undefined && at < size; ) {
    const end = Math.min(seekHole(fd, at), size);
    // A file of shm_open(3) may end in the middle of a page.
    const pagesEnd = Math.ceil(end / PAGE_SIZE) * PAGE_SIZE;
    ranges.push({ start: remoteAddress(BigInt(at)), end: remoteAddress(BigInt(pagesEnd)) });
    at = end < size ? seekData(fd, end) : undefined;
  }
  return saveChunks(ranges, objref, writer, (part, buffer) => {
    let filled = 0;
    for (const { start, end } of part) {
      const length = Number(end - start);
      const read = readSync(fd, buffer, filled, length, Number(start));
      buffer.fill(0, filled + read, filled + length);
      filled += length;
    }
  });
}

async function* saveChunks(
  ranges: readonly AddressRange[],
  objref: number,
  writer: ImageWriter,
  fill: (part: readonly AddressRange[], buffer: Buffer) => void,
): AsyncGenerator<number> {
  for (const part of split(ranges, CHUNK_SIZE)) {
    const length = Number(part.reduce((sum, range) => sum + (range.end - range.start), 0n));
    const runs = part.map(({ start, end }) => ({ start, pages: Number((end - start) / PAGE) }));
    writer.record(recordType.pagemap, objref, PagemapSchema, { runs });
    await writer.pages(objref, length, (buffer) => fill(part, buffer));
    yield length / PAGE_SIZE;
  }
}

/** Cuts ranges into parts of at most `size` bytes each. */
export function* split(ranges: readonly AddressRange[], size: number): Generator<AddressRange[]> {
  const limit = BigInt(size);
  let part: AddressRange[] = [];
  let filled = 0n;
  for (const range of ranges) {
    let start: bigint = range.start;
    while (start < range.end) {
      const length = range.end - start < limit - filled ? range.end - start : limit - filled;
      part.push({ start: remoteAddress(start), end: remoteAddress(start + length) });
      start += length;
      filled += length;
      if (filled === limit) {
        yield part;
        part = [];
        filled = 0n;
      }
    }
  }
  if (part.length > 0) yield part;
}
