import { type Obstacle, RestartFailedError } from '../errors.js';
import { type PosixTimers_Timer, PosixTimersSchema } from '../image/generated/timers_pb.js';
import type { FrozenProcess } from '../objects/frozenProcess.js';
import { taskKind } from '../objects/slice.js';
import { readProcIfAlive } from '../procfs/read.js';
import { type ProcTimer, parseTimers } from '../procfs/timers.js';
import { nr } from '../sys/arch/index.js';
import { clockNow } from '../sys/clock.js';
import { itimerspec, sigevent, timespec } from '../sys/structs.js';
import { trySyscall } from '../sys/syscall.js';
import { NSIG, prctl } from '../sys/uapi.js';
import { type RemoteCalls, RemoteOutput } from '../tracee/remoteCalls.js';

const NANOSECONDS = 1_000_000_000n;
const CLOCK_THREAD_CPUTIME_ID = 3;
const SIGEV_SIGNAL = 0;
const SIGEV_NONE = 1;
const SIGEV_THREAD_ID = 4;
const TIMER_ABSTIME = 1;
const ID_SIZE = 4;
const SIGSET_SIZE = 8;
/** Of siginfo_t, bytes. Source: asm-generic/siginfo.h. */
export const SI_OVERRUN = 20;
const MAX_OVERRUN = 0x7fff_ffff;
/** For the signal of a timer that was set to expire at once. */
const SIGNAL_TIMEOUT_NANOSECONDS = 100_000_000n;
/** Of asm-generic/siginfo.h, padding included; bytes. */
const SIGEVENT_SIZE = 64;
/** Without the kernel's help an id is reached by making and deleting all before it. */
const MAX_COUNTED_ID = 1_000_000;
const COUNTED_AT_ONCE = 100;

/** Timers of a process, with their ids. Source: timer_create(2). */
export const posixTimers = taskKind({
  kind: 'posixTimers',
  recordType: 22,
  scope: 'process',
  schema: PosixTimersSchema,

  refuse(process) {
    return readTimers(process).flatMap((timer) => refuseTimer(timer, process));
  },

  checkpoint(process, calls) {
    const questions = readTimers(process).map((timer) => {
      const output = new RemoteOutput(itimerspec.size);
      calls.call('timer_gettime', [timer.id, output]);
      return { timer, output, lastOverrun: calls.call('timer_getoverrun', [timer.id]) };
    });
    if (questions.length === 0) return () => undefined;
    const pending = pendingTimerSignals(process);
    return () => ({
      timers: questions.map(({ timer, output, lastOverrun }) => {
        const { interval_sec, interval_nsec, value_sec, value_nsec } = itimerspec.decode(output.bytes);
        const { id, clock, signal, value, target, notify } = timer;
        const thread = process.threads.find(({ tid }) => tid === target.id)?.ownTid ?? 0;
        const isGone = target.kind === 'tid' && thread === 0;
        const taken = pending.get(id);
        return {
          id,
          clock,
          // A thread that has ended is told nothing.
          notify: isGone ? SIGEV_NONE : notify | (target.kind === 'tid' ? SIGEV_THREAD_ID : 0),
          signal,
          value,
          thread: target.kind === 'tid' ? thread : 0,
          intervalNanoseconds: interval_sec * NANOSECONDS + interval_nsec,
          remainingNanoseconds: value_sec * NANOSECONDS + value_nsec,
          overrun:
            taken === undefined
              ? Math.max(lastOverrun.value, 0)
              : taken + process.held.overrun(process.pid, id),
          signalPending: taken !== undefined,
        };
      }),
    });
  },

  validate({ timers }) {
    let last = -1;
    for (const [index, { id, signal, notify, overrun }] of timers.entries()) {
      const field = `timers[${index}]`;
      if (id <= last) return { field: `${field}.id`, problem: `${id} comes after ${last}` };
      if (signal > NSIG) return { field: `${field}.signal`, problem: `there is no signal ${signal}` };
      if (notify > 7) return { field: `${field}.notify`, problem: `${notify} is not known` };
      if (overrun > MAX_OVERRUN) return { field: `${field}.overrun`, problem: `${overrun} is too much` };
      last = id;
    }
    return undefined;
  },

  verify({ timers }, pid) {
    const last = timers.at(-1)?.id ?? 0;
    if (keepsIds() || last <= MAX_COUNTED_ID) return [];
    return [
      { pid, what: `a POSIX timer has the id ${last}`, advice: 'restart it under Linux 6.15 or later' },
    ];
  },

  restart({ timers }, calls, { ownPid }) {
    if (keepsIds()) createWithIds(timers, calls);
    else createCounting(timers, calls);
    const hasOverrun = (timer: PosixTimers_Timer): boolean => canTellOverrun(timer, ownPid);
    for (const timer of timers.filter(hasOverrun)) {
      arm(timer, calls);
      takeSignal(timer, calls);
    }
    for (const timer of timers) if (!hasOverrun(timer)) arm(timer, calls);
  },
});

