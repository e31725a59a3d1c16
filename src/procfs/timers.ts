import { ProcFormatError } from '../errors.js';

/** A timer of timer_create(2), as `/proc/PID/timers` tells of it. */
export interface ProcTimer {
  readonly id: number;
  readonly signal: number;
  /** `sigev_value`. */
  readonly value: bigint;
  /** `SIGEV_…`, without SIGEV_THREAD_ID. */
  readonly notify: number;
  /** Of whom it tells: a process, or a thread. 0 when that has ended. */
  readonly target: { readonly kind: 'pid' | 'tid'; readonly id: number };
  /** Negative for the clock of a certain task. */
  readonly clock: number;
}

const TIMER =
  /^ID: (\d+)\nsignal: (\d+)\/([0-9a-f]+|\(null\))\nnotify: (signal|none|thread)\/(pid|tid)\.(-?\d+)\nClockID: (-?\d+)\n/;
const NOTIFY: Readonly<Record<string, number>> = { signal: 0, none: 1, thread: 2 };

/** Parses `/proc/PID/timers`. Source: proc_pid_timers(5). Throws ProcFormatError. */
export function parseTimers(text: string): ProcTimer[] {
  const timers: ProcTimer[] = [];
  for (let rest = text; rest !== ''; ) {
    const match = TIMER.exec(rest);
    if (match === null) throw new ProcFormatError('timers', `'${rest.split('\n')[0]}' begins no timer`);
    const [whole, id, signal, value, notify = '', kind, target, clock] = match;
    timers.push({
      id: Number(id),
      signal: Number(signal),
      value: value === '(null)' ? 0n : BigInt(`0x${value}`),
      notify: NOTIFY[notify] ?? 0,
      target: { kind: kind === 'tid' ? 'tid' : 'pid', id: Math.max(Number(target), 0) },
      clock: Number(clock),
    });
    rest = rest.slice(whole.length);
  }
  return timers;
}
