import { pid as ownPid } from 'node:process';
import { InternalError, type Leak } from '../../errors.js';
import {
  type Census,
  type CensusTaker,
  type CensusTask,
  descendants,
  type Identity,
} from '../../objects/census.js';
import { sleepSync } from '../../sys/process.js';
import { rangeText } from './file.js';
import { blocking, type Findings, judge, type LeakPolicy, standing } from './judge.js';

/** How long to wait before a leak is looked at again, milliseconds: readers of `/proc` are gone by then. */
const LOOK_AGAIN_MS = [1, 10, 40];

const REHEARSALS = 2;

/**
 * Whether a held tree is self-contained: all objects are collected before anything is saved, the kernel's
 * counts compared, and everything looked at again at the end. As the 2009 series did in its patch 31,
 * "detect resource leaks for whole-container checkpoint".
 */
export class Containment {
  private census: Census | undefined;
  private found: Findings | undefined;

  constructor(
    private readonly taker: CensusTaker,
    private readonly root: number,
    private readonly policy: LeakPolicy,
  ) {}

  /**
   * Looks at the running tree as it will be looked at while it is held: what the JavaScript engine compiles
   * now it need not compile then, which is four times as long as the looking itself.
   */
  rehearse(): void {
    for (let look = 0; look < REHEARSALS; look++) {
      const census = this.taker.take(this.root, (tasks) => descendants(this.root, tasks));
      judge(census, this.policy);
      this.taker.isUnchanged(census);
    }
  }

  /** Collects every object that the given processes use. */
  collect(inside: ReadonlySet<number>): Census {
    this.census = this.taker.take(this.root, () => inside);
    return this.census;
  }

  /** Compares the kernel's counts with the users inside. What does not stay is no leak. */
  compare(): Findings {
    let findings = judge(this.collected(), this.policy);
    for (const milliseconds of LOOK_AGAIN_MS) {
      if (blocking(findings).length === 0) break;
      sleepSync(milliseconds);
      findings = standing(findings, judge(this.take(), this.policy));
    }
    this.found = findings;
    return findings;
  }

  /** Whether descriptors or mappings were accepted, and are to be recorded as leading outside. */
  isAccepted(pid: number, fd: number): boolean {
    return this.acceptedSlots().has(`${pid} ${fd}`);
  }

  /** What was collected of a process. */
  taskOf(tid: number): CensusTask | undefined {
    const { tasks, inside } = this.collected();
    this.tasks ??= new Map(
      tasks.filter(({ pid }) => inside.has(pid) || pid === ownPid).map((task) => [task.tid, task]),
    );
    return this.tasks.get(tid);
  }

  /** The identity of the open file in a slot; undefined where it was not collected. */
  identityOf(pid: number, fd: number): Identity | undefined {
    return this.slotIdentities().get(`${pid} ${fd}`);
  }

  /**
   * What appeared, disappeared or leaked since everything was collected, as seen after a step. Throws nothing:
   * the caller decides.
   */
  changes(step: string): Leak[] {
    const first = this.collected();
    if (this.taker.isUnchanged(first)) return [];
    let changes = this.compareWith(first, this.take(), step);
    for (const milliseconds of LOOK_AGAIN_MS) {
      if (changes.length === 0) break;
      sleepSync(milliseconds);
      const still = new Set(this.compareWith(first, this.take(), step).map(({ identity }) => identity));
      changes = changes.filter(({ identity }) => still.has(identity));
    }
    return changes;
  }

  private compareWith(first: Census, now: Census, step: string): Leak[] {
    return [
      ...changedSlots(first, now, step),
      ...changedMappings(first, now, step),
      ...this.newLeaks(now, step),
    ];
  }

  private newLeaks(now: Census, step: string): Leak[] {
    const known = new Set(this.found?.leaks.map(({ kind, identity }) => `${kind} ${identity}`));
    return blocking(judge(now, this.policy))
      .filter(({ kind, identity }) => !known.has(`${kind} ${identity}`))
      .map((leak) => ({ ...leak, reverse: step }));
  }

  private take(): Census {
    return this.taker.take(this.root, () => this.collected().inside);
  }

  private collected(): Census {
    if (this.census === undefined) throw new InternalError('nothing was collected');
    return this.census;
  }

  private tasks: ReadonlyMap<number, CensusTask> | undefined;
  private slots: ReadonlyMap<string, Identity> | undefined;

  private slotIdentities(): ReadonlyMap<string, Identity> {
    this.slots ??= new Map(
      this.collected().slots.map(({ pid, fd, file }) => [`${pid} ${fd}`, file.identity]),
    );
    return this.slots;
  }

