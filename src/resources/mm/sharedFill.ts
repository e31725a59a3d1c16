import { TaskLostError } from '../../errors.js';
import { nr } from '../../sys/arch/index.js';
import { iovec } from '../../sys/structs.js';
import { check, syscallInBackground } from '../../sys/syscall.js';
import { mapFlag, PAGE_SIZE, prot } from '../../sys/uapi.js';
import type { PageRecord } from '../loadImage.js';

/** Pages from which on it pays that two processors fill an address space. */
const SHARED_PAGES = 8192;
/** Records of a round for each of the two: more than one round of system calls costs, and few enough for one program. */
const ROUND_RECORDS = 120;
/** IOV_MAX of limits.h. */
const MAX_VECTORS = 1024;

/** Pages that are brought into an address space at the same time. */
export interface FillRound {
  /** What the task itself reads from the image. */
  readonly read: readonly PageRecord[];
  /** What is written into it from outside meanwhile. */
  readonly written: readonly PageRecord[];
}

/** Divides the pages of a large address space in two halves; those of a small one are all read. */
export function planFill(records: readonly PageRecord[]): FillRound[] {
  const total = records.reduce((sum, record) => sum + pagesOf(record), 0);
  if (total < SHARED_PAGES) return [{ read: records, written: [] }];
  const rounds: FillRound[] = [];
  for (let i = 0; i < records.length; i += 2 * ROUND_RECORDS) {
    const both = records.slice(i, i + 2 * ROUND_RECORDS);
    const half = Math.ceil(both.length / 2);
    rounds.push({ read: both.slice(0, half), written: both.slice(half) });
  }
  return rounds;
}

/**
 * Copies pages from the image into a process on another thread than this one. Making the pages is most of
 * the work, and the kernel does it for two processors at a time: a gigabyte takes about half of the time.
 * Source: process_vm_writev(2).
 */
export async function writePages(
  pid: number,
  imageFd: number,
  records: readonly PageRecord[],
): Promise<void> {
  const start = records[0]?.offset ?? 0;
  const end = records.reduce((last, record) => Math.max(last, record.offset + sizeOf(record)), start);
  if (end === start) return;
  const window = await syscallInBackground(
    nr.mmap,
    0,
    end - start,
    prot.PROT_READ,
    mapFlag.MAP_SHARED,
    imageFd,
    start,
  );
  check(window, 'mmap', 'the image');
  try {
    for (const record of records) await writeRecord(pid, window + record.offset - start, record);
  } finally {
    await syscallInBackground(nr.munmap, window, end - start);
  }
}

async function writeRecord(pid: number, address: number, { runs }: PageRecord): Promise<void> {
  let source = address;
  for (let i = 0; i < runs.length; i += MAX_VECTORS) {
    const part = runs.slice(i, i + MAX_VECTORS);
    const remote = Buffer.concat(part.map(({ start, pages }) => vector(start, pages * PAGE_SIZE)));
    const length = part.reduce((sum, { pages }) => sum + pages, 0) * PAGE_SIZE;
    const local = vector(BigInt(source), length);
    const written = await syscallInBackground(nr.process_vm_writev, pid, local, 1, remote, part.length, 0);
    if (check(written, 'process_vm_writev', `process ${pid}`) !== length) {
      throw new TaskLostError(pid, `writing pages into process ${pid} fell short`, {
        reason: `process_vm_writev returned ${written} instead of ${length}`,
      });
    }
    source += length;
  }
}

function vector(start: bigint, length: number): Uint8Array {
  return iovec.encode({ iov_base: start, iov_len: BigInt(length) });
}

function pagesOf({ runs }: PageRecord): number {
  return runs.reduce((sum, { pages }) => sum + pages, 0);
}

function sizeOf(record: PageRecord): number {
  return pagesOf(record) * PAGE_SIZE;
}
