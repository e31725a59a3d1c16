import type { Leak } from '../../errors.js';
import type { Census, NotVerified } from '../../objects/census.js';
import { type SharedKind, type SharedObject, SharedObjects } from '../../objects/sharedObjects.js';
import { sharedKinds } from './index.js';

/** What a look at all shared objects found. */
export interface Findings {
  /** All objects that something inside refers to. */
  readonly objects: number;
  /** How many of each kind. */
  readonly objectsByKind: Readonly<Record<string, number>>;
  readonly leaks: readonly Leak[];
  readonly notVerified: readonly NotVerified[];
}

/** Which leaks a caller accepts: a kind, `kind:name`, `kind:pid:fd`, or `stdio`. */
export class LeakPolicy {
  private readonly keys: ReadonlySet<string>;

  constructor(keys: readonly string[]) {
    this.keys = new Set(keys);
  }

  /** Whether it accepts anything at all. */
  get allowsAny(): boolean {
    return this.keys.size > 0;
  }

  allows({ kind, name, inside }: Pick<Leak, 'kind' | 'name' | 'inside'>): boolean {
    if (this.keys.has(kind) || this.keys.has(`${kind}:${name}`)) return true;
    const slots = inside.filter(({ fd }) => fd !== undefined);
    if (slots.some(({ pid, fd }) => this.keys.has(`${kind}:${pid}:${fd}`))) return true;
    return this.keys.has('stdio') && slots.length > 0 && slots.every(({ fd = 3 }) => fd <= 2);
  }
}

/** Compares the kernel's counts with the users inside, of every object of every kind. */
export function judge(census: Census, policy: LeakPolicy): Findings {
  const table = new SharedObjects(census);
  const leaks: Leak[] = [];
  const notVerified: NotVerified[] = [...census.notVerified];
  const objectsByKind: Record<string, number> = {};
  let objects = 0;
  for (const kind of sharedKinds) kind.collect(table);
  table.nameHolders();
  for (const kind of sharedKinds) {
    if (table.ofKind(kind.kind).some((object) => object.leaks)) kind.collect(table);
    const found = table.ofKind(kind.kind);
    if (found.length > 0) objectsByKind[kind.kind] = found.length;
    objects += found.length;
    for (const object of found) if (object.leaks) leaks.push(leakOf(kind, object, table, policy));
    if (found.length > 0) notVerified.push(...unverified(kind, found));
  }
  return { objects, objectsByKind, leaks, notVerified };
}

/** Leaks that both looks saw, as the later one saw them: what is gone in between was on its way. */
export function standing(earlier: Findings, later: Findings): Findings {
  const seen = new Set(earlier.leaks.map(identityOf));
  return { ...later, leaks: later.leaks.filter((leak) => seen.has(identityOf(leak))) };
}

/** What keeps a checkpoint from being self-contained. */
export function blocking({ leaks }: Pick<Findings, 'leaks'>): readonly Leak[] {
  return leaks.filter(({ harmless, allowed }) => !harmless && !allowed);
}

function identityOf({ kind, identity }: Leak): string {
  return `${kind} ${identity}`;
}

function leakOf(kind: SharedKind, object: SharedObject, table: SharedObjects, policy: LeakPolicy): Leak {
  const { name, harmless, meaning, advice, hiddenIn = [] } = kind.judge(object, table);
  const found = {
    kind: kind.kind,
    name,
    key: `${kind.kind}:${name}`,
    identity: identityText(object),
    kernelCount: object.kernelCount,
    users: object.users,
    own: object.own,
    inside: object.inside,
    outside: object.outside,
    hidden: Math.max(0, object.hidden),
    hiddenIn: object.hidden > 0 ? hiddenIn : [],
    ...(object.hidden < 0 ? { reverse: 'collect' } : {}),
    harmless,
    meaning: object.hidden < 0 ? 'the kernel counts fewer references than there are inside' : meaning,
    advice,
  };
  return { ...found, allowed: policy.allows(found) };
}

function unverified(kind: SharedKind, objects: readonly SharedObject[]): NotVerified[] {
  if (kind.refUsers !== 'exact') return [{ kind: kind.kind, reason: kind.refUsers.unknown }];
  if (objects.every(({ kernelCount }) => kernelCount !== undefined)) return [];
  return [
    { kind: kind.kind, reason: 'the kernel count can not be read here: only visible holders are known' },
  ];
}

/** Addresses in the kernel begin with ones, which a key leaves out. */
function identityText({ identity }: SharedObject): string {
  if (typeof identity === 'string' || identity < 0x1_0000_0000) return String(identity);
  return `0x${(BigInt(identity) | 0xffe0_0000_0000_0000n).toString(16)}`;
}
