import { closeSync } from 'node:fs';
import koffi from 'koffi';
import { nr } from './arch/index.js';
import { tryReadLink } from './files.js';
import { kcmpEpollSlot, kernelSigaction, pollfd } from './structs.js';
import { addressOf, check, syscallInBackground, systemCallError, trySyscall } from './syscall.js';
import { kcmpType, pollEvent, prctl, signal, wait } from './uapi.js';

const libc = koffi.load('libc.so.6');
const posixSpawn = libc.func(
  'int posix_spawn(_Out_ int* pid, const char* path, void* actions, void* attributes, void* argv, void* envp)',
);
const fileActionsInit = libc.func('int posix_spawn_file_actions_init(void* actions)');
const fileActionsDestroy = libc.func('int posix_spawn_file_actions_destroy(void* actions)');
const fileActionsAddDup2 = libc.func('int posix_spawn_file_actions_adddup2(void* actions, int fd, int to)');
const fileActionsAddClose = libc.func('int posix_spawn_file_actions_addclose(void* actions, int fd)');

/** More than glibc's `posix_spawn_file_actions_t` needs (80 bytes). */
const FILE_ACTIONS_SIZE = 512;

/**
 * Starts the program in an open file, without arguments or environment and without libuv's knowledge, so
 * that nobody but the caller waits for it. Its descriptors are copies of the given ones, from 0 on; ours are close-on-exec.
 * Source: posix_spawn(3). Throws SystemCallError.
 */
export function spawnBare(executable: number, descriptors: readonly number[]): number {
  const path = `/proc/self/fd/${executable}`;
  const actions = Buffer.alloc(FILE_ACTIONS_SIZE);
  const argument = Buffer.from(`${path}\0`);
  const argv = Buffer.alloc(16);
  argv.writeBigUInt64LE(addressOf(argument), 0);
  const envp = Buffer.alloc(8);
  const pid = [0];
  // First out of the way of each other, so that no copy overwrites what is still to be copied.
  const parking = Math.max(...descriptors, descriptors.length, executable) + 1;
  fileActionsInit(actions);
  try {
    descriptors.forEach((fd, index) => {
      fileActionsAddDup2(actions, fd, parking + index);
    });
    descriptors.forEach((_, index) => {
      fileActionsAddDup2(actions, parking + index, index);
      fileActionsAddClose(actions, parking + index);
    });
    const error = posixSpawn(pid, path, actions, null, argv, envp);
    if (error !== 0) throw systemCallError(error, 'posix_spawn', path);
  } finally {
    fileActionsDestroy(actions);
  }
  return pid[0] ?? 0;
}

const statusWord = Buffer.alloc(4);

/**
 * Waits for one child or tracee. Never for -1: the children that libuv knows are libuv's.
 * Returns the status word, 'none' when `WNOHANG` is set and nothing happened, 'gone' when there is no such child.
 * Source: wait4(2).
 */
export function waitFor(pid: number, flags: number): number | 'none' | 'gone' {
  for (;;) {
    const result = trySyscall(nr.wait4, pid, statusWord, flags | wait.__WALL, 0);
    if (result === 0) return 'none';
    if (result > 0) return statusWord.readInt32LE(0);
    if (result === -ECHILD) return 'gone';
    if (result !== -EINTR) check(result, 'wait4', `pid ${pid}`);
  }
}
const ECHILD = 10;
const EINTR = 4;

/**
 * Waits for the end of a child without blocking this thread, and takes its status word. The waiting is done
 * by polling a pidfd: a wait4(2) on another thread would take away the stops of a child that is traced.
 */
export async function waitInBackground(pid: number): Promise<number | 'gone'> {
  const pidfd = openPidfd(pid);
  try {
    const entry = pollfd.encode({ fd: pidfd, events: pollEvent.POLLIN });
    for (;;) {
      const result = await syscallInBackground(nr.poll, entry, 1, -1);
      if (result !== -EINTR) check(result, 'poll', `pidfd of ${pid}`);
      const status = waitFor(pid, wait.WNOHANG);
      if (status !== 'none') return status;
    }
  } finally {
    closeSync(pidfd);
  }
}

