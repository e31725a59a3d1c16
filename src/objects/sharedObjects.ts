import type { Holder } from '../errors.js';
import type { Census, CensusTask, Identity } from './census.js';

/** Where a reference comes from: from inside, from Stasis itself, or from anybody else. */
export type Side = 'inside' | 'own' | 'outside';

/** A kernel object that something inside refers to. */
export class SharedObject {
  /** References from inside. */
  users = 0;
  /** References of Stasis. */
  own = 0;
  /** References from outside that can be seen. */
  seenOutside = 0;
  readonly inside: Holder[] = [];
  readonly outside: Holder[] = [];

  constructor(
    readonly kind: string,
    readonly identity: Identity,
    /** The kernel's count; undefined where it can't be known. */
    readonly kernelCount: number | undefined,
  ) {}

  /** References that the kernel counts and nobody visible has. Negative when it counts fewer than there are. */
  get hidden(): number {
    if (this.kernelCount === undefined) return 0;
    return this.kernelCount - this.users - this.own - this.seenOutside;
  }

  /** Whether anything but what is inside refers to it. */
  get leaks(): boolean {
    return this.seenOutside > 0 || this.outside.length > 0 || this.hidden !== 0;
  }
}

/** The kernel objects of a container or subtree, with their users counted. */
export class SharedObjects {
  private readonly byKind = new Map<string, Map<Identity, SharedObject>>();
  private readonly comms = new Map<number, string>();

  constructor(readonly census: Census) {
    for (const { tid, pid, comm } of census.tasks) if (tid === pid) this.comms.set(pid, comm);
  }

  /** The object with that identity; made when it is new. */
  object(kind: string, identity: Identity, kernelCount: number | undefined): SharedObject {
    let objects = this.byKind.get(kind);
    if (objects === undefined) {
      objects = new Map();
      this.byKind.set(kind, objects);
    }
    let object = objects.get(identity);
    if (object === undefined) {
      object = new SharedObject(kind, identity, kernelCount);
      objects.set(identity, object);
    }
    return object;
  }

  find(kind: string, identity: Identity): SharedObject | undefined {
    return this.byKind.get(kind)?.get(identity);
  }

  ofKind(kind: string): readonly SharedObject[] {
    return [...(this.byKind.get(kind)?.values() ?? [])];
  }

  sideOf(pid: number): Side {
    if (this.census.inside.has(pid)) return 'inside';
    return pid === process.pid ? 'own' : 'outside';
  }

  holder(pid: number, details: Omit<Holder, 'pid' | 'comm'> = {}): Holder {
    return { pid, comm: this.comms.get(pid) ?? '?', ...details };
  }

  /** Counts one reference. Who has it is added by {@link addHolder}. */
  count(object: SharedObject, side: Side): void {
    if (side === 'inside') object.users++;
    else if (side === 'own') object.own++;
    else object.seenOutside++;
  }

  addHolder(object: SharedObject, holder: Holder): void {
    const side = this.sideOf(holder.pid);
    if (side === 'inside') object.inside.push(holder);
    else if (side === 'outside') object.outside.push(holder);
  }

  /** Counts a reference that one task has. */
  use(object: SharedObject, pid: number, details: Omit<Holder, 'pid' | 'comm'> = {}): void {
    this.count(object, this.sideOf(pid));
    this.addHolder(object, this.holder(pid, details));
  }
}

/** What a finding means. */
export interface Judgement {
  /** A path, `pipe:[N]`, or what else tells it apart for a person. */
  readonly name: string;
  /** Nothing that can change is shared: a restart is not in the way. */
  readonly harmless: boolean;
  /** What is shared, and why it matters or does not. */
  readonly meaning: string;
  readonly advice: string;
  /** Best explanations of references that nobody visible has. */
  readonly hiddenIn?: readonly string[];
}

/** Everything about one kind of kernel object that can leak, as its slice writes it. */
export interface SharedKind {
  readonly kind: string;
  /** Puts all objects that are used inside into the table, and counts who refers to each. */
  collect(table: SharedObjects): void;
  /** The kernel's own count of references, or why there is none to compare with. */
  readonly refUsers: 'exact' | { readonly unknown: string };
  judge(object: SharedObject, table: SharedObjects): Judgement;
}

/** One reference for each shared structure that tasks have: threads of one process are so many references. */
export function collectFromTasks(
  table: SharedObjects,
  kind: string,
  structure: (task: CensusTask) => { identity: Identity; count: number | undefined } | undefined,
): void {
  const { tasks, inside } = table.census;
  for (const task of tasks) {
    const own = inside.has(task.pid) ? structure(task) : undefined;
    if (own !== undefined) table.object(kind, own.identity, own.count);
  }
  const holders = new Set<string>();
  for (const task of tasks) {
    const own = structure(task);
    const object = own && table.find(kind, own.identity);
    if (object === undefined) continue;
    table.count(object, table.sideOf(task.pid));
    const key = `${object.identity} ${task.pid}`;
    if (holders.has(key)) continue;
    holders.add(key);
    table.addHolder(object, table.holder(task.pid));
  }
}
