import assert from 'node:assert/strict';
import { openSync } from 'node:fs';
import { test } from 'node:test';
import fc from 'fast-check';
import { BpfAssembler } from '../../src/bpf/assembler.js';
import { readKernelTypes } from '../../src/bpf/btf.js';
import { KernelIterator } from '../../src/bpf/iterator.js';
import { RowLayout, RowProgram, Rows } from '../../src/bpf/rows.js';
import { Walker } from '../../src/bpf/walk.js';
import { InternalError } from '../../src/errors.js';
import { skipWithoutBpf } from '../roundtrip/job.js';

test('instructions are encoded as the instruction set says', () => {
  const code = new BpfAssembler()
    .move('r6', 'r1')
    .load(4, 'r2', 'r6', 16)
    .store('r10', -8, 'r2')
    .jumpIfEqual('r2', 7, 'end')
    .addImmediate('r2', -1)
    .label('end')
    .moveImmediate('r0', 0)
    .exit()
    .assemble();
  assert.deepEqual(code.toString('hex').match(/.{16}/g), [
    'bf16000000000000', // r6 = r1
    '6162100000000000', // r2 = *(u32 *)(r6 + 16)
    '7b2af8ff00000000', // *(u64 *)(r10 - 8) = r2
    '1502010007000000', // if r2 == 7 goto +1
    '07020000ffffffff', // r2 += -1
    'b700000000000000', // r0 = 0
    '9500000000000000', // exit
  ]);
});

test('labels are placed once, and exist', () => {
  assert.throws(() => new BpfAssembler().jump('nowhere').assemble(), InternalError);
  assert.throws(() => new BpfAssembler().label('here').label('here'), InternalError);
});

test('a program runs in the kernel, and its rows come back', { skip: skipWithoutBpf }, () => {
  const types = readKernelTypes({ structures: ['task_struct'], iterators: ['task'] });
  const layout = new RowLayout(['pid', 'constant', 'comm', 'comm8', 'nothing']);
  const program = new RowProgram(types, layout);
  program.context('r7', 8);
  program.column('pid', 'r7', 'task_struct', 'tgid');
  program.assembler.moveImmediate('r1', 4711);
  program.put('constant', 'r1');
  program.probe('comm', 'r7', 'task_struct', 'comm', 16);
  program.probe('nothing', 'r7', 'task_struct', 'no_such_member');
  assert.deepEqual([...program.missing], [['nothing', 'task_struct.no_such_member']]);
  using iterator = KernelIterator.load('task', types.iterator('task') ?? 0, program.finish());
  const rows = new Rows(layout, iterator.walk());
  const own = Array.from({ length: rows.count }, (_, row) => row).filter(
    (row) => rows.u32('pid')(row) === process.pid,
  );
  assert.ok(own.length > 1, 'one row for each thread');
  for (const row of own) assert.equal(rows.u32('constant')(row), 4711);
  assert.equal(rows.text('comm', 16)(own[0] as number), 'node');
});

test('the walk sees what this process has just opened, and counts it', { skip: skipWithoutBpf }, () => {
  const fd = openSync('/proc/self/status', 'r');
  const { files } = Walker.load().walk();
  const found = Array.from({ length: files.count }, (_, row) => row).filter(
    (row) => files.u32('tgid')(row) === process.pid && files.u32('fd')(row) === fd,
  );
  assert.equal(found.length, 1);
});

test('rows read what was written, and any bytes that are no rows are refused', () => {
  const layout = new RowLayout(['a', 'b']);
  fc.assert(
    fc.property(
      fc.array(fc.tuple(fc.bigInt(0n, 2n ** 53n - 1n), fc.integer()), { maxLength: 20 }),
      (values) => {
        const bytes = Buffer.from(new ArrayBuffer(values.length * layout.size));
        values.forEach(([a, b], row) => {
          bytes.writeBigUInt64LE(a, row * 16);
          bytes.writeBigInt64LE(BigInt(b), row * 16 + 8);
        });
        const rows = new Rows(layout, bytes);
        assert.equal(rows.count, values.length);
        values.forEach(([a, b], row) => {
          assert.equal(BigInt(rows.key('a')(row)), a);
          assert.equal(rows.s32('b')(row), b);
          assert.equal(rows.u32('b')(row), b >>> 0);
        });
        const even = rows.select((row) => row % 2 === 0, ['b']);
        assert.equal(even.length, Math.ceil(values.length / 2) * 16);
      },
    ),
  );
  assert.throws(() => new Rows(layout, Buffer.alloc(15)), InternalError);
});
