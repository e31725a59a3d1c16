import type { Obstacle } from '../errors.js';
import { PendingSignalsSchema } from '../image/generated/pending_signals_pb.js';
import type { FrozenProcess } from '../objects/frozenProcess.js';
import { taskKind } from '../objects/slice.js';
import { NSIG } from '../sys/uapi.js';
import { RESTART_END_SIGNAL } from '../tracee/stub.js';
import { pendingTimerSignals, SI_OVERRUN, timerOf } from './posixTimers.js';

const SIGINFO_SIZE = 128;

/** Signals pending for a process as a whole, with their siginfo, in order. Source: ptrace(2) PEEKSIGINFO. */
export const sharedPendingSignals = taskKind({
  kind: 'sharedPendingSignals',
  recordType: 21,
  scope: 'process',
  schema: PendingSignalsSchema,
  refuse: ({ pid, status }) => refuseEndSignal(pid, status.sharedPendingSignals),
  checkpoint(process) {
    const siginfo = process.threads[0]?.tracee.peekPendingSignals('shared') ?? [];
    return () => toSave(siginfo, process);
  },
  validate: validateSiginfo,
  // The kernel lets a task queue any siginfo to itself: nothing in it needs to be changed.
  restart({ siginfo }, calls, { ownPid }) {
    for (const info of siginfo) calls.call('rt_sigqueueinfo', [ownPid, signalNumber(info), info]);
  },
});

/** Signals pending for one thread. */
export const pendingSignals = taskKind({
  kind: 'pendingSignals',
  recordType: 34,
  scope: 'thread',
  schema: PendingSignalsSchema,
  refuse: ({ tid, status }) => refuseEndSignal(tid, status.pendingSignals),
  checkpoint({ tracee, process }) {
    const siginfo = tracee.peekPendingSignals('thread');
    return () => toSave(siginfo, process);
  },
  validate: validateSiginfo,
  restart({ siginfo }, calls, { ownPid, ownTid }) {
    for (const info of siginfo) {
      calls.call('rt_tgsigqueueinfo', [ownPid, ownTid, signalNumber(info), info]);
    }
  },
});

/** All but those that timers queue again by themselves. */
function toSave(
  siginfo: readonly Uint8Array[],
  process: FrozenProcess,
): { siginfo: Uint8Array[] } | undefined {
  if (siginfo.length === 0) return undefined;
  const byTimers = pendingTimerSignals(process);
  const saved = siginfo.filter((info) => !byTimers.has(timerOf(info)?.id ?? -1));
  if (saved.length === 0) return undefined;
  return { siginfo: saved.map((info) => withOverrun(info, process)) };
}

/**
 * The signal of a timer tells, when it is taken, how often the timer has expired meanwhile. Until then the kernel
 * counts that elsewhere; the timer itself goes on counting from here.
 */
function withOverrun(siginfo: Uint8Array, { pid, held }: FrozenProcess): Uint8Array {
  const timer = timerOf(siginfo);
  if (timer === undefined) return siginfo;
  const info = Buffer.from(siginfo);
  info.writeInt32LE(timer.overrun + held.overrun(pid, timer.id), SI_OVERRUN);
  return info;
}

function signalNumber(siginfo: Uint8Array): number {
  return Buffer.from(siginfo.buffer, siginfo.byteOffset, siginfo.length).readInt32LE(0);
}

/** A restart uses that signal itself until the tasks are released. */
function refuseEndSignal(pid: number, pending: bigint): Obstacle[] {
  if ((pending & (1n << BigInt(RESTART_END_SIGNAL - 1))) === 0n) return [];
  return [
    {
      pid,
      what: `signal ${RESTART_END_SIGNAL} is pending`,
      advice: 'checkpoint when the program has taken it',
    },
  ];
}

function validateSiginfo({
  siginfo,
}: {
  readonly siginfo: readonly Uint8Array[];
}): { field: string; problem: string } | undefined {
  for (const [index, info] of siginfo.entries()) {
    const field = `siginfo[${index}]`;
    if (info.length !== SIGINFO_SIZE)
      return { field, problem: `${info.length} bytes instead of ${SIGINFO_SIZE}` };
    const number = signalNumber(info);
    if (number < 1 || number > NSIG) return { field, problem: `there is no signal ${number}` };
  }
  return undefined;
}