/**
 * Waits until a child or tracee has ended, and leaves its status to whoever else waits for it: for a child
 * of ours that libuv knows, and that we trace as well.
 */
export function awaitEnd(pid: number): void {
  for (;;) {
    const news = waitId(pid, wait.WEXITED | wait.WNOWAIT);
    // The stops of a tracee are told as well, without having been asked for.
    if (typeof news !== 'object' || isEnd(news)) return;
    sleepSync(0.05);
  }
}

/** As {@link waitFor}, but an end is only told, and left to whoever else waits for it. */
export function waitForStop(pid: number, flags: number): number | 'none' | 'gone' {
  for (;;) {
    const news = waitId(pid, wait.WEXITED | wait.WUNTRACED | wait.WNOWAIT | flags);
    if (typeof news !== 'object') return news;
    if (isEnd(news)) return news.code === CLD_EXITED ? news.status << 8 : news.status;
    const stop = waitId(pid, wait.WUNTRACED | wait.WNOHANG);
    // Otherwise it was killed meanwhile.
    if (typeof stop === 'object') return (stop.status << 8) | STOPPED;
  }
}

const CLD_EXITED = 1;
const CLD_KILLED = 2;
const CLD_DUMPED = 3;
/** The low byte of the status word of whoever has stopped. */
const STOPPED = 0x7f;

interface ChildNews {
  /** CLD_… */
  readonly code: number;
  /** An exit status, or a signal; of a stop of a tracee with the event. */
  readonly status: number;
}

function isEnd({ code }: ChildNews): boolean {
  return [CLD_EXITED, CLD_KILLED, CLD_DUMPED].includes(code);
}

/** Source: waitid(2). */
function waitId(pid: number, options: number): ChildNews | 'none' | 'gone' {
  const P_PID = 1;
  const info = Buffer.alloc(128);
  for (;;) {
    const result = trySyscall(nr.waitid, P_PID, pid, info, options | wait.__WALL, 0);
    const [number, code, status] = [info.readInt32LE(0), info.readInt32LE(8), info.readInt32LE(24)];
    if (result === 0) return number === 0 ? 'none' : { code, status };
    if (result === -ECHILD) return 'gone';
    if (result !== -EINTR) check(result, 'waitid', `pid ${pid}`);
  }
}

/** Waits until a tracee has ended, and takes its status. */
export function reapTracee(tid: number): void {
  reapTracees([tid]);
}

/**
 * Waits until all have ended, in whatever order: a leader ends after its threads, and the last thread of a pid
 * namespace's init after everybody there.
 */
export function reapTracees(tids: readonly number[]): void {
  let left = [...tids];
  for (let round = 0; left.length > 0; round++) {
    // The last one can be waited for.
    const flags = left.length === 1 ? 0 : wait.WNOHANG;
    left = left.filter((tid) => {
      const status = waitFor(tid, flags);
      // Stops on the way to its end have 0x7f in the low bits.
      return status === 'none' || (typeof status === 'number' && (status & 0x7f) === 0x7f);
    });
    if (left.length > 1) sleepSync(round > 100 ? 1 : 0.05);
  }
}

/** Sends a signal; false when there is no such process. Source: kill(2). */
export function sendSignal(pid: number, signal: number): boolean {
  const result = trySyscall(nr.kill, pid, signal);
  if (result === -ESRCH) return false;
  check(result, 'kill', `pid ${pid}, signal ${signal}`);
  return true;
}
const ESRCH = 3;

/**
 * Orders two tasks' objects of one type by the kernel's address, without telling it: 0 when they are the
 * same object, 1 or 2 for less or greater. Source: kcmp(2).
 */
export function kcmp(pid: number, otherPid: number, type: number, fd = 0, otherFd = 0): number {
  return check(
    trySyscall(nr.kcmp, pid, otherPid, type, fd, otherFd),
    'kcmp',
    `pids ${pid} and ${otherPid}, type ${type}`,
  );
}

/** A file that was added to an epoll set: the set's descriptor, the number that the file had, and which of those. */
export interface EpollSlot {
  readonly set: number;
  readonly target: number;
  /** From 0, where several files were added by that number. */
  readonly ordinal: number;
}

