import type { Obstacle } from '../errors.js';
import { PendingSignalsSchema } from '../image/generated/pending_signals_pb.js';
import type { HeldTasks } from '../objects/heldTasks.js';
import { taskKind } from '../objects/slice.js';
import { NSIG } from '../sys/uapi.js';
import { RESTART_END_SIGNAL } from '../tracee/stub.js';

const SIGINFO_SIZE = 128;
/** Offsets in siginfo_t, and a code of it. Source: asm-generic/siginfo.h. */
const SI_CODE = 8;
const SI_TIMERID = 16;
const SI_OVERRUN = 20;
const SI_TIMER = -2;

/** Signals pending for a process as a whole, with their siginfo, in order. Source: ptrace(2) PEEKSIGINFO. */
export const sharedPendingSignals = taskKind({
  kind: 'sharedPendingSignals',
  recordType: 21,
  scope: 'process',
  schema: PendingSignalsSchema,
  refuse: ({ pid, status }) => refuseEndSignal(pid, status.sharedPendingSignals),
  checkpoint({ pid, held, threads }) {
    const siginfo = threads[0]?.tracee.peekPendingSignals('shared') ?? [];
    return () => (siginfo.length === 0 ? undefined : { siginfo: siginfo.map(withOverrun(pid, held)) });
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
  checkpoint({ tracee, process: { pid, held } }) {
    const siginfo = tracee.peekPendingSignals('thread');
    return () => (siginfo.length === 0 ? undefined : { siginfo: siginfo.map(withOverrun(pid, held)) });
  },
  validate: validateSiginfo,
  restart({ siginfo }, calls, { ownPid, ownTid }) {
    for (const info of siginfo) {
      calls.call('rt_tgsigqueueinfo', [ownPid, ownTid, signalNumber(info), info]);
    }
  },
});

/**
 * The signal of a timer tells, when it is taken, how often the timer has expired meanwhile. Until then the kernel
 * counts that elsewhere; the timer itself goes on counting from here.
 */
function withOverrun(pid: number, held: HeldTasks) {
  return (siginfo: Uint8Array): Uint8Array => {
    const info = Buffer.from(siginfo);
    if (info.readInt32LE(SI_CODE) !== SI_TIMER) return siginfo;
    info.writeInt32LE(
      info.readInt32LE(SI_OVERRUN) + held.overrun(pid, info.readInt32LE(SI_TIMERID)),
      SI_OVERRUN,
    );
    return info;
  };
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
