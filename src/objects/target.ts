import { TargetError } from '../errors.js';
import { readProcIfAlive } from '../procfs/read.js';
import { parseStat } from '../procfs/stat.js';
import { parseStatus } from '../procfs/status.js';
import { listTree } from '../procfs/tree.js';
import { isInFirstPidNamespace } from '../sys/process.js';
import { PF_KTHREAD } from '../sys/uapi.js';

/** Throws TargetError for a pid that is no process, or one of the kernel. */
export function refuseTarget(pid: number): void {
  const text = readProcIfAlive(`/proc/${pid}/stat`);
  if (text === undefined) {
    throw new TargetError(pid, `there is no process ${pid}`, {
      reason: 'no task has that pid here',
      advice: 'look for it with ps or pgrep',
    });
  }
  const stat = parseStat(text);
  if ((stat.flags & PF_KTHREAD) !== 0) {
    throw new TargetError(pid, `process ${pid} is a kernel task`, {
      reason: `[${stat.comm}] runs in the kernel and has nothing to save`,
      advice: 'name a program',
    });
  }
  const group = /^Tgid:\s*(\d+)/m.exec(readProcIfAlive(`/proc/${pid}/status`) ?? '')?.[1];
  if (group !== undefined && Number(group) !== pid) {
    throw new TargetError(pid, `${pid} is a thread, not a process`, {
      reason: `it belongs to process ${group}`,
      advice: `checkpoint ${group}`,
    });
  }
}

/**
 * Whether a process is what Stasis calls a container: its pid in its own pid namespace is 1, and that is not the first
 * of the machine. False for one that has ended.
 */
export function isPidNamespaceInit(pid: number): boolean {
  const text = readProcIfAlive(`/proc/${pid}/status`);
  const pids = text === undefined ? [] : parseStatus(text).namespacePids;
  return pids.at(-1) === 1 && (pids.length > 1 || !isInFirstPidNamespace());
}

/** Throws TargetError when this process is the one to be held. It may be below it: then it is left out. */
export function refuseSelf(pid: number): void {
  if (pid !== process.pid) return;
  throw new TargetError(pid, `process ${pid} can't be checkpointed`, {
    reason: 'it is stasis itself',
    advice: 'checkpoint the process that has started it, or from another one',
  });
}

/** Whether this process is somewhere below another. */
export function isBelow(pid: number): boolean {
  return listTree(pid).some((member) => member.pid === process.pid);
}
