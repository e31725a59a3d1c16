import { closeSync, existsSync, openSync, readdirSync } from 'node:fs';
import { release } from 'node:os';
import { Walker } from './bpf/walk.js';
import { hasCapability } from './objects/privileges.js';
import { readVdso } from './objects/vdso.js';
import { nr } from './sys/arch/index.js';
import { errno } from './sys/errno.js';
import { cloneArgs, pmScanArg } from './sys/structs.js';
import { addressOf, trySyscall } from './sys/syscall.js';
import { capability, kcmpType, open, PAGE_SIZE, pagemap, prctl } from './sys/uapi.js';

/** One thing that Stasis uses, whether it is there, and what its absence costs. */
export interface FeatureReport {
  readonly name: string;
  readonly available: boolean;
  /** Nothing works without it. */
  readonly required: boolean;
  /** What can't be done, or is done in another way, without it. */
  readonly without: string;
}

/** What `stasis check --json` prints. */
export interface CheckReport {
  readonly kernelRelease: string;
  readonly architecture: string;
  /** Whether everything required is there. */
  readonly usable: boolean;
  readonly features: readonly FeatureReport[];
}

/** Tries out what this kernel and these privileges allow. Changes nothing. */
export function check(): CheckReport {
  const features = FEATURES.map(({ name, test, required = false, without }) => ({
    name,
    available: test(),
    required,
    without,
  }));
  return {
    kernelRelease: release(),
    architecture: process.arch,
    usable: features.every(({ available, required }) => available || !required),
    features,
  };
}

interface Feature {
  readonly name: string;
  readonly test: () => boolean;
  readonly required?: boolean;
  readonly without: string;
}

const PID_NEVER_FREE = 1;

const FEATURES: readonly Feature[] = [
  {
    name: 'x86_64',
    test: () => process.arch === 'x64',
    required: true,
    without: 'no other architecture is supported yet',
  },
  {
    name: 'CAP_SYS_PTRACE',
    test: () => hasCapability(capability.CAP_SYS_PTRACE),
    required: true,
    without: 'no task can be held',
  },
  {
    name: 'CAP_SYS_ADMIN',
    test: () => hasCapability(capability.CAP_SYS_ADMIN),
    required: true,
    without: 'no mapped file can be reached, and no pid chosen',
  },
  {
    name: 'CAP_SYS_RESOURCE',
    test: () => hasCapability(capability.CAP_SYS_RESOURCE),
    without: 'a hard limit above that of stasis itself comes back lower, with a warning',
  },
  {
    name: 'kcmp',
    test: () => trySyscall(nr.kcmp, process.pid, process.pid, kcmpType.KCMP_VM, 0, 0) === 0,
    required: true,
    without: 'nobody can tell which tasks share a file or a table (CONFIG_KCMP)',
  },
  {
    name: 'clone3 with set_tid',
    test: canChoosePids,
    required: true,
    without: 'restarted tasks can not have their pids',
  },
  {
    name: 'pidfd_getfd',
    test: () => trySyscall(nr.pidfd_getfd, -1, 0, 0) === -errno.EBADF,
    required: true,
    without: 'pipes can not be looked into, and files not handed over',
  },
  {
    name: '/proc/PID/map_files',
    test: canOpenMappedFiles,
    required: true,
    without: 'shared memory can not be saved (CONFIG_CHECKPOINT_RESTORE)',
  },
  {
    name: 'PR_SET_MM_MAP',
    test: canSetMemoryMap,
    required: true,
    without: 'heap, arguments and executable can not be brought back (CONFIG_CHECKPOINT_RESTORE)',
  },
  {
    name: '/proc/PID/task/TID/children',
    test: () => existsSync(`/proc/self/task/${process.pid}/children`),
    without: 'all of /proc is searched for children, which takes longer',
  },
  {
    name: 'PAGEMAP_SCAN',
    test: canScanPagemap,
    without: 'pages are found by reading /proc/PID/pagemap, which takes longer (Linux 6.7 has it)',
  },
  {
    name: 'BPF iterators and BTF',
    test: () => succeeds(() => Walker.load()),
    without: "leaks are found by what /proc shows, without the kernel's counts (CAP_BPF, CAP_PERFMON)",
  },
  {
    name: 'vdso',
    test: () => readVdso() !== undefined,
    required: true,
    without: 'nothing can be asked of a task (boot without vdso=0)',
  },
  {
    name: 'files without names (O_TMPFILE)',
    test: () => succeeds(() => closeSync(openSync('.', open.O_TMPFILE | open.O_RDWR, 0o600))),
    without: 'in this directory an unfinished image has a name, ending in .partial, until it is complete',
  },
];

/** set_tid with a pid that is taken: EEXIST says that it would have been allowed. */
function canChoosePids(): boolean {
  const wanted = Buffer.alloc(4);
  wanted.writeInt32LE(PID_NEVER_FREE);
  const args = cloneArgs.encode({ set_tid_size: 1n });
  args.writeBigUInt64LE(addressOf(wanted), cloneArgs.offsets.set_tid);
  return trySyscall(nr.clone3, args, cloneArgs.size) === -errno.EEXIST;
}

function canOpenMappedFiles(): boolean {
  return succeeds(() => {
    const first = readdirSync('/proc/self/map_files')[0];
    closeSync(openSync(`/proc/self/map_files/${first}`, 'r'));
  });
}

/** Whether a probe goes through; that it does not is the answer, and the table says what it means. */
function succeeds(probe: () => void): boolean {
  try {
    probe();
    return true;
  } catch (error) {
    if (error instanceof Error && 'code' in error) return false;
    throw error;
  }
}

/** prctl(2): PR_SET_MM_MAP_SIZE tells the size of the structure without setting anything. */
function canSetMemoryMap(): boolean {
  return trySyscall(nr.prctl, prctl.PR_SET_MM, prctl.PR_SET_MM_MAP_SIZE, Buffer.alloc(4), 0, 0) === 0;
}

function canScanPagemap(): boolean {
  const fd = openSync('/proc/self/pagemap', 'r');
  try {
    const argument = pmScanArg.encode({
      size: BigInt(pmScanArg.size),
      start: BigInt(PAGE_SIZE),
      end: BigInt(2 * PAGE_SIZE),
      category_anyof_mask: pagemap.PAGE_IS_PRESENT,
      return_mask: pagemap.PAGE_IS_PRESENT,
    });
    return trySyscall(nr.ioctl, fd, pagemap.PAGEMAP_SCAN, argument) >= 0;
  } finally {
    closeSync(fd);
  }
}
