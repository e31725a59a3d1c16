import { writeFileSync } from 'node:fs';
import { AttributesSchema } from '../image/generated/attributes_pb.js';
import { taskKind } from '../objects/slice.js';
import { readProc, readProcIfAlive } from '../procfs/read.js';
import { prctl } from '../sys/uapi.js';
import { RemoteOutput } from '../tracee/remoteCalls.js';

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
