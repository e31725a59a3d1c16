import { SchedulingSchema } from '../image/generated/scheduling_pb.js';
import { readAffinity } from '../objects/inherited.js';
import { taskKind } from '../objects/slice.js';
import { nr } from '../sys/arch/index.js';
import { schedAttr } from '../sys/structs.js';
import { check, trySyscall } from '../sys/syscall.js';

const SCHED_OTHER = 0;
const SCHED_BATCH = 3;
const SCHED_IDLE = 5;
const IOPRIO_WHO_PROCESS = 1;

/** Policy, nice value, CPU affinity and I/O priority. Source: sched(7), ioprio_set(2). */
export const scheduling = taskKind({
  kind: 'scheduling',
  recordType: 33,
  scope: 'thread',
  schema: SchedulingSchema,

  checkpoint({ tid }) {
    const bytes = Buffer.alloc(schedAttr.size);
    check(trySyscall(nr.sched_getattr, tid, bytes, bytes.length, 0), 'sched_getattr', `task ${tid}`);
    const attributes = schedAttr.decode(bytes);
    const ioPriority = check(trySyscall(nr.ioprio_get, IOPRIO_WHO_PROCESS, tid), 'ioprio_get', `task ${tid}`);
    const affinity = readAffinity(tid);
    const timeSharing = [SCHED_OTHER, SCHED_BATCH, SCHED_IDLE].includes(attributes.sched_policy);
    return () => ({
      policy: attributes.sched_policy,
      flags: attributes.sched_flags,
      nice: attributes.sched_nice,
      priority: attributes.sched_priority,
      // Since 6.12 the kernel shows the time slice here for time-sharing policies.
      runtime: timeSharing ? 0n : attributes.sched_runtime,
      deadline: timeSharing ? 0n : attributes.sched_deadline,
      period: timeSharing ? 0n : attributes.sched_period,
      affinity,
      ioPriority,
    });
  },

  restart(message, calls, { tid, inherited, warn }) {
    if (message.policy !== SCHED_OTHER || message.nice !== 0 || message.flags !== 0n) {
      const bytes = schedAttr.encode({
        size: schedAttr.size,
        sched_policy: message.policy,
        sched_flags: message.flags,
        sched_nice: message.nice,
        sched_priority: message.priority,
        sched_runtime: message.runtime,
        sched_deadline: message.deadline,
        sched_period: message.period,
      });
      calls.call('sched_setattr', [0, bytes, 0], {
        purpose: `setting policy ${message.policy} and nice value ${message.nice}`,
      });
    }
    if (!Buffer.from(message.affinity).equals(inherited.affinity)) {
      const result = trySyscall(nr.sched_setaffinity, tid, message.affinity.length, message.affinity);
      if (result < 0) warn(`task ${tid}: this machine has none of the CPUs that it was bound to`);
    }
    if (message.ioPriority !== 0) calls.call('ioprio_set', [IOPRIO_WHO_PROCESS, 0, message.ioPriority]);
  },
});
