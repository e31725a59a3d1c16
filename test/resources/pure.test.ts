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
import { type Member, planBirths } from '../../src/resources/tree/sessions.js';
import { addressOf } from '../../src/sys/syscall.js';
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

/** Plays a plan through as the kernel would: who is in which session and group at the end. */
function play(members: readonly Member[]): Map<number, { session: number; group: number }> {
  const { births } = planBirths(members);
  const state = new Map<number, { session: number; group: number }>();
  const root = members[0];
  if (root !== undefined) state.set(root.pid, { session: 0, group: 0 });
  for (const { member, leadsSession, leadsGroup, childrenBefore, childrenAfter, birthGroup } of births) {
    const own = state.get(member.pid);
    assert.ok(own !== undefined);
    assert.equal(own.group, birthGroup);
    if (leadsGroup) own.group = member.pid;
    for (const child of childrenBefore) state.set(child.pid, { ...own });
    if (leadsSession) own.session = own.group = member.pid;
    for (const child of childrenAfter) state.set(child.pid, { ...own });
  }
  return state;
}

test('every process of a tree that was really forked gets its session', () => {
  // A tree grows as trees do: any member forks, or makes a session of its own.
  const acts = fc.array(fc.tuple(fc.nat(), fc.boolean()), { maxLength: 40 });
  fc.assert(
    fc.property(acts, (steps) => {
      const members: { pid: number; parent: number; session: number; processGroup: number }[] = [
        { pid: 100, parent: 0, session: 0, processGroup: 0 },
      ];
      for (const [choice, forks] of steps) {
        const actor = members[choice % members.length];
        if (actor === undefined) continue;
        if (forks) members.push({ ...actor, pid: 100 + members.length, parent: actor.pid });
        else if (actor.processGroup !== actor.pid) actor.session = actor.processGroup = actor.pid;
      }
      const pids = new Set(members.map(({ pid }) => pid));
      const { obstacles } = planBirths(members);
      assert.deepEqual(obstacles, []);
      const state = play(members.filter(({ pid }) => pids.has(pid)));
      for (const { pid, session } of members) assert.equal(state.get(pid)?.session, session);
    }),
  );
});

test('a session that nobody could have brought about is an obstacle', () => {
  const { obstacles } = planBirths([
    { pid: 1, parent: 0, session: 0, processGroup: 0 },
    { pid: 2, parent: 1, session: 99, processGroup: 99 },
  ]);
  assert.equal(obstacles.length, 2);
  assert.match(obstacles[0]?.what ?? '', /session 99/);
  assert.match(obstacles[1]?.what ?? '', /process group 99 has lost its leader/);
});
