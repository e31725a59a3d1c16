import type { Holder } from '../errors.js';
import type { Census, CensusTask, Identity } from './census.js';

/** A library may be mapped by all processes of a machine: so many are named on each side, and all are counted. */
export const MAX_HOLDERS = 1000;

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
  /** It is reached from outside in a way that is no reference to it. */
  crosses = false;
  /** Known once all kinds were counted, and only of what leaks. */
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
    return this.seenOutside > 0 || this.crosses || this.hidden !== 0;
  }
}

/**
 * The kernel objects of a container or subtree, with their users counted. Kinds collect twice: at first all
 * references are counted; then, since few objects leak, the holders of only these are named.
 */
export class SharedObjects {
  private readonly byKind = new Map<string, Map<Identity, SharedObject>>();
  private readonly comms = new Map<number, string>();
  private naming = false;
  /** The first task of every process. */
  readonly leaders: readonly CensusTask[];

  constructor(readonly census: Census) {
    this.leaders = census.tasks.filter(({ tid, pid }) => tid === pid);
    for (const { pid, comm } of this.leaders) this.comms.set(pid, comm);
  }

  /** From here on holders are named, and nothing is counted any more. */
  nameHolders(): void {
    this.naming = true;
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

  /** Counts one reference. Who has it is said by {@link addHolder}. */
  count(object: SharedObject, side: Side): void {
    if (this.naming) return;
    if (side === 'inside') object.users++;
    else if (side === 'own') object.own++;
    else object.seenOutside++;
  }

  /** Says who refers to an object. */
  addHolder(object: SharedObject, pid: number, place: Place = {}): void {
    if (!this.names(object)) return;
    const side = this.sideOf(pid);
    if (side === 'own') return;
    const holders = side === 'inside' ? object.inside : object.outside;
    if (holders.length < MAX_HOLDERS) holders.push({ pid, comm: this.comms.get(pid) ?? '?', ...place });
  }

  /** Whether holders of this object are wanted now: to say where they hold it takes time. */
  names(object: SharedObject): boolean {
    return (
      this.naming &&
      object.leaks &&
      (object.inside.length < MAX_HOLDERS || object.outside.length < MAX_HOLDERS)
    );
  }

  /** Counts a reference that one task has. */
  use(object: SharedObject, pid: number, place: Place = {}): void {
    this.count(object, this.sideOf(pid));
    this.addHolder(object, pid, place);
  }
}

/** By what a task refers to an object. */
export type Place = Omit<Holder, 'pid' | 'comm'>;

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
  /** Puts all objects that are used inside into the table, counts references, and names holders. */
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
  for (const task of tasks) {
    const own = structure(task);
    const object = own && table.find(kind, own.identity);
    if (object === undefined) continue;
    table.count(object, table.sideOf(task.pid));
    // The threads of a process are named once.
    if (task.tid === task.pid) table.addHolder(object, task.pid);
  }
}
