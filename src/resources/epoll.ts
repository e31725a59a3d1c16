import { EpollSchema, type EpollTarget } from '../image/generated/epoll_pb.js';
import { type FileCheckpoint, type FileConnection, fileKind, type OpenFile } from '../objects/slice.js';
import type { ProcEpollTarget } from '../procfs/fdinfo.js';
import { kcmpEpollTarget } from '../sys/process.js';
import { epollEvent } from '../sys/structs.js';
import { epollControl, epollEvents, fcntl, MAX_DESCRIPTOR, open } from '../sys/uapi.js';
import { RemoteOutput, type RemoteResult } from '../tracee/remoteCalls.js';

/** How is watched, not for what; also after an event for which was watched only once. */
const MODE =
  epollEvents.EPOLLEXCLUSIVE | epollEvents.EPOLLWAKEUP | epollEvents.EPOLLONESHOT | epollEvents.EPOLLET;
const ANY_EVENT =
  epollEvents.EPOLLIN |
  epollEvents.EPOLLPRI |
  epollEvents.EPOLLOUT |
  epollEvents.EPOLLRDNORM |
  epollEvents.EPOLLRDBAND |
  epollEvents.EPOLLWRNORM |
  epollEvents.EPOLLWRBAND |
  epollEvents.EPOLLRDHUP;

/**
 * Sets of watched files. The kernel shows what is watched in fdinfo, by the number of the descriptor that was
 * added; which file that was tells kcmp(2), as the number may have got another meaning since. Source: epoll(7),
 * fs/eventpoll.c.
 */
export const epoll = fileKind({
  kind: 'epoll',
  recordType: 70,
  schema: EpollSchema,

  claims: ({ descriptor }) => descriptor.link === 'anon_inode:[eventpoll]',

  refuse(file, context) {
    const lost = watchedFiles(file, context).filter((watched) => watched.file === undefined);
    if (lost.length === 0) return undefined;
    const numbers = lost.map(({ target }) => target.fd).join(', ');
    return {
      what: `an epoll set that watches what was added to it as descriptor ${numbers}, which the tree has closed`,
      advice: 'remove it from the set (EPOLL_CTL_DEL) before it is closed',
    };
  },

  checkpoint: (file, context) => ({
    flags: file.descriptor.info.flags & open.O_NONBLOCK,
    targets: watchedFiles(file, context).map(({ target: { fd, events, data }, file: watched }) => ({
      file: watched?.object.objref ?? 0,
      fd,
      events,
      data,
    })),
  }),

  references: ({ targets }) => targets.map(({ file }, index) => ({ field: `targets[${index}].file`, file })),

  validate({ targets }) {
    const index = targets.findIndex(({ fd }) => fd > MAX_DESCRIPTOR);
    if (index < 0) return undefined;
    return { field: `targets[${index}].fd`, problem: `no descriptor is ${targets[index]?.fd}` };
  },

  describe: ({ targets }) => `epoll set, ${targets.length} watched`,

  restart({ flags }, { calls }) {
    const fd = calls.call('epoll_create1', [0]);
    if (flags !== 0) calls.call('fcntl', [fd, fcntl.F_SETFL, flags]);
    return fd;
  },

  connect(message, set, context) {
    // What waits to be enabled again has to be alone in the set for a moment.
    for (const target of message.targets) if (isSpent(target)) addSpent(target, set, context);
    for (const target of message.targets)
      if (!isSpent(target)) control(epollControl.EPOLL_CTL_ADD, target, set, context);
  },
});

interface WatchedFile {
  readonly target: ProcEpollTarget;
  /** Undefined where nobody in the tree has it open. */
  readonly file: OpenFile | undefined;
}

/** What a set watches. A number can be there several times, for different files. */
function watchedFiles(set: OpenFile, context: FileCheckpoint): WatchedFile[] {
  const bySlot = new Map(
    context.files.flatMap((file) =>
      file.slots.filter(({ pid }) => pid === set.pid).map(({ fd }) => [fd, file] as const),
    ),
  );
  const seen = new Map<number, number>();
  return set.descriptor.info.epollTargets.map((target) => {
    const ordinal = seen.get(target.fd) ?? 0;
    seen.set(target.fd, ordinal + 1);
    const slot = { set: set.descriptor.fd, target: target.fd, ordinal };
    const isIt = ({ live, descriptor }: OpenFile): boolean =>
      kcmpEpollTarget(live, descriptor.fd, set.live, slot) === 0;
    // Nearly always the number means what it meant.
    const likely = bySlot.get(target.fd);
    return { target, file: likely !== undefined && isIt(likely) ? likely : context.files.find(isIt) };
  });
}

/** It was watched for one event (EPOLLONESHOT), which has come. */
function isSpent({ events }: EpollTarget): boolean {
  return (events & ~MODE) === 0;
}

/**
 * Adds a file and lets its one event come, which leaves it as it was. One that is not ready now goes on being watched
 * for errors and hangups: the kernel leaves no other way.
 */
function addSpent(target: EpollTarget, set: number, context: FileConnection): void {
  const { calls } = context;
  control(epollControl.EPOLL_CTL_ADD, { ...target, events: (target.events | ANY_EVENT) >>> 0 }, set, context);
  const came = calls.call('epoll_wait', [set, new RemoteOutput(epollEvent.size), 1, 0]);
  calls.flush();
  if (came.value === 0) control(epollControl.EPOLL_CTL_MOD, target, set, context);
}

/** Changes a set under the number by which the program knows the file, whatever has that number in the helper. */
function control(operation: number, target: EpollTarget, set: number, context: FileConnection): void {
  const { calls } = context;
  const { fd, file, events, data } = target;
  const change = (through: RemoteResult | number): void => {
    calls.call('epoll_ctl', [through, operation, fd, epollEvent.encode({ events, data })], {
      purpose: `watching descriptor ${fd}, ${context.describe(file)}, by epoll, as files and null can't be,`,
    });
  };
  const source = context.descriptorOf(file, fd);
  if (source === fd) {
    change(set);
    return;
  }
  // Where nothing has the number these fail, one after the other.
  const mayFail = { mayFail: true };
  const parked = calls.call('fcntl', [fd, fcntl.F_DUPFD_CLOEXEC, 0], mayFail);
  calls.call('dup3', [source, fd, open.O_CLOEXEC]);
  change(set === fd ? parked : set);
  calls.call('close', [fd]);
  calls.call('dup3', [parked, fd, open.O_CLOEXEC], mayFail);
  calls.call('close', [parked], mayFail);
}
