import { IntervalTimersSchema } from '../image/generated/timers_pb.js';
import { taskKind } from '../objects/slice.js';
import { itimerval } from '../sys/structs.js';
import { RemoteOutput } from '../tracee/remoteCalls.js';

const TIMERS = [0, 1, 2];
const MICROSECONDS = 1_000_000n;

/** The three interval timers of a process. Source: setitimer(2). */
export const intervalTimers = taskKind({
  kind: 'intervalTimers',
  recordType: 19,
  scope: 'process',
  schema: IntervalTimersSchema,

  checkpoint(_process, calls) {
    const questions = TIMERS.map((which) => {
      const output = new RemoteOutput(itimerval.size);
      calls.call('getitimer', [which, output]);
      return { which, output };
    });
    return () => {
      const timers = questions
        .map(({ which, output }) => {
          const timer = itimerval.decode(output.bytes);
          return {
            which,
            intervalMicroseconds: timer.interval_sec * MICROSECONDS + timer.interval_usec,
            remainingMicroseconds: timer.value_sec * MICROSECONDS + timer.value_usec,
          };
        })
        .filter((timer) => timer.remainingMicroseconds !== 0n || timer.intervalMicroseconds !== 0n);
      return timers.length === 0 ? undefined : { timers };
    };
  },

  restart({ timers }, calls) {
    for (const { which, intervalMicroseconds, remainingMicroseconds } of timers) {
      // A periodic timer has nothing left while its signal is pending: the kernel arms it again on delivery.
      const remaining = remainingMicroseconds === 0n ? intervalMicroseconds : remainingMicroseconds;
      const value = itimerval.encode({
        interval_sec: intervalMicroseconds / MICROSECONDS,
        interval_usec: intervalMicroseconds % MICROSECONDS,
        value_sec: remaining / MICROSECONDS,
        value_usec: remaining % MICROSECONDS,
      });
      calls.call('setitimer', [which, value, 0], { purpose: `arming interval timer ${which}` });
    }
  },
});
