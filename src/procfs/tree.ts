import { readdirSync } from 'node:fs';
import { readNumbersIfAlive, readProcIfAlive } from './read.js';
import { parseStat } from './stat.js';

/** A process and its threads at one moment. */
export interface ProcessThreads {
  readonly pid: number;
  /** The thread of its parent whose child it is; 0 for the root, and where the kernel does not tell. */
  readonly parentThread: number;
  /** The leader first, then ascending. */
  readonly threads: readonly number[];
}

/**
 * The processes of the tree below `root`, parents before children, siblings in the order in which their
 * parent has them, which is that in which it waits for them. What ends meanwhile is left out; what is born
 * meanwhile may be missing: ask again once all of it is stopped. What is below `leaf` is left out.
 */
export function listTree(root: number, leaf = 0): ProcessThreads[] {
  const tree: ProcessThreads[] = [];
  const waiting: Child[] = [{ pid: root, parentThread: 0 }];
  for (const { pid, parentThread } of waiting) {
    const threads = readNumbersIfAlive(`/proc/${pid}/task`);
    if (threads === undefined) continue;
    threads.sort((a, b) => (a === pid ? -1 : b === pid ? 1 : a - b));
    tree.push({ pid, parentThread, threads });
    if (pid === leaf) continue;
    for (const child of childrenOf(pid, threads)) waiting.push(child);
  }
  return tree;
}

type Child = Omit<ProcessThreads, 'threads'>;

/** Children are listed with the thread that made them. */
function childrenOf(pid: number, threads: readonly number[]): Child[] {
  const children: Child[] = [];
  for (const tid of threads) {
    const text = readProcIfAlive(`/proc/${pid}/task/${tid}/children`);
    if (text !== undefined) {
      for (const child of numbers(text)) children.push({ pid: child, parentThread: tid });
    } else if (!childrenFileExists()) {
      return scanForChildren(pid).map((child) => ({ pid: child, parentThread: pid }));
    }
  }
  return children;
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