/** As {@link kcmp}, for a task's open file and one that another task's epoll set watches. */
export function kcmpEpollTarget(pid: number, fd: number, otherPid: number, slot: EpollSlot): number {
  const { set, target, ordinal } = slot;
  const argument = kcmpEpollSlot.encode({ efd: set, tfd: target, toff: ordinal });
  return check(
    trySyscall(nr.kcmp, pid, otherPid, kcmpType.KCMP_EPOLL_TFD, fd, argument),
    'kcmp',
    `descriptor ${fd} of ${pid}, and ${target} in the epoll set ${set} of ${otherPid}`,
  );
}

/**
 * Chooses whether this process gets SIGCHLD when a child or tracee stops, not only when one ends. Returns what was
 * chosen before. Source: sigaction(2) SA_NOCLDSTOP.
 */
export function setChildStopSignals(wanted: boolean): boolean {
  const SA_NOCLDSTOP = 1n;
  const SET_SIZE = 8;
  const action = Buffer.alloc(kernelSigaction.size);
  check(trySyscall(nr.rt_sigaction, signal.SIGCHLD, 0, action, SET_SIZE), 'rt_sigaction', 'SIGCHLD');
  const { sa_handler, sa_flags, sa_restorer, sa_mask } = kernelSigaction.decode(action);
  const flags = wanted ? sa_flags & ~SA_NOCLDSTOP : sa_flags | SA_NOCLDSTOP;
  const changed = kernelSigaction.encode({ sa_handler, sa_flags: flags, sa_restorer, sa_mask });
  check(trySyscall(nr.rt_sigaction, signal.SIGCHLD, changed, 0, SET_SIZE), 'rt_sigaction', 'SIGCHLD');
  return (sa_flags & SA_NOCLDSTOP) === 0n;
}

/** A descriptor for a process. Throws SystemCallError. Source: pidfd_open(2). */
export function openPidfd(pid: number): number {
  return check(trySyscall(nr.pidfd_open, pid, 0), 'pidfd_open', `pid ${pid}`);
}

/** As {@link openPidfd}, for a thread whose leader has ended. Linux 6.9 and later. */
export function openThreadPidfd(tid: number): number {
  const PIDFD_THREAD = 0o200;
  return check(trySyscall(nr.pidfd_open, tid, PIDFD_THREAD), 'pidfd_open', `thread ${tid}`);
}

/**
 * Whether a number is in use: by a process or thread, or by a session or process group whose leader has ended.
 * Source: pidfd_open(2).
 */
export function isPidInUse(pid: number): boolean {
  const result = trySyscall(nr.pidfd_open, pid, 0);
  if (result >= 0) closeSync(result);
  return result !== -ESRCH;
}

/** PROC_PID_INIT_INO of linux/proc_ns.h. */
const FIRST_PID_NAMESPACE = 'pid:[4026531836]';

/** Whether pids here are the kernel's own numbers: this process is in no container. */
export function isInFirstPidNamespace(): boolean {
  return tryReadLink('/proc/self/ns/pid') === FIRST_PID_NAMESPACE;
}

/** A copy of another process's descriptor, close-on-exec. Source: pidfd_getfd(2). */
export function getDescriptor(pidfd: number, fd: number): number {
  return check(trySyscall(nr.pidfd_getfd, pidfd, fd, 0), 'pidfd_getfd', `descriptor ${fd}`);
}

/** Makes this process the parent of its orphaned descendants, or not. Returns what it was. Source: prctl(2). */
export function setChildSubreaper(wanted: boolean): boolean {
  const before = Buffer.alloc(4);
  check(trySyscall(nr.prctl, prctl.PR_GET_CHILD_SUBREAPER, before, 0, 0, 0), 'prctl PR_GET_CHILD_SUBREAPER');
  check(
    trySyscall(nr.prctl, prctl.PR_SET_CHILD_SUBREAPER, wanted ? 1 : 0, 0, 0, 0),
    'prctl PR_SET_CHILD_SUBREAPER',
  );
  return before.readInt32LE(0) !== 0;
}

/** Pauses this thread. Only where the tracer may not return to the event loop. */
export function sleepSync(milliseconds: number): void {
  Atomics.wait(sleepCell, 0, 0, milliseconds);
}
const sleepCell = new Int32Array(new SharedArrayBuffer(4));
