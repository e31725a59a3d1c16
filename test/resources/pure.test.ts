import assert from 'node:assert/strict';
import { closeSync, openSync, readFileSync } from 'node:fs';
import { test } from 'node:test';
import fc from 'fast-check';
import { recordType } from '../../src/image/format.js';
import { FILES_STRUCT_RECORD } from '../../src/resources/filesStruct.js';
import { fileKinds, processKinds, threadKinds } from '../../src/resources/index.js';
import { buildIdOf, findBuildId } from '../../src/resources/mm/buildId.js';
import { MEMORY_MAP_RECORD, SHARED_MEMORY_RECORD } from '../../src/resources/mm/checkpoint.js';
import { MAPPED_FILE_RECORD } from '../../src/resources/mm/mappedFile.js';
import { intersect, readPagemap, split, surveyPages } from '../../src/resources/mm/pages.js';
import { PROCESS_RECORD } from '../../src/resources/process.js';
import { type BirthPlan, type Creation, type Member, planBirths } from '../../src/resources/tree/births.js';
import { addressOf } from '../../src/sys/syscall.js';
import { cloneFlag } from '../../src/sys/uapi.js';
import { type AddressRange, remoteAddress } from '../../src/tracee/address.js';
import { VERSION } from '../../src/version.js';

test('every record type is given once', () => {
  const types = [
    ...Object.values(recordType),
    ...[...fileKinds, ...processKinds, ...threadKinds].map((kind) => kind.recordType),
    MEMORY_MAP_RECORD,
    SHARED_MEMORY_RECORD,
    MAPPED_FILE_RECORD,
    FILES_STRUCT_RECORD,
    PROCESS_RECORD,
  ];
  assert.equal(new Set(types).size, types.length);
});

test('the version is that of package.json', () => {
  assert.equal(JSON.parse(readFileSync('package.json', 'utf8')).version, VERSION);
});

test('a build-id is found, and anything else is none', () => {
  assert.equal(buildIdOf('/bin/sh').length, 20);
  assert.equal(buildIdOf('/etc/passwd').length, 0);
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
      const id = findBuildId(Buffer.from(bytes));
      assert.ok(id === undefined || id.length <= bytes.length);
    }),
  );
});

/** Ranges that ascend and do not touch, in pages. */
const ranges = fc
  .array(fc.tuple(fc.integer({ min: 1, max: 9 }), fc.integer({ min: 1, max: 9 })))
  .map((steps) => {
    let at = 0n;
    return steps.map(([gap, length]): AddressRange => {
      const start = at + BigInt(gap) * 4096n;
      at = start + BigInt(length) * 4096n;
      return { start: remoteAddress(start), end: remoteAddress(at) };
    });
  });

function pagesOf(list: readonly AddressRange[]): bigint[] {
  return list.flatMap(({ start, end }) =>
    Array.from({ length: Number((end - start) / 4096n) }, (_, index) => start + BigInt(index) * 4096n),
  );
}

test('the intersection has just the pages that both have', () => {
  fc.assert(
    fc.property(ranges, ranges, (one, other) => {
      const inOther = new Set(pagesOf(other));
      assert.deepEqual(
        pagesOf(intersect(one, other)),
        pagesOf(one).filter((page) => inOther.has(page)),
      );
    }),
  );
});

test('reading /proc/PID/pagemap finds the pages that PAGEMAP_SCAN finds', () => {
  // Every second of these pages has contents; the others were never touched.
  const memory = Buffer.allocUnsafeSlow(64 * 4096 + 4096);
  const start = (addressOf(memory) + 4095n) & ~4095n;
  const offset = Number(start - addressOf(memory));
  for (let page = 0; page < 64; page += 2) memory[offset + page * 4096] = 1;
  const range = { start: remoteAddress(start), end: remoteAddress(start + 64n * 4096n) };
  const fd = openSync('/proc/self/pagemap', 'r');
  try {
    const read = pagesOf(readPagemap(fd, [range]));
    assert.ok(read.length >= 32);
    const scanned = new Set(pagesOf(surveyPages(process.pid, [range]).own));
    assert.ok(scanned.size >= 32);
    // Only the ioctl tells the zero page from others.
    for (const page of scanned) assert.ok(read.includes(page));
  } finally {
    closeSync(fd);
  }
});

test('parts have all pages in order, and none is too large', () => {
  fc.assert(
    fc.property(ranges, fc.integer({ min: 1, max: 20 }), (list, pages) => {
      const parts = [...split(list, pages * 4096)];
      assert.deepEqual(parts.flatMap(pagesOf), pagesOf(list));
      for (const part of parts) assert.ok(pagesOf(part).length <= pages);
    }),
  );
});

interface Placed {
  parent: number;
  session: number;
  group: number;
}

