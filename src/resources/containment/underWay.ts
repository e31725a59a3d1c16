import type { CensusTask } from '../../objects/census.js';
import type { SharedObject, SharedObjects } from '../../objects/sharedObjects.js';
import { readProcIfVisible } from '../../procfs/read.js';
import { parseStat } from '../../procfs/stat.js';
import { type CallUnderWay, parseSyscall } from '../../procfs/syscall.js';
import { fileCalls } from '../../sys/arch/index.js';
import { pollfd } from '../../sys/structs.js';
import { tryReadMemory } from '../../tracee/memory.js';

/** More than any program polls for; a call that was interrupted may have been another one. */
const MAX_POLLED = 0x1_0000;
const MAX_SELECTED = 0x1_0000;
/** A file that waits for both directions is put into two queues, with a reference each. Source: fs/select.c. */
const QUEUES_OF_A_FILE = 2;
const ON_DESCRIPTOR: ReadonlySet<number> = new Set(Object.values(fileCalls.onDescriptor));

/**
 * Counts the references to open files that calls have which are under way: poll(2) and its kin have one to each file
 * that they wait for, and others one to the file that they work on, where threads share the table. Only of files
 * whose references are not all known. A task that is held has none: it was interrupted.
 */
export function collectUnderWay(table: SharedObjects): void {
  const unknown = table.ofKind('file').filter(({ hidden }) => hidden > 0);
  if (unknown.length === 0) return;
  const wanted = new Map(unknown.map((object) => [object.identity, object]));
  const byProcess = new Map<number, Map<number, SharedObject>>();
  for (const { pid, fd, file } of table.census.slots) {
    const object = wanted.get(file.identity);
    if (object === undefined) continue;
    const slots = byProcess.get(pid);
    if (slots === undefined) byProcess.set(pid, new Map([[fd, object]]));
    else slots.set(fd, object);
  }
  for (const task of table.census.tasks) {
    const slots = byProcess.get(task.pid);
    if (slots === undefined || task.dead) continue;
    for (const fd of descriptorsInUse(task)) {
      const object = slots.get(fd);
      if (object !== undefined && object.hidden > 0) table.count(object, table.sideOf(task.pid));
    }
  }
}

/** Once for each reference that a task's call may have. */
function descriptorsInUse(task: CensusTask): number[] {
  const call = callOf(task);
  if (call === undefined) return [];
  const twice = (fds: readonly number[]): number[] =>
    fds.flatMap((fd) => Array<number>(QUEUES_OF_A_FILE).fill(fd));
  switch (call.number) {
    case fileCalls.poll:
    case fileCalls.ppoll:
    case fileCalls.restart_syscall:
      return twice(polled(task.tid, call));
    case fileCalls.select:
    case fileCalls.pselect6:
      return twice(selected(task.tid, call));
    default: {
      const isShared = (task.structures.filesStruct?.count ?? 1) > 1;
      return isShared && ON_DESCRIPTOR.has(call.number)
        ? [Number(BigInt.asIntN(32, call.args[0] ?? -1n))]
        : [];
    }
  }
}

/** In which call a task sleeps; undefined when it does not, or nobody may look into it. */
function callOf({ pid, tid }: CensusTask): CallUnderWay | undefined {
  const directory = `/proc/${pid}/task/${tid}`;
  const stat = readProcIfVisible(`${directory}/stat`);
  if (stat === undefined || !['S', 'D'].includes(parseStat(stat).state)) return undefined;
  const text = readProcIfVisible(`${directory}/syscall`);
  return text === undefined ? undefined : parseSyscall(text);
}

function polled(tid: number, { args: [address = 0n, count = 0n] }: CallUnderWay): number[] {
  if (count === 0n || count > MAX_POLLED) return [];
  const entries = tryReadMemory(tid, address, Number(count) * pollfd.size);
  if (entries === undefined) return [];
  return Array.from(
    { length: Number(count) },
    (_, index) => pollfd.decode(entries.subarray(index * pollfd.size)).fd,
  );
}

/** The kernel has copies of the sets: those of the program stay as they are until the call returns. */
function selected(tid: number, { args: [count = 0n, ...sets] }: CallUnderWay): number[] {
  const bits = Number(BigInt.asIntN(32, count));
  if (bits <= 0 || bits > MAX_SELECTED) return [];
  return sets.slice(0, 3).flatMap((address) => {
    const set = address === 0n ? undefined : tryReadMemory(tid, address, Math.ceil(bits / 8));
    if (set === undefined) return [];
    return Array.from({ length: bits }, (_, fd) => fd).filter(
      (fd) => (((set[fd >> 3] ?? 0) >> (fd & 7)) & 1) !== 0,
    );
  });
}
