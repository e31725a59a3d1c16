import { Vma_Kind } from '../../image/generated/mm_pb.js';
import type { ProcMapping } from '../../procfs/smaps.js';
import { madvise, mapFlag, prot } from '../../sys/uapi.js';

/** The kernel's own mapping that is in every address space at the same place and not of the process. */
export const VSYSCALL = '[vsyscall]';
const SPECIAL_NAMES = /^\[(vdso|vvar|vvar_[a-z]+)\]$/;

/** What kind of mapping a line of `/proc/PID/smaps` shows. */
export function vmaKind(mapping: ProcMapping): Vma_Kind {
  if (mapping.name.startsWith('[v') && SPECIAL_NAMES.test(mapping.name)) return Vma_Kind.SPECIAL;
  if (mapping.shared) {
    return isSharedAnonymous(mapping) ? Vma_Kind.SHARED_ANONYMOUS : Vma_Kind.SHARED_FILE;
  }
  return mapping.inode === 0n ? Vma_Kind.ANONYMOUS : Vma_Kind.PRIVATE_FILE;
}

/**
 * mm/shmem.c, shmem_zero_setup: shared anonymous memory is a removed file of that name. A file of shm_open(3) or
 * sem_open(3) that was removed is nothing else either.
 */
function isSharedAnonymous(mapping: ProcMapping): boolean {
  const { name } = mapping;
  return name === '/dev/zero (deleted)' || name.startsWith('[anon_shmem:') || isRemovedMemory(mapping);
}

/** A file in /dev/shm one of whose names was removed; it may have others. */
export function isRemovedMemory({ name }: ProcMapping): boolean {
  return name.startsWith('/dev/shm/') && name.endsWith(' (deleted)');
}

/** PROT_… of a mapping. */
export function protectionOf(mapping: ProcMapping): number {
  return (
    (mapping.read ? prot.PROT_READ : 0) |
    (mapping.write ? prot.PROT_WRITE : 0) |
    (mapping.execute ? prot.PROT_EXEC : 0)
  );
}

/** smaps flags that become flags of mmap(2). */
export const MAP_FLAGS: Readonly<Record<string, number>> = {
  gd: mapFlag.MAP_GROWSDOWN,
  lo: mapFlag.MAP_LOCKED,
  nr: mapFlag.MAP_NORESERVE,
};

/** smaps flags that become advice of madvise(2). */
export const ADVICE: Readonly<Record<string, number>> = {
  dc: madvise.MADV_DONTFORK,
  dd: madvise.MADV_DONTDUMP,
  hg: madvise.MADV_HUGEPAGE,
  nh: madvise.MADV_NOHUGEPAGE,
  mg: madvise.MADV_MERGEABLE,
  wf: madvise.MADV_WIPEONFORK,
  rr: madvise.MADV_RANDOM,
  sr: madvise.MADV_SEQUENTIAL,
};

/** smaps flags that stand for something that can't be brought back, in words. */
export const REFUSED_FLAGS: Readonly<Record<string, string>> = {
  ht: 'huge pages of hugetlbfs (MAP_HUGETLB)',
  um: 'memory watched by a userfaultfd',
  uw: 'memory write-protected by a userfaultfd',
  ui: 'memory watched by a userfaultfd',
  ss: 'a shadow stack',
  sl: 'sealed memory (mseal)',
  pf: 'memory of a device',
  io: 'memory of a device',
};

/** What is done with a set of flags. */
export interface FlagsMeaning {
  /** Those that are brought back, in the order of the tables above. */
  readonly kept: string[];
  /** What can't be brought back, in words. */
  readonly refused: readonly string[];
}

const meanings = new WeakMap<ReadonlySet<string>, FlagsMeaning>();

/** What is done with a mapping's flags. The parser makes one set for all mappings that have the same. */
export function meaningOf({ flags }: ProcMapping): FlagsMeaning {
  let meaning = meanings.get(flags);
  if (meaning === undefined) {
    meaning = {
      kept: [...Object.keys(MAP_FLAGS), ...Object.keys(ADVICE)].filter((flag) => flags.has(flag)),
      refused: Object.entries(REFUSED_FLAGS).flatMap(([flag, what]) => (flags.has(flag) ? [what] : [])),
    };
    meanings.set(flags, meaning);
  }
  return meaning;
}

/** The name given with PR_SET_VMA, out of `[anon:NAME]`. */
export function anonymousName(name: string): string | undefined {
  return /^\[anon:(.*)\]$/.exec(name)?.[1];
}
