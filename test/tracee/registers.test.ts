import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { findHole, remoteAddress } from '../../src/tracee/address.js';
import {
  ERESTART_RESTARTBLOCK,
  ERESTARTNOHAND,
  ERESTARTNOINTR,
  ERESTARTSYS,
  isInterruptedSyscall,
  Registers,
  resolveInterruptedSyscall,
  resumeEndlessWait,
} from '../../src/tracee/arch/x86_64/registers.js';
import { decodeStatus } from '../../src/tracee/tracee.js';

function inSyscall(number: bigint, result: bigint): Registers {
  return new Registers()
    .set('orig_rax', number)
    .set('rax', result)
    .set('rip', 0x1002n)
    .set('rdi', 1n)
    .set('rsi', 2n);
}

test('an interrupted call is issued again', () => {
  for (const result of [ERESTARTSYS, ERESTARTNOINTR, ERESTARTNOHAND]) {
    const resolved = resolveInterruptedSyscall(inSyscall(0n, result), 'lost');
    assert.equal(resolved.get('rip'), 0x1000n);
    assert.equal(resolved.get('rax'), 0n);
    assert.equal(BigInt.asIntN(64, resolved.get('orig_rax')), -1n);
  }
});

test('a call with a restart block goes on by restart_syscall while the block is there', () => {
  const resolved = resolveInterruptedSyscall(inSyscall(35n, ERESTART_RESTARTBLOCK), 'kept');
  assert.equal(resolved.get('rax'), 219n);
});

test('a sleep whose block is lost sleeps for what the kernel wrote as the rest', () => {
  const resolved = resolveInterruptedSyscall(inSyscall(35n, ERESTART_RESTARTBLOCK), 'lost');
  assert.equal(resolved.get('rax'), 35n);
  assert.equal(resolved.get('rdi'), 2n);
  const without = resolveInterruptedSyscall(inSyscall(35n, ERESTART_RESTARTBLOCK).set('rsi', 0n), 'lost');
  assert.equal(without.get('rdi'), 1n);
});

test('a finished call, and a task in user space, stay as they are', () => {
  for (const registers of [inSyscall(0n, 5n), inSyscall(0n, -4n), inSyscall(-1n, ERESTARTSYS)]) {
    assert.ok(!isInterruptedSyscall(registers));
    const resolved = resolveInterruptedSyscall(registers, 'lost');
    assert.equal(resolved.get('rip'), registers.get('rip'));
    assert.equal(resolved.get('rax'), registers.get('rax'));
  }
});

test('a wait without a timeout goes on, one with a timeout is interrupted', () => {
  const EINTR = -4n;
  const endless = [
    inSyscall(65n, EINTR),
    inSyscall(232n, EINTR).set('r10', 0xffff_ffffn),
    inSyscall(281n, EINTR).set('r10', -1n),
    inSyscall(441n, EINTR),
    inSyscall(220n, EINTR),
    inSyscall(128n, EINTR),
    inSyscall(208n, EINTR),
    inSyscall(426n, EINTR).set('r10', 1n),
  ];
  for (const registers of endless) {
    assert.equal(resumeEndlessWait(registers)?.result, ERESTARTNOHAND);
    assert.equal(resumeEndlessWait(registers.clone().set('rax', 0n)), undefined);
    assert.equal(resumeEndlessWait(registers.clone().set('orig_rax', -1n)), undefined);
  }
  const limited = [
    inSyscall(232n, EINTR).set('r10', 60n),
    inSyscall(441n, EINTR).set('r10', 0x1000n),
    inSyscall(128n, EINTR).set('rdx', 0x1000n),
    inSyscall(208n, EINTR).set('r8', 0x1000n),
    inSyscall(426n, EINTR).set('r10', 9n),
    inSyscall(0n, EINTR),
  ];
  for (const registers of limited) assert.equal(resumeEndlessWait(registers), undefined);
});

test('status words of wait4', () => {
  assert.deepEqual(decodeStatus(0x0700), { kind: 'exited', status: 7 });
  assert.deepEqual(decodeStatus(0x0009), { kind: 'killed', signal: 9 });
  assert.deepEqual(decodeStatus(0x008b), { kind: 'killed', signal: 11 });
  assert.deepEqual(decodeStatus(0x80057f), { kind: 'event', event: 128, signal: 5 });
  assert.deepEqual(decodeStatus(0x857f), { kind: 'syscall' });
  assert.deepEqual(decodeStatus(0x177f), { kind: 'signal', signal: 23 });
});

test('a hole is free and clear of all ranges', () => {
  const range = fc
    .tuple(fc.integer({ min: 1, max: 1 << 20 }), fc.integer({ min: 1, max: 4096 }))
    .map(([page, pages]) => ({
      start: remoteAddress(BigInt(page) * 4096n),
      end: remoteAddress(BigInt(page + pages) * 4096n),
    }));
  fc.assert(
    fc.property(fc.array(range), fc.integer({ min: 1, max: 1000 }), (used, pages) => {
      const start = findHole(used, pages * 4096);
      assert.ok(start !== undefined);
      const hole = { start, end: remoteAddress(start + BigInt(pages * 4096)) };
      for (const other of used) assert.ok(other.end <= hole.start || other.start >= hole.end);
    }),
  );
});
