import type { Obstacle } from '../errors.js';
import { SeccompSchema } from '../image/generated/seccomp_pb.js';
import type { FrozenProcess, FrozenThread } from '../objects/frozenProcess.js';
import { taskKind } from '../objects/slice.js';
import { readProc } from '../procfs/read.js';
import { parseStatus } from '../procfs/status.js';
import { seccompMetadata, sockFprog } from '../sys/structs.js';
import { prctl, seccomp as uapi } from '../sys/uapi.js';

const INSTRUCTION_SIZE = 8;
/** BPF_MAXINSNS of linux/bpf_common.h. */
const MAX_INSTRUCTIONS = 4096;
/** BPF_RET | BPF_K. */
const RETURN_CONSTANT = 0x06;
const ACTION_MASK = 0xffff_0000;

interface Filter {
  readonly program: Uint8Array;
  readonly flags: number;
}

/** Seccomp modes and filters of a thread. Source: seccomp(2), PTRACE_SECCOMP_GET_FILTER in ptrace(2). */
export const seccomp = taskKind({
  kind: 'seccomp',
  recordType: 36,
  scope: 'thread',
  schema: SeccompSchema,

  refuse(thread) {
    const { tid, status } = thread;
    if (status.seccomp === 0) return [];
    if (ownSeccomp() !== 0) {
      return [
        {
          pid: tid,
          what: 'it is under seccomp, and so is stasis itself, which therefore can not ask it',
          advice: 'run stasis where no seccomp filter is set, on the host',
        },
      ];
    }
    return filtersOf(thread).flatMap((filter, index) => refuseFilter(tid, filter, index));
  },

  checkpoint(thread) {
    const { status, process } = thread;
    if (status.seccomp === 0) return () => undefined;
    const filters = filtersOf(thread);
    const common = countCommon(process);
    const isFirst = thread.tid === process.live;
    const message = {
      strict: status.seccomp === uapi.SECCOMP_MODE_STRICT,
      filters: filters
        .map((filter, index) => ({ ...filter, synchronize: index < common }))
        .filter(({ synchronize }) => isFirst || !synchronize),
    };
    return () => message;
  },

  validate({ filters }) {
    const index = filters.findIndex(
      ({ program: { length } }) =>
        length === 0 || length % INSTRUCTION_SIZE !== 0 || length > MAX_INSTRUCTIONS * INSTRUCTION_SIZE,
    );
    return index < 0
      ? undefined
      : {
          field: `filters[${index}].program`,
          problem: `${filters[index]?.program.length} bytes are no filter`,
        };
  },

  /** Seccomp is suspended in the task until it is released. */
  restart({ strict, filters }, calls) {
    for (const { program, flags, synchronize } of filters) {
      const bytes = sockFprog.encode({ len: program.length / INSTRUCTION_SIZE });
      const pointers = [{ at: sockFprog.offsets.filter, to: program }];
      const all = synchronize ? uapi.SECCOMP_FILTER_FLAG_TSYNC : 0;
      calls.call('seccomp', [uapi.SECCOMP_SET_MODE_FILTER, flags | all, { bytes, pointers }], {
        purpose: 'setting a seccomp filter',
        expect: 0,
      });
    }
    if (strict) calls.call('prctl', [prctl.PR_SET_SECCOMP, uapi.SECCOMP_MODE_STRICT, 0, 0, 0]);
  },
});

const known = new WeakMap<FrozenThread, readonly Filter[]>();

function filtersOf(thread: FrozenThread): readonly Filter[] {
  let filters = known.get(thread);
  if (filters === undefined) {
    filters = thread.status.seccomp === uapi.SECCOMP_MODE_FILTER ? readFilters(thread) : [];
    known.set(thread, filters);
  }
  return filters;
}

function readFilters({ tracee, status }: FrozenThread): Filter[] {
  // The kernel does not tell that flag, but what comes of it.
  const speculation = status.speculationForced ? 0 : uapi.SECCOMP_FILTER_FLAG_SPEC_ALLOW;
  const filters: Filter[] = [];
  for (;;) {
    const program = tracee.seccompFilter(filters.length);
    if (program === undefined) return filters;
    const { flags } = seccompMetadata.decode(tracee.seccompMetadata(filters.length));
    filters.push({ program, flags: Number(flags) | speculation });
  }
}

/** How many of their oldest filters all threads of a process have in common; 0 for a single thread. */
function countCommon({ threads, leaderEnd }: FrozenProcess): number {
  const [first, ...others] = threads.map(filtersOf);
  if (first === undefined || (others.length === 0 && leaderEnd === undefined)) return 0;
  const isCommon = (filter: Filter, index: number): boolean =>
    others.every((filters) => {
      const other = filters[index];
      return (
        other !== undefined &&
        other.flags === filter.flags &&
        Buffer.compare(other.program, filter.program) === 0
      );
    });
  const end = first.findIndex((filter, index) => !isCommon(filter, index));
  return end < 0 ? first.length : end;
}

/** Whoever decides over calls from outside is not in the image. */
function refuseFilter(pid: number, { program }: Filter, index: number): Obstacle[] {
  const bytes = Buffer.from(program);
  for (let at = 0; at < bytes.length; at += INSTRUCTION_SIZE) {
    const isNotify =
      bytes.readUInt16LE(at) === RETURN_CONSTANT &&
      (bytes.readUInt32LE(at + 4) & ACTION_MASK) >>> 0 === uapi.SECCOMP_RET_USER_NOTIF;
    if (!isNotify) continue;
    return [
      {
        pid,
        where: `seccomp filter ${index}`,
        what: 'it asks a supervisor in user space (SECCOMP_RET_USER_NOTIF)',
        advice: 'run it without such a filter; not supported yet',
      },
    ];
  }
  return [];
}

let own: number | undefined;

function ownSeccomp(): number {
  own ??= parseStatus(readProc('/proc/self/status')).seccomp;
  return own;
}
