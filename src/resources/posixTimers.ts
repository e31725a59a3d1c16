import { type Obstacle, RestartFailedError } from '../errors.js';
import { type PosixTimers_Timer, PosixTimersSchema } from '../image/generated/timers_pb.js';
import type { FrozenProcess } from '../objects/frozenProcess.js';
import { taskKind } from '../objects/slice.js';
import { readProcIfAlive } from '../procfs/read.js';
import { type ProcTimer, parseTimers } from '../procfs/timers.js';
import { nr } from '../sys/arch/index.js';
import { itimerspec, sigevent } from '../sys/structs.js';
import { trySyscall } from '../sys/syscall.js';
import { NSIG, prctl } from '../sys/uapi.js';
import { type RemoteCalls, RemoteOutput } from '../tracee/remoteCalls.js';

const NANOSECONDS = 1_000_000_000n;
const CLOCK_THREAD_CPUTIME_ID = 3;
const SIGEV_NONE = 1;
const SIGEV_THREAD_ID = 4;
const ID_SIZE = 4;
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
      return { timer, output };
    });
    if (questions.length === 0) return () => undefined;
    return () => ({
      timers: questions.map(({ timer, output }) => {
        const { interval_sec, interval_nsec, value_sec, value_nsec } = itimerspec.decode(output.bytes);
        const { id, clock, signal, value, target, notify } = timer;
        const thread = process.threads.find(({ tid }) => tid === target.id)?.ownTid ?? 0;
        const isGone = target.kind === 'tid' && thread === 0;
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
        };
      }),
    });
  },

  validate({ timers }) {
    let last = -1;
    for (const [index, { id, signal, notify }] of timers.entries()) {
      const field = `timers[${index}]`;
      if (id <= last) return { field: `${field}.id`, problem: `${id} comes after ${last}` };
      if (signal > NSIG) return { field: `${field}.signal`, problem: `there is no signal ${signal}` };
      if (notify > 7) return { field: `${field}.notify`, problem: `${notify} is not known` };
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

  restart({ timers }, calls) {
    if (keepsIds()) createWithIds(timers, calls);
    else createCounting(timers, calls);
    for (const timer of timers) arm(timer, calls);
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

function arm(timer: PosixTimers_Timer, calls: RemoteCalls): void {
  const { id, intervalNanoseconds, remainingNanoseconds } = timer;
  if (remainingNanoseconds === 0n) return;
  const value = itimerspec.encode({
    interval_sec: intervalNanoseconds / NANOSECONDS,
    interval_nsec: intervalNanoseconds % NANOSECONDS,
    value_sec: remainingNanoseconds / NANOSECONDS,
    value_nsec: remainingNanoseconds % NANOSECONDS,
  });
  calls.call('timer_settime', [id, 0, value, 0], { purpose: `arming POSIX timer ${id}` });
}
