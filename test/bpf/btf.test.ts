import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { test } from 'node:test';
import fc from 'fast-check';
import { KernelTypes, readKernelTypes } from '../../src/bpf/btf.js';
import { KernelTypesError } from '../../src/errors.js';
import { cloneArgs, iovec } from '../../src/sys/structs.js';

const VMLINUX = '/sys/kernel/btf/vmlinux';
const skip = existsSync(VMLINUX) ? false : `there is no ${VMLINUX}`;
const STRUCTURES = ['clone_args', 'iovec', 'file', 'task_struct', 'mm_struct', 'unix_sock'];
const WANTED = { structures: STRUCTURES, iterators: ['task', 'task_file'] };

test('members lie where the headers have them', { skip }, () => {
  const types = readKernelTypes(WANTED);
  for (const [structure, layout] of [
    ['clone_args', cloneArgs],
    ['iovec', iovec],
  ] as const) {
    assert.equal(types.structureSize(structure), layout.size);
    for (const [name, offset] of Object.entries(layout.offsets)) {
      assert.deepEqual([name, types.findMember(structure, name)?.offset], [name, offset]);
    }
  }
});

test('members are found through structures without names, and by path', { skip }, () => {
  const types = readKernelTypes(WANTED);
  assert.equal(types.findMember('mm_struct', 'mm_users')?.size, 4, 'inside a structure without a name');
  const sock = types.findMember('unix_sock', 'sk.__sk_common.skc_family');
  assert.equal(sock?.size, 2);
  assert.equal(types.findMember('task_struct', 'mm')?.structure, 'mm_struct');
  assert.equal(types.findMember('task_struct', 'no_such_member'), undefined);
  assert.equal(types.findMember('no_such_structure', 'member'), undefined);
  assert.ok((types.iterator('task_file') ?? 0) > 0);
  assert.equal(types.iterator('no_such_iterator'), undefined);
});

test('any other data is refused, and never anything else happens', { skip }, () => {
  const real = readFileSync(VMLINUX);
  const refusedOrRead = (data: Buffer): void => {
    try {
      const types = new KernelTypes(data, WANTED);
      for (const structure of STRUCTURES) types.findMember(structure, 'f_ref');
    } catch (error) {
      if (!(error instanceof KernelTypesError)) throw error;
    }
  };
  fc.assert(fc.property(fc.uint8Array({ maxLength: 300 }), (bytes) => refusedOrRead(Buffer.from(bytes))));
  const header = real.subarray(0, 24);
  fc.assert(
    fc.property(fc.uint8Array({ minLength: 24, maxLength: 600 }), fc.nat(400), (bytes, typesSize) => {
      const data = Buffer.concat([header, bytes]);
      const aligned = typesSize & ~3;
      data.writeUInt32LE(0, 8);
      data.writeUInt32LE(aligned, 12);
      data.writeUInt32LE(aligned, 16);
      data.writeUInt32LE(Math.max(0, bytes.length - aligned), 20);
      refusedOrRead(data);
    }),
    { numRuns: 500 },
  );
  fc.assert(
    fc.property(fc.nat(real.length - 1), fc.nat(255), (at, value) => {
      const data = Buffer.from(real);
      data[at] = value;
      refusedOrRead(data);
    }),
    { numRuns: 20 },
  );
});
