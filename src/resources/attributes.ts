import { writeFileSync } from 'node:fs';
import { AttributesSchema } from '../image/generated/attributes_pb.js';
import { taskKind } from '../objects/slice.js';
import { readProc, readProcIfAlive } from '../procfs/read.js';
import { fcntl, open, prctl } from '../sys/uapi.js';
import { cString, type RemoteCalls, RemoteOutput } from '../tracee/remoteCalls.js';

/** Only a task itself may do that. Without permission it stays as it is. */
function writeFromInside(path: string, text: string, calls: RemoteCalls): void {
  const bytes = Buffer.from(text);
  const fd = calls.call('openat', [fcntl.AT_FDCWD, cString(path), open.O_WRONLY, 0], { mayFail: true });
  calls.call('write', [fd, bytes, bytes.length], { mayFail: true });
  calls.call('close', [fd], { mayFail: true });
}

/** Settings of a process that have no object of their own. Source: prctl(2), personality(2), proc(5). */
export const attributes = taskKind({
  kind: 'attributes',
  recordType: 20,
  scope: 'process',
  schema: AttributesSchema,

  checkpoint({ live }, calls) {
    const subreaper = new RemoteOutput(4);
    calls.call('prctl', [prctl.PR_GET_CHILD_SUBREAPER, subreaper, 0, 0, 0]);
    const thpDisabled = calls.call('prctl', [prctl.PR_GET_THP_DISABLE, 0, 0, 0, 0]);
    // Kernels before 6.3 answer EINVAL: there the setting does not exist.
    const mdwe = calls.call('prctl', [prctl.PR_GET_MDWE, 0, 0, 0, 0], { mayFail: true });
    const memoryMerge = calls.call('prctl', [prctl.PR_GET_MEMORY_MERGE, 0, 0, 0, 0], { mayFail: true });
    const loginUid = readProcIfAlive(`/proc/${live}/loginuid`);
    const personality = Number.parseInt(readProc(`/proc/${live}/personality`), 16);
    const oomScoreAdjustment = Number.parseInt(readProc(`/proc/${live}/oom_score_adj`), 10);
    const coredumpFilter = Number.parseInt(readProcIfAlive(`/proc/${live}/coredump_filter`) ?? '0', 16);
    return () => ({
      personality,
      childSubreaper: subreaper.bytes.readInt32LE(0) !== 0,
      thpDisabled: thpDisabled.value !== 0,
      oomScoreAdjustment,
      coredumpFilter,
      memoryDenyWriteExecute: Math.max(mdwe.value, 0),
      memoryMerge: memoryMerge.value > 0,
      ...(loginUid === undefined ? {} : { loginUid: Number(loginUid) }),
    });
  },

  restart(message, calls, { pid, inherited, warn }) {
    calls.call('personality', [message.personality], { purpose: 'setting the personality' });
    if (message.childSubreaper) calls.call('prctl', [prctl.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0]);
    if (message.thpDisabled) calls.call('prctl', [prctl.PR_SET_THP_DISABLE, 1, 0, 0, 0]);
    if (message.memoryDenyWriteExecute !== 0) {
      calls.call('prctl', [prctl.PR_SET_MDWE, message.memoryDenyWriteExecute, 0, 0, 0], {
        purpose: 'denying memory that is writable and executable',
      });
    }
    // Some of it needs CAP_SYS_RESOURCE, or is allowed once only.
    if (message.memoryMerge) {
      calls.call('prctl', [prctl.PR_SET_MEMORY_MERGE, 1, 0, 0, 0], { mayFail: true });
    }
    if (message.loginUid !== undefined && message.loginUid !== inherited.loginUid) {
      writeFromInside('/proc/self/loginuid', String(message.loginUid), calls);
    }
    setting('oom_score_adj', String(message.oomScoreAdjustment), inherited.oomScoreAdjustment);
    setting('coredump_filter', `0x${message.coredumpFilter.toString(16)}`, inherited.coredumpFilter);

    function setting(name: string, value: string, own: string): void {
      if (Number(value) === Number(own)) return;
      try {
        writeFileSync(`/proc/${pid}/${name}`, value);
      } catch (error) {
        warn(`pid ${pid}: ${name} is ${own} instead of ${value}: ${String(error)}`);
      }
    }
  },
});
