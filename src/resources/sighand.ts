import { SighandSchema } from '../image/generated/sighand_pb.js';
import { taskKind } from '../objects/slice.js';
import type { ProcStatus } from '../procfs/status.js';
import { kernelSigaction } from '../sys/structs.js';
import { NSIG, SIG_DFL, SIG_IGN, signal } from '../sys/uapi.js';
import { type RemoteCalls, RemoteOutput } from '../tracee/remoteCalls.js';

const SIGSET_SIZE = 8;

/** All signals but the two whose disposition is fixed. */
export const CHANGEABLE_SIGNALS: readonly number[] = Array.from(
  { length: NSIG },
  (_, index) => index + 1,
).filter((number) => number !== signal.SIGKILL && number !== signal.SIGSTOP);

/** Signal dispositions: `struct sighand_struct`, shared by the threads of a process. Source: sigaction(2). */
export const sighand = taskKind({
  kind: 'sighand',
  recordType: 16,
  scope: 'process',
  schema: SighandSchema,

  checkpoint({ status }, calls) {
    const questions = worthAsking(status).map((number) => {
      const output = new RemoteOutput(kernelSigaction.size);
      calls.call('rt_sigaction', [number, 0, output, SIGSET_SIZE], {
        purpose: `reading the disposition of signal ${number}`,
      });
      return { number, output };
    });
    return () => {
      const actions = questions
        .filter(({ output }) => !isDefault(output.bytes))
        .map(({ number, output }) => ({ number, action: kernelSigaction.decode(output.bytes) }))
        .map(({ number, action }) => ({
          signal: number,
          handler: action.sa_handler,
          flags: action.sa_flags,
          restorer: action.sa_restorer,
          mask: action.sa_mask,
        }));
      return actions.length === 0 ? undefined : { actions };
    };
  },

  validate({ actions }) {
    const index = actions.findIndex((action) => !CHANGEABLE_SIGNALS.includes(action.signal));
    const wrong = actions[index];
    return wrong === undefined
      ? undefined
      : { field: `actions[${index}].signal`, problem: `${wrong.signal} has no disposition` };
  },

  // New tasks have the default for all signals: the helper sees to that.
  restart({ actions }, calls) {
    for (const action of actions) {
      const bytes = kernelSigaction.encode({
        sa_handler: action.handler,
        sa_flags: action.flags,
        sa_restorer: action.restorer,
        sa_mask: action.mask,
      });
      calls.call('rt_sigaction', [action.signal, bytes, 0, SIGSET_SIZE], {
        purpose: `setting the disposition of signal ${action.signal}`,
      });
    }
  },
});

/**
 * The signals with another disposition than the default, of which `/proc` tells the numbers; and SIGCHLD,
 * where flags (SA_NOCLDWAIT) mean something with the default too.
 */
function worthAsking({ caughtSignals, ignoredSignals }: ProcStatus): number[] {
  const changed = caughtSignals | ignoredSignals | (1n << BigInt(signal.SIGCHLD - 1));
  return CHANGEABLE_SIGNALS.filter((number) => ((changed >> BigInt(number - 1)) & 1n) === 1n);
}

function isDefault(action: Buffer): boolean {
  const { sa_handler, sa_flags } = kernelSigaction.offsets;
  return action.readBigUInt64LE(sa_handler) === SIG_DFL && action.readBigUInt64LE(sa_flags) === 0n;
}

/** Queues calls that take away pending signals of these numbers: the kernel drops what becomes ignored. */
export function discardSignals(signals: readonly number[], calls: RemoteCalls): void {
  for (const number of signals) {
    for (const handler of [SIG_IGN, SIG_DFL]) {
      calls.call('rt_sigaction', [number, kernelSigaction.encode({ sa_handler: handler }), 0, SIGSET_SIZE]);
    }
  }
  calls.flush();
}
