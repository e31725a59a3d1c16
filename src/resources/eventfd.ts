import { EventfdSchema } from '../image/generated/eventfd_pb.js';
import { fileKind } from '../objects/slice.js';
import { fcntl, open } from '../sys/uapi.js';

const EFD_SEMAPHORE = 1;

/** Event counters. The kernel shows their state in fdinfo. Source: eventfd(2). */
export const eventfd = fileKind({
  kind: 'eventfd',
  recordType: 69,
  schema: EventfdSchema,

  claims: ({ descriptor }) => descriptor.link === 'anon_inode:[eventfd]',

  refuse: ({ descriptor: { info } }) =>
    info.extra.has('eventfd-semaphore')
      ? undefined
      : {
          what: 'an eventfd, of which this kernel does not tell whether it is a semaphore',
          advice: 'use Linux 6.5 or later, or close it first',
        },

  checkpoint: ({ descriptor: { info } }) => ({
    count: BigInt(`0x${info.extra.get('eventfd-count') ?? '0'}`),
    semaphore: info.extra.get('eventfd-semaphore') === '1',
    flags: info.flags & open.O_NONBLOCK,
  }),

  describe: ({ count, semaphore }) => `eventfd, count ${count}${semaphore ? ', semaphore' : ''}`,

  restart({ count, semaphore, flags }, { calls }) {
    // eventfd2 takes 32 bits; the rest is added by a write.
    const fd = calls.call('eventfd2', [0, semaphore ? EFD_SEMAPHORE : 0]);
    if (count > 0n) {
      const bytes = Buffer.alloc(8);
      bytes.writeBigUInt64LE(count);
      calls.call('write', [fd, bytes, 8], { purpose: 'setting the count of an eventfd' });
    }
    if (flags !== 0) calls.call('fcntl', [fd, fcntl.F_SETFL, flags]);
    return fd;
  },
});
