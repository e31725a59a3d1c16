import { nr } from './arch/index.js';
import { check, trySyscall } from './syscall.js';

const NANOSECONDS = 1_000_000_000n;
const buffer = Buffer.alloc(16);

/** The time of a clock, nanoseconds. Source: clock_gettime(2). */
export function clockNow(clock: number): bigint {
  check(trySyscall(nr.clock_gettime, clock, buffer), 'clock_gettime', `clock ${clock}`);
  return buffer.readBigInt64LE(0) * NANOSECONDS + buffer.readBigInt64LE(8);
}