function readTimers({ live }: FrozenProcess): ProcTimer[] {
  return parseTimers(readProcIfAlive(`/proc/${live}/timers`) ?? '').sort((a, b) => a.id - b.id);
}

/** The kernel does not tell whose time a timer of that clock counts. */
function refuseTimer({ id, clock }: ProcTimer, { pid, threads, leaderEnd }: FrozenProcess): Obstacle[] {
  const isAlone = threads.length === 1 && leaderEnd === undefined;
  if (!isOwnThreadClock(clock) || isAlone) return [];
  return [
    {
      pid,
      where: `POSIX timer ${id}`,
      what: 'it counts the processor time of a thread, and the kernel does not tell of which',
      advice: 'make it with the clock of pthread_getcpuclockid(3), which names the thread',
    },
  ];
}

/** That of whoever makes the timer: by its number, or as a clock of a thread without saying which (linux/posix-timers.h). */
function isOwnThreadClock(clock: number): boolean {
  const PER_THREAD = 4;
  return (
    clock === CLOCK_THREAD_CPUTIME_ID || (clock < 0 && (clock & PER_THREAD) !== 0 && ~(clock >> 3) === 0)
  );
}

let idsAreKept: boolean | undefined;

/** Whether the kernel makes timers with the ids that it is told. Linux 6.15 and later. */
function keepsIds(): boolean {
  idsAreKept ??=
    trySyscall(nr.prctl, prctl.PR_TIMER_CREATE_RESTORE_IDS, prctl.PR_TIMER_CREATE_RESTORE_IDS_GET, 0, 0, 0) >=
    0;
  return idsAreKept;
}

function createWithIds(timers: readonly PosixTimers_Timer[], calls: RemoteCalls): void {
  const keep = (state: number) => calls.call('prctl', [prctl.PR_TIMER_CREATE_RESTORE_IDS, state, 0, 0, 0]);
  keep(prctl.PR_TIMER_CREATE_RESTORE_IDS_ON);
  for (const timer of timers) {
    const id = Buffer.alloc(ID_SIZE);
    id.writeInt32LE(timer.id);
    queueCreate(timer, id, calls);
  }
  keep(prctl.PR_TIMER_CREATE_RESTORE_IDS_OFF);
}

/** A process counts the timers that it makes: ids that are not wanted are passed over. */
function createCounting(timers: readonly PosixTimers_Timer[], calls: RemoteCalls): void {
  let next = 0;
  for (const timer of timers) {
    while (next <= timer.id) {
      const made = Array.from({ length: Math.min(COUNTED_AT_ONCE, timer.id - next + 1) }, () => {
        const id = new RemoteOutput(ID_SIZE);
        queueCreate(timer, id, calls);
        return id;
      });
      calls.flush();
      const ids = made.map(({ bytes }) => bytes.readInt32LE(0));
      for (const id of ids) if (id !== timer.id) calls.call('timer_delete', [id]);
      next = (ids.at(-1) ?? timer.id) + 1;
      if (next > timer.id && !ids.includes(timer.id)) {
        throw new RestartFailedError(`POSIX timer ${timer.id} could not be made`, {
          reason: `the kernel gave its timers the ids ${ids.join(', ')}`,
          advice: 'restart it under Linux 6.15 or later',
        });
      }
    }
  }
}

function queueCreate(timer: PosixTimers_Timer, id: Uint8Array | RemoteOutput, calls: RemoteCalls): void {
  const event = Buffer.alloc(SIGEVENT_SIZE);
  sigevent
    .encode({ value: timer.value, signo: timer.signal, notify: timer.notify, tid: timer.thread })
    .copy(event);
  calls.call('timer_create', [timer.clock, event, id], { purpose: `making POSIX timer ${timer.id}` });
}

