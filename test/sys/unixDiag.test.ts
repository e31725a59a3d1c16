import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { parseMessages, type UnixSocketRow } from '../../src/sys/unixDiag.js';

test('a socket with a peer, and one with others waiting, are read', () => {
  const attribute = (type: number, ...inodes: number[]): Buffer => {
    const bytes = Buffer.alloc(4 + 4 * inodes.length);
    bytes.writeUInt16LE(bytes.length, 0);
    bytes.writeUInt16LE(type, 2);
    for (const [index, inode] of inodes.entries()) bytes.writeUInt32LE(inode, 4 + 4 * index);
    return bytes;
  };
  const message = (inode: number, ...attributes: Buffer[]): Buffer => {
    const bytes = Buffer.concat([Buffer.alloc(32), ...attributes]);
    bytes.writeUInt32LE(bytes.length, 0);
    bytes.writeUInt16LE(20, 4);
    bytes.writeUInt8(1, 17);
    bytes.writeUInt32LE(inode, 20);
    return bytes;
  };
  const rows: UnixSocketRow[] = [];
  assert.equal(
    parseMessages(Buffer.concat([message(5, attribute(2, 6)), message(7, attribute(3, 8, 9))]), rows),
    1,
  );
  assert.deepEqual(
    rows.map(({ inode, peer, waiting }) => ({ inode, peer, waiting })),
    [
      { inode: 5, peer: 6, waiting: [] },
      { inode: 7, peer: undefined, waiting: [8, 9] },
    ],
  );
});

test('any bytes are read, or end the list', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
      assert.ok(parseMessages(Buffer.from(bytes), []) <= 1);
    }),
  );
});