/** Plays a plan through as the kernel would: who is where when all is done. */
function play(plan: BirthPlan, root: number): Map<number, Placed> {
  const state = new Map<number, Placed>([[root, { parent: 0, session: 0, group: 0 }]]);
  const at = (pid: number): Placed => {
    const found = state.get(pid);
    assert.ok(found !== undefined, `${pid} is not there`);
    return found;
  };
  const make = (parent: number, creations: readonly Creation[]): void => {
    for (const { pid } of creations) state.set(pid, { ...at(parent), parent });
  };
  for (const { pid, leadsSession, leadsGroup, childrenBefore, childrenAfter } of plan.births) {
    const own = at(pid);
    make(pid, childrenBefore);
    if (leadsSession) {
      assert.notEqual(own.group, pid, 'setsid(2) fails for the leader of a group');
      own.session = own.group = pid;
    }
    make(pid, childrenAfter);
    if (leadsGroup) own.group = pid;
  }
  for (const { pid, joins } of plan.births) {
    if (joins === 0) continue;
    const there = [...state.values()].some(
      ({ group, session }) => group === joins && session === at(pid).session,
    );
    assert.ok(there, `setpgid(2) fails: group ${joins} is not in session ${at(pid).session}`);
    at(pid).group = joins;
  }
  for (const { pid, adopter } of plan.ghosts) {
    state.delete(pid);
    for (const placed of state.values()) if (placed.parent === pid) placed.parent = adopter;
  }
  return state;
}

/** What may happen in the life of a tree whose root adopts orphans. */
const lives = fc.array(
  fc.tuple(
    fc.constantFrom('fork', 'fork', 'fork', 'setsid', 'lead', 'join', 'end'),
    fc.nat(999),
    fc.nat(999),
  ),
  { maxLength: 60, size: 'max' },
);

test('every process of a tree that really grew gets its parent, session and group again', () => {
  let ghosts = 0;
  fc.assert(
    fc.property(lives, (acts) => {
      const root = { pid: 100, parent: 0, session: 0, processGroup: 0 };
      let members = [root];
      let born = 0;
      for (const [act, choice, second] of acts) {
        const actor = members[choice % members.length] ?? root;
        const other = members[second % members.length] ?? root;
        const isGroup = members.some(({ processGroup }) => processGroup === actor.pid);
        const isLed = members.some((member) => member !== actor && member.processGroup === actor.pid);
        if (act === 'fork') members.push({ ...actor, pid: 101 + born++, parent: actor.pid });
        else if (act === 'setsid' && !isGroup) actor.session = actor.processGroup = actor.pid;
        else if (act === 'lead' && actor.session !== actor.pid) actor.processGroup = actor.pid;
        else if (act === 'join' && !isLed && actor.session !== actor.pid && actor.session === other.session) {
          actor.processGroup = other.processGroup;
        } else if (act === 'end' && actor !== root) {
          members = members.filter((member) => member !== actor);
          const orphans = members.filter(({ parent }) => parent === actor.pid);
          for (const orphan of orphans) orphan.parent = root.pid;
          members = [...members.filter((member) => !orphans.includes(member)), ...orphans];
        }
      }
      // Parents first, as a walk from the root finds them.
      const ordered = [root];
      for (const { pid } of ordered) ordered.push(...members.filter(({ parent }) => parent === pid));
      const plan = planBirths(ordered.map(asMember));
      assert.deepEqual(plan.obstacles, []);
      ghosts += plan.ghosts.length;
      const state = play(plan, root.pid);
      assert.deepEqual([...state.keys()].sort(), ordered.map(({ pid }) => pid).sort());
      for (const { pid, parent, session, processGroup } of ordered) {
        assert.deepEqual({ pid, ...state.get(pid) }, { pid, parent, session, group: processGroup });
      }
    }),
    { numRuns: 1000 },
  );
  assert.ok(ghosts > 100, `only ${ghosts} ghosts: the trees are too tame`);
});

function asMember(place: {
  readonly pid: number;
  readonly parent: number;
  readonly session: number;
  readonly processGroup: number;
}): Member {
  return { ...place, parentThread: place.parent, mm: 0, files: 0, fs: 0, sighand: 0 };
}

test('a session into which nobody in the tree can bring a process is an obstacle', () => {
  const { obstacles } = planBirths(
    [
      { pid: 1, parent: 0, session: 0, processGroup: 0 },
      { pid: 2, parent: 1, session: 2, processGroup: 2 },
      { pid: 3, parent: 2, session: 0, processGroup: 0 },
      { pid: 4, parent: 3, session: 4, processGroup: 4 },
      { pid: 5, parent: 4, session: 2, processGroup: 2 },
    ].map(asMember),
  );
  assert.deepEqual(
    obstacles.map(({ pid }) => pid),
    [5],
  );
  assert.match(obstacles[0]?.what ?? '', /session 2/);
});

test('what is shared with others than the parent is an obstacle', () => {
  const plain = { session: 0, processGroup: 0 };
  const { births, obstacles } = planBirths([
    { ...asMember({ pid: 1, parent: 0, ...plain }), mm: 7, files: 8 },
    { ...asMember({ pid: 2, parent: 1, ...plain }), mm: 7, files: 9 },
    { ...asMember({ pid: 3, parent: 1, ...plain }), mm: 10, files: 9 },
  ]);
  assert.equal(births[0]?.childrenAfter[0]?.flags, cloneFlag.CLONE_VM);
  assert.deepEqual(
    obstacles.map(({ pid, what }) => [pid, /file table/.test(what)]),
    [[3, true]],
  );
});