/**
 * A timer that has expired before its signal is taken, or with overruns, is armed for the moment at which it began
 * to: the kernel then finds by itself what it has missed since.
 */
function arm(timer: PosixTimers_Timer, calls: RemoteCalls): void {
  const { id, clock, intervalNanoseconds: interval, remainingNanoseconds: remaining } = timer;
  let value = remaining;
  let flags = 0;
  if (hasExpired(timer)) {
    const next = clockNow(clock) + remaining;
    // On a machine that has just started, the time may not go back that far.
    const missed = interval === 0n ? 0n : smaller(BigInt(timer.overrun) + 1n, (next - 1n) / interval);
    value = interval === 0n ? 1n : next - missed * interval;
    flags = TIMER_ABSTIME;
  }
  if (value === 0n) return;
  const setting = itimerspec.encode({
    interval_sec: interval / NANOSECONDS,
    interval_nsec: interval % NANOSECONDS,
    value_sec: value / NANOSECONDS,
    value_nsec: value % NANOSECONDS,
  });
  calls.call('timer_settime', [id, flags, setting, 0], { purpose: `arming POSIX timer ${id}` });
}

function hasExpired({ clock, overrun, signalPending }: PosixTimers_Timer): boolean {
  return hasTimeOfDay(clock) && (overrun > 0 || signalPending);
}

/** Takes the signal of a timer that has just expired, as the program had: what it missed is then told of that. */
function takeSignal({ signal }: PosixTimers_Timer, calls: RemoteCalls): void {
  const set = Buffer.alloc(SIGSET_SIZE);
  set.writeBigUInt64LE(1n << BigInt(signal - 1));
  const timeout = timespec.encode({ tv_sec: 0n, tv_nsec: SIGNAL_TIMEOUT_NANOSECONDS });
  calls.call('rt_sigtimedwait', [set, 0, timeout, SIGSET_SIZE], { mayFail: true });
}

/** Whether timer_getoverrun(2) can tell the same as before: the first thread takes signals of its own. */
function canTellOverrun(timer: PosixTimers_Timer, leader: number): boolean {
  const { notify, signal, thread, overrun, signalPending, intervalNanoseconds, remainingNanoseconds } = timer;
  if (signalPending || overrun === 0 || !hasExpired(timer) || signal === 0) return false;
  if (intervalNanoseconds === 0n || remainingNanoseconds === 0n) return false;
  return notify === SIGEV_SIGNAL || (notify === SIGEV_THREAD_ID && thread === leader);
}

/**
 * The timers of a process whose signals are pending, and that queue them again by themselves; with the overruns that
 * the pending signals tell of.
 */
export function pendingTimerSignals(process: FrozenProcess): ReadonlyMap<number, number> {
  const { threads } = process;
  const queued = [
    ...(threads[0]?.tracee.peekPendingSignals('shared') ?? []),
    ...threads.flatMap(({ tracee }) => tracee.peekPendingSignals('thread')),
  ].flatMap((siginfo) => timerOf(siginfo) ?? []);
  if (queued.length === 0) return new Map();
  const able = new Set(readTimers(process).flatMap(({ id, clock }) => (hasTimeOfDay(clock) ? [id] : [])));
  return new Map(queued.filter(({ id }) => able.has(id)).map(({ id, overrun }) => [id, overrun]));
}

/** Of which timer a signal tells. Source: asm-generic/siginfo.h. */
export function timerOf(siginfo: Uint8Array): { readonly id: number; readonly overrun: number } | undefined {
  const SI_TIMER = -2;
  const info = Buffer.from(siginfo.buffer, siginfo.byteOffset, siginfo.length);
  if (info.readInt32LE(8) !== SI_TIMER) return undefined;
  return { id: info.readInt32LE(16), overrun: info.readInt32LE(SI_OVERRUN) };
}

/** Clocks that go on whether anybody runs or not. */
function hasTimeOfDay(clock: number): boolean {
  const CLOCK_REALTIME = 0;
  const CLOCK_MONOTONIC = 1;
  const CLOCK_BOOTTIME = 7;
  const CLOCK_TAI = 11;
  return [CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_BOOTTIME, CLOCK_TAI].includes(clock);
}

function smaller(one: bigint, other: bigint): bigint {
  return one < other ? one : other;
}
