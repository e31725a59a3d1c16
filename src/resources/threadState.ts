import { type ThreadState, ThreadStateSchema } from '../image/generated/thread_state_pb.js';
import { taskKind } from '../objects/slice.js';
import { readProcBytes } from '../procfs/read.js';
import { nr } from '../sys/arch/index.js';
import { stackT } from '../sys/structs.js';
import { check, trySyscall } from '../sys/syscall.js';
import { prctl, SS_DISABLE, SS_ONSTACK } from '../sys/uapi.js';
import { type RemoteCalls, RemoteOutput } from '../tracee/remoteCalls.js';

const DEFAULT_TIMER_SLACK = 50_000;
const NAME_SIZE = 16;
/** PF_MEMALLOC_NOIO and PF_LOCAL_THROTTLE of linux/sched.h. */
const PF_IO_FLUSHER = 0x0018_0000;
/** Of asm/prctl.h. */
const ARCH_GET_CPUID = 0x1011;
const ARCH_SET_CPUID = 0x1012;
/** PR_SPEC_STORE_BYPASS, PR_SPEC_INDIRECT_BRANCH, PR_SPEC_L1D_FLUSH. */
const SPECULATION_FEATURES = [0, 1, 2];

/** A thread's name and what it registered with the kernel for itself. */
export const threadState = taskKind({
  kind: 'threadState',
  recordType: 32,
  scope: 'thread',
  schema: ThreadStateSchema,

  checkpoint({ tid, tracee, process, stat }, calls) {
    const name = readProcBytes(`/proc/${process.pid}/task/${tid}/comm`);
    const alternateStack = new RemoteOutput(stackT.size);
    calls.call('sigaltstack', [0, alternateStack]);
    const clearChildTid = new RemoteOutput(8);
    // Kernels without CONFIG_CHECKPOINT_RESTORE answer EINVAL; all distributions set it.
    calls.call('prctl', [prctl.PR_GET_TID_ADDRESS, clearChildTid, 0, 0, 0], {
      purpose: 'asking for the thread id address (CONFIG_CHECKPOINT_RESTORE)',
    });
    const timerSlack = calls.call('prctl', [prctl.PR_GET_TIMERSLACK, 0, 0, 0, 0]);
    const machineCheck = calls.call('prctl', [prctl.PR_MCE_KILL_GET, 0, 0, 0, 0]);
    const timeStampCounter = new RemoteOutput(4);
    calls.call('prctl', [prctl.PR_GET_TSC, timeStampCounter, 0, 0, 0]);
    const cpuid = calls.call('arch_prctl', [ARCH_GET_CPUID, 0], { mayFail: true });
    const speculation = SPECULATION_FEATURES.map((feature) =>
      calls.call('prctl', [prctl.PR_GET_SPECULATION_CTRL, feature, 0, 0, 0], { mayFail: true }),
    );
    const robustList = robustListOf(tid);
    const rseq = tracee.rseqRegistration();
    return () => ({
      name: name.subarray(0, Math.min(name.length - 1, NAME_SIZE - 1)),
      alternateStack: withoutOnStack(alternateStack.bytes),
      clearChildTid: clearChildTid.bytes.readBigUInt64LE(0),
      robustList: robustList.head,
      robustListLength: robustList.length,
      rseq: rseq?.pointer ?? 0n,
      rseqSize: rseq?.size ?? 0,
      rseqSignature: rseq?.signature ?? 0,
      rseqFlags: rseq?.flags ?? 0,
      timerSlack: BigInt(timerSlack.value),
      machineCheckPolicy: machineCheck.value,
      timeStampCounterDenied: timeStampCounter.bytes.readInt32LE(0) === prctl.PR_TSC_SIGSEGV,
      cpuidDenied: cpuid.value === 0,
      ioFlusher: (stat.flags & PF_IO_FLUSHER) === PF_IO_FLUSHER,
      speculation: speculation.map(({ value }) => changedSpeculation(value)),
    });
  },

  validate({ name, alternateStack }) {
    if (name.length >= NAME_SIZE) return { field: 'name', problem: `${name.length} bytes are too many` };
    if (alternateStack.length !== 0 && alternateStack.length !== stackT.size) {
      return { field: 'alternateStack', problem: `${alternateStack.length} bytes instead of ${stackT.size}` };
    }
    return undefined;
  },

  restart(message, calls) {
    restoreSettings(message, calls);
    calls.call('prctl', [prctl.PR_SET_NAME, Buffer.concat([message.name, Buffer.alloc(1)]), 0, 0, 0]);
    if (message.alternateStack.length > 0) {
      calls.call('sigaltstack', [message.alternateStack, 0], { purpose: 'setting the alternate stack' });
    }
    calls.call('set_tid_address', [message.clearChildTid]);
    if (message.robustList !== 0n) {
      calls.call('set_robust_list', [message.robustList, message.robustListLength]);
    }
    if (message.rseq !== 0n) {
      calls.call('rseq', [message.rseq, message.rseqSize, message.rseqFlags, message.rseqSignature], {
        purpose: 'registering restartable sequences',
      });
    }
    if (Number(message.timerSlack) !== DEFAULT_TIMER_SLACK) {
      calls.call('prctl', [prctl.PR_SET_TIMERSLACK, message.timerSlack, 0, 0, 0]);
    }
  },
});

