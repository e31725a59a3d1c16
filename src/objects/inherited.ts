import { parseLimits } from '../procfs/limits.js';
import { readProc, readProcIfAlive } from '../procfs/read.js';
import { parseStatus } from '../procfs/status.js';
import { nr } from '../sys/arch/index.js';
import { check, trySyscall } from '../sys/syscall.js';
import type { InheritedState } from './slice.js';

const MAX_CPU_BYTES = 1024;

/** The state of this process, which tasks that it makes begin with. */
export function readInheritedState(): InheritedState {
  const loginUid = readProcIfAlive('/proc/self/loginuid');
  return {
    status: parseStatus(readProc('/proc/self/status')),
    limits: parseLimits(readProc('/proc/self/limits')),
    affinity: readAffinity(0),
    coredumpFilter: `0x${(readProcIfAlive('/proc/self/coredump_filter') ?? '0').trim()}`,
    oomScoreAdjustment: readProc('/proc/self/oom_score_adj').trim(),
    loginUid: loginUid === undefined ? undefined : Number(loginUid),
  };
}

/** The CPUs that a thread may run on, one bit each; 0 is the caller. Source: sched_getaffinity(2). */
export function readAffinity(tid: number): Uint8Array {
  const mask = Buffer.alloc(MAX_CPU_BYTES);
  const size = check(
    trySyscall(nr.sched_getaffinity, tid, mask.length, mask),
    'sched_getaffinity',
    `task ${tid}`,
  );
  return mask.subarray(0, size);
}