  private accepted: ReadonlySet<string> | undefined;

  private acceptedSlots(): ReadonlySet<string> {
    if (this.found === undefined) return new Set();
    this.accepted ??= new Set(
      this.found.leaks
        .filter(({ allowed, harmless }) => allowed && !harmless)
        .flatMap(({ inside }) => inside.map(({ pid, fd }) => `${pid} ${fd}`)),
    );
    return this.accepted;
  }
}

/** Descriptors that were opened, closed or replaced from outside, and those that came into sockets. */
function changedSlots(first: Census, now: Census, step: string): Leak[] {
  const before = insideSlots(first);
  const after = insideSlots(now);
  const changes: Leak[] = [];
  for (const [place, { pid, fd, file }] of after) {
    const earlier = before.get(place);
    const inFlight =
      (file.socket?.descriptorsInFlight ?? 0) - (earlier?.file.socket?.descriptorsInFlight ?? 0);
    if (earlier === undefined) {
      changes.push(
        change(
          now,
          step,
          `opened ${place}`,
          pid,
          { fd },
          'the descriptor was not collected: it was opened from outside meanwhile',
        ),
      );
    } else if (earlier.file.identity !== file.identity) {
      changes.push(
        change(
          now,
          step,
          `replaced ${place}`,
          pid,
          { fd },
          'the descriptor was replaced from outside after it was collected',
        ),
      );
    } else if (inFlight !== 0) {
      const meaning = `${Math.abs(inFlight)} descriptors ${inFlight > 0 ? 'came into' : 'were taken out of'} the socket after it was collected`;
      changes.push(change(now, step, `in flight ${place}`, pid, { fd }, meaning));
    }
  }
  for (const [place, { pid, fd }] of before) {
    if (after.has(place)) continue;
    changes.push(
      change(
        now,
        step,
        `closed ${place}`,
        pid,
        { fd },
        'the descriptor was collected, but is gone: it was closed from outside meanwhile',
      ),
    );
  }
  return changes;
}

function insideSlots(census: Census): Map<string, Census['slots'][number]> {
  const slots = new Map<string, Census['slots'][number]>();
  for (const slot of census.slots) {
    const place = `${slot.table} ${slot.fd}`;
    if (census.inside.has(slot.pid) && !slots.has(place)) slots.set(place, slot);
  }
  return slots;
}

/** Mappings that were made or removed from outside, where an address space is shared. */
function changedMappings(first: Census, now: Census, step: string): Leak[] {
  const before = insideMappings(first);
  const after = insideMappings(now);
  const changes: Leak[] = [];
  for (const [place, { pid, mapping }] of after) {
    if (!before.has(place)) {
      changes.push(
        change(
          now,
          step,
          `mapped ${place}`,
          pid,
          { mapping },
          'the mapping was not collected: it was made from outside meanwhile',
        ),
      );
    }
  }
  for (const [place, { pid, mapping }] of before) {
    if (!after.has(place)) {
      changes.push(
        change(
          now,
          step,
          `unmapped ${place}`,
          pid,
          { mapping },
          'the mapping was collected, but is gone: it was removed from outside meanwhile',
        ),
      );
    }
  }
  return changes;
}

function insideMappings(census: Census): Map<string, { pid: number; mapping: string }> {
  const found = new Map<string, { pid: number; mapping: string }>();
  for (const { pid, mm, start, end, file } of census.mappings) {
    if (!census.inside.has(pid)) continue;
    const mapping = rangeText(start, end);
    found.set(`${mm} ${mapping} ${file.identity}`, { pid, mapping });
  }
  return found;
}

function change(
  census: Census,
  step: string,
  identity: string,
  pid: number,
  place: { readonly fd: number } | { readonly mapping: string },
  meaning: string,
): Leak {
  const comm = census.tasks.find(({ tid }) => tid === pid)?.comm ?? '?';
  const where = 'fd' in place ? `fd ${place.fd}` : `mapping ${place.mapping}`;
  return {
    kind: 'fd' in place ? 'file' : 'mm',
    name: `pid ${pid} ${where}`,
    key: 'fd' in place ? `file:${pid}:${place.fd}` : `mm:of ${pid}`,
    identity,
    kernelCount: undefined,
    users: 1,
    own: 0,
    inside: [{ pid, comm, ...place }],
    outside: [],
    hidden: 0,
    hiddenIn: [],
    reverse: step,
    harmless: false,
    allowed: false,
    meaning,
    advice: 'try again; end the process outside that shares it',
  };
}