function restoreSettings(message: ThreadState, calls: RemoteCalls): void {
  if (message.machineCheckPolicy !== prctl.PR_MCE_KILL_DEFAULT) {
    const args = [prctl.PR_MCE_KILL, prctl.PR_MCE_KILL_SET, message.machineCheckPolicy, 0, 0];
    calls.call('prctl', args);
  }
  if (message.timeStampCounterDenied) calls.call('prctl', [prctl.PR_SET_TSC, prctl.PR_TSC_SIGSEGV, 0, 0, 0]);
  if (message.cpuidDenied) calls.call('arch_prctl', [ARCH_SET_CPUID, 0]);
  // Needs CAP_SYS_RESOURCE.
  if (message.ioFlusher) calls.call('prctl', [prctl.PR_SET_IO_FLUSHER, 1, 0, 0, 0], { mayFail: true });
  message.speculation.forEach((value, feature) => {
    if (value !== 0) calls.call('prctl', [prctl.PR_SET_SPECULATION_CTRL, feature, value, 0, 0]);
  });
}

/** What was set for the thread alone, out of what the kernel says of a feature; 0 for nothing. */
function changedSpeculation(value: number): number {
  const { PR_SPEC_PRCTL, PR_SPEC_DISABLE, PR_SPEC_FORCE_DISABLE, PR_SPEC_DISABLE_NOEXEC } = prctl;
  if (value < 0 || (value & PR_SPEC_PRCTL) === 0) return 0;
  return (
    [PR_SPEC_FORCE_DISABLE, PR_SPEC_DISABLE_NOEXEC, PR_SPEC_DISABLE].find((bit) => (value & bit) !== 0) ?? 0
  );
}

/** Source: get_robust_list(2). */
function robustListOf(tid: number): { head: bigint; length: bigint } {
  const head = Buffer.alloc(8);
  const length = Buffer.alloc(8);
  check(trySyscall(nr.get_robust_list, tid, head, length), 'get_robust_list', `task ${tid}`);
  return { head: head.readBigUInt64LE(0), length: length.readBigUInt64LE(0) };
}

/** Empty for no alternate stack. That a thread runs on its stack follows from its registers. */
function withoutOnStack(bytes: Buffer): Uint8Array {
  const stack = stackT.decode(bytes);
  if ((stack.ss_flags & SS_DISABLE) !== 0) return new Uint8Array();
  return stackT.encode({ ...stack, ss_flags: stack.ss_flags & ~SS_ONSTACK });
}
