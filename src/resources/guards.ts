import type { Obstacle } from '../errors.js';
import type { HeldProcess } from '../freezer/freeze.js';
import type { FrozenProcess, FrozenThread } from '../objects/frozenProcess.js';
import { PF_IO_WORKER } from '../sys/uapi.js';

/** States of tasks that have no slice yet: each is refused by name. */

/** Everything about a process, its threads aside, that has no slice. */
export function refuseProcess(process: FrozenProcess, sessions: ReadonlySet<number>): Obstacle[] {
  const { pid, stat, status } = process;
  const obstacles: Obstacle[] = [];
  if (stat.terminal !== 0 && sessions.has(stat.session)) {
    obstacles.push({
      pid,
      what: `its session ${stat.session} is in the tree and has a controlling terminal`,
      advice: 'start the job with setsid and without a terminal, or checkpoint below the session leader',
    });
  }
  if (status.namespacePids.length > 1 && process.live !== status.namespacePids[0]) {
    obstacles.push({ pid, what: 'its pid is that of another namespace', advice: 'run stasis on the host' });
  }
  return obstacles;
}

/** Everything about a thread that has no slice. */
export function refuseThread(thread: FrozenThread): Obstacle[] {
  const { tid: pid, status, stat } = thread;
  const obstacles: Obstacle[] = [];
  if (!thread.is64Bit) {
    obstacles.push({ pid, what: 'a 32-bit task', advice: 'use a 64-bit build of the program' });
  }
  if (status.threadFeatures.includes('shstk')) {
    obstacles.push({
      pid,
      what: 'a shadow stack (CET)',
      advice: 'run it with GLIBC_TUNABLES=glibc.cpu.x86_shstk=off',
    });
  }
  if (thread.is64Bit && thread.tracee.dispatchesSyscalls()) {
    obstacles.push({
      pid,
      what: 'it handles system calls itself (PR_SET_SYSCALL_USER_DISPATCH)',
      advice: 'checkpoint it when it has switched that off; programs under Wine do that',
    });
  }
  if (thread.tracee.hasHardwareBreakpoints()) {
    obstacles.push({
      pid,
      what: 'it has hardware breakpoints, which a debugger has left',
      advice: 'remove them with the debugger that has set them',
    });
  }
  if ((stat.flags & PF_IO_WORKER) !== 0) {
    obstacles.push({ pid, what: 'a worker thread of io_uring', advice: 'io_uring is not supported yet' });
  }
  return obstacles;
}

/** Threads that can't be held. */
export function refuseUnheld({ pid, zombie, unheld, stoppedApart }: HeldProcess): Obstacle[] {
  if (zombie) return [];
  const apart = stoppedApart.map((tid) => ({
    pid,
    where: `thread ${tid}`,
    what: 'it is stopped by a signal, and other threads of the process are not',
    advice: `let it go on (kill -CONT ${pid}), or stop all of the process`,
  }));
  const others = unheld
    .filter((tid) => tid !== pid)
    .map((tid) => ({
      pid,
      where: `thread ${tid}`,
      what: 'a thread that can not be held (a worker of io_uring)',
      advice: 'not supported yet',
    }));
  return [...apart, ...others];
}
