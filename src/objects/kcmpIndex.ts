import { InternalError, SystemCallError } from '../errors.js';
import { kcmp } from '../sys/process.js';

/** Who holds a reference: a task, and the descriptor where files are compared. */
interface Holder {
  readonly pid: number;
  readonly fd: number;
}

interface Entry<T> {
  readonly holder: Holder;
  readonly value: T;
}

/**
 * Finds out which references of tasks lead to the same kernel object. kcmp(2) orders objects, so that the
 * distinct ones are kept sorted and a search costs the logarithm of their number. References are only
 * compared within a group, of which the caller knows that different groups hold different objects.
 */
export class KcmpIndex<T> {
  private readonly groups = new Map<string, Entry<T>[]>();

  /** `type` is KCMP_FILE and the like. */
  constructor(private readonly type: number) {}

  /** The value of the object that (pid, fd) refers to; `make` makes it when the object is new. */
  findOrAdd(group: string, pid: number, fd: number, make: () => T): { value: T; fresh: boolean } {
    let entries = this.groups.get(group);
    if (entries === undefined) {
      entries = [];
      this.groups.set(group, entries);
    }
    let low = 0;
    let high = entries.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      const entry = entries[middle];
      if (entry === undefined) throw new InternalError('the index of objects is out of bounds');
      const order = this.compare(pid, fd, entry.holder);
      if (order === undefined) {
        // Who stood for that object has ended meanwhile, or may not be looked into: begin again without it.
        entries.splice(middle, 1);
        low = 0;
        high = entries.length;
        continue;
      }
      if (order === 0) return { value: entry.value, fresh: false };
      if (order === 1) high = middle;
      else if (order === 2) low = middle + 1;
      else throw new InternalError(`kcmp gave no order: ${order}`);
    }
    const value = make();
    entries.splice(low, 0, { holder: { pid, fd }, value });
    return { value, fresh: true };
  }

  /** Undefined when the other has gone. Throws SystemCallError when the first has. */
  private compare(pid: number, fd: number, other: Holder): number | undefined {
    try {
      return kcmp(pid, other.pid, this.type, fd, other.fd);
    } catch (error) {
      kcmp(pid, pid, this.type, fd, fd);
      if (error instanceof SystemCallError) return undefined;
      throw error;
    }
  }
}
