import { LimitsSchema } from '../image/generated/limits_pb.js';
import { taskKind } from '../objects/slice.js';
import { LIMIT_NAMES, parseLimits } from '../procfs/limits.js';
import { readProc } from '../procfs/read.js';
import { rlimit64 } from '../sys/structs.js';
import { capability } from '../sys/uapi.js';

/**
 * Resource limits. They are read from `/proc`, since prlimit(2) on another user's process needs
 * CAP_SYS_RESOURCE, and set from inside. A hard limit that may not be raised stays where it is, with a
 * warning. Source: getrlimit(2).
 */
export const limits = taskKind({
  kind: 'limits',
  recordType: 18,
  scope: 'process',
  schema: LimitsSchema,

  checkpoint({ live }) {
    const message = {
      limits: parseLimits(readProc(`/proc/${live}/limits`)).map(({ soft, hard }) => ({ soft, hard })),
    };
    return () => message;
  },

  validate(message) {
    return message.limits.length <= LIMIT_NAMES.length
      ? undefined
      : {
          field: 'limits',
          problem: `${message.limits.length} of them, the kernel has ${LIMIT_NAMES.length}`,
        };
  },

  restart(message, calls, { pid, inherited, warn }) {
    const mayRaise = (inherited.status.capabilities.effective >> BigInt(capability.CAP_SYS_RESOURCE)) & 1n;
    message.limits.forEach(({ soft, hard }, resource) => {
      const own = inherited.limits[resource];
      const allowed = own === undefined || mayRaise === 1n || hard <= own.hard ? hard : own.hard;
      if (allowed !== hard) {
        warn(
          `pid ${pid}: the hard limit '${LIMIT_NAMES[resource]}' is ${allowed} instead of ${hard}: raising it needs CAP_SYS_RESOURCE`,
        );
      }
      const value = rlimit64.encode({ rlim_cur: soft < allowed ? soft : allowed, rlim_max: allowed });
      calls.call('prlimit64', [0, resource, value, 0], {
        purpose: `setting the limit '${LIMIT_NAMES[resource]}'`,
      });
    });
  },
});
