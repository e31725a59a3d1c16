import { readdirSync } from 'node:fs';
import { readNumbersIfAlive, readProcIfAlive } from './read.js';
import { parseStat } from './stat.js';

/** A process and its threads at one moment. */
export interface ProcessThreads {
  readonly pid: number;
  /** The leader first, then ascending. */
  readonly threads: readonly number[];
}

/**
 * The processes of the tree below `root`, parents before children, siblings by pid. What ends meanwhile is
 * left out; what is born meanwhile may be missing: ask again once all of it is stopped.
 */
export function listTree(root: number): ProcessThreads[] {
  const tree: ProcessThreads[] = [];
  const waiting = [root];
  for (let pid = waiting.shift(); pid !== undefined; pid = waiting.shift()) {
    const threads = readNumbersIfAlive(`/proc/${pid}/task`);
    if (threads === undefined) continue;
    tree.push({ pid, threads: threads.sort((a, b) => (a === pid ? -1 : b === pid ? 1 : a - b)) });
    waiting.push(...childrenOf(pid, threads));
  }
  return tree;
}

/** Children are listed with the thread that made them. */
function childrenOf(pid: number, threads: readonly number[]): number[] {
  const children: number[] = [];
  for (const tid of threads) {
    const text = readProcIfAlive(`/proc/${pid}/task/${tid}/children`);
    if (text !== undefined) children.push(...numbers(text));
    else if (!childrenFileExists()) return scanForChildren(pid);
  }
  return children.sort((a, b) => a - b);
}

let childrenFileKnown: boolean | undefined;

/** Kernels without CONFIG_PROC_CHILDREN do not have the file. */
function childrenFileExists(): boolean {
  childrenFileKnown ??= readProcIfAlive(`/proc/self/task/${process.pid}/children`) !== undefined;
  return childrenFileKnown;
}

function scanForChildren(parent: number): number[] {
  return readdirSync('/proc')
    .map(Number)
    .filter((pid) => Number.isInteger(pid))
    .filter((pid) => {
      const text = readProcIfAlive(`/proc/${pid}/stat`);
      return text !== undefined && parseStat(text).parent === parent;
    });
}

function numbers(text: string): number[] {
  return text
    .trim()
    .split(' ')
    .filter((part) => part !== '')
    .map(Number);
}
