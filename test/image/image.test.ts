import assert from 'node:assert/strict';
import { closeSync, fstatSync, ftruncateSync, readFileSync, writeSync } from 'node:fs';
import { test } from 'node:test';
import fc from 'fast-check';
import { ImageError } from '../../src/errors.js';
import {
  decodeHeader,
  encodeHeader,
  HEADER_SIZE,
  PAGE_ALIGNMENT,
  recordType,
} from '../../src/image/format.js';
import { EpollSchema } from '../../src/image/generated/epoll_pb.js';
import { HeaderSchema, PagemapSchema } from '../../src/image/generated/image_pb.js';
import { readRecords } from '../../src/image/reader.js';
import { ImageWriter } from '../../src/image/writer.js';
import { loadImage } from '../../src/resources/loadImage.js';
import { createMemfd } from '../../src/sys/descriptors.js';

/** Lets `use` work with a file in memory that holds `bytes`. */
async function withFile<T>(bytes: Uint8Array, use: (fd: number) => T | Promise<T>): Promise<T> {
  const fd = createMemfd('image-test');
  try {
    for (let at = 0; at < bytes.length; ) at += writeSync(fd, bytes, at, bytes.length - at, at);
    return await use(fd);
  } finally {
    closeSync(fd);
  }
}

/** An image as the writer makes it, with a few records and pages. */
function sampleImage(pageCount = 3): Promise<Buffer> {
  return withFile(new Uint8Array(), (fd) => {
    const writer = new ImageWriter(fd, 'test');
    writer.record(recordType.header, 0, HeaderSchema, {
      architecture: 'x86_64',
      pageSize: 4096,
      rootPid: 7,
      hostname: 'somewhere',
    });
    writer.record(recordType.pagemap, 3, PagemapSchema, { runs: [{ start: 0x1000n, pages: pageCount }] });
    void writer.pages(3, pageCount * PAGE_ALIGNMENT, (buffer) => buffer.fill(0x5a));
    writer.tail();
    assert.equal(fstatSync(fd).size, writer.size);
    return readFileSync(`/proc/self/fd/${fd}`);
  });
}

test('what the writer writes, the reader reads; pages are aligned in the stream', async () => {
  await fc.assert(
    fc.asyncProperty(fc.integer({ min: 1, max: 20 }), async (pages) => {
      const records = await withFile(await sampleImage(pages), readRecords);
      assert.deepEqual(
        records.map(({ type, objref }) => [type, objref]),
        [
          [recordType.header, 0],
          [recordType.pagemap, 3],
          [recordType.pages, 3],
        ],
      );
      assert.equal((records[2]?.payloadOffset ?? 1) % PAGE_ALIGNMENT, 0);
      assert.equal(records[2]?.length, pages * PAGE_ALIGNMENT);
    }),
  );
});

test('a header survives its codec', () => {
  const header = fc.record({
    type: fc.constantFrom(1, 16, 64),
    flags: fc.nat(0xffff),
    objref: fc.nat(0xffff_ffff),
    padding: fc.nat(PAGE_ALIGNMENT - 1),
    length: fc.nat(1 << 20),
    payloadCrc: fc.nat(0xffff_ffff),
  });
  fc.assert(
    fc.property(header, (value) => {
      const bytes = encodeHeader(value);
      assert.equal(bytes.length, HEADER_SIZE);
      assert.deepEqual(decodeHeader(bytes), { ...value });
    }),
  );
});

test('any damage to any byte is found, with its offset', async () => {
  const image = await sampleImage();
  await fc.assert(
    fc.asyncProperty(fc.nat(image.length - 1), fc.integer({ min: 1, max: 255 }), async (at, change) => {
      const bytes = Buffer.from(image);
      bytes[at] = (bytes[at] ?? 0) ^ change;
      await assert.rejects(
        withFile(bytes, readRecords),
        (error) => error instanceof ImageError && error.offset >= 0 && error.field !== '',
      );
    }),
    { numRuns: 500 },
  );
});

test('an image that is cut off anywhere is refused at the place', async () => {
  const image = await sampleImage();
  await fc.assert(
    fc.asyncProperty(fc.nat(image.length - 1), async (length) => {
      await withFile(image, async (fd) => {
        ftruncateSync(fd, length);
        await assert.rejects(readRecords(fd), { code: 'ERR_IMAGE' });
      });
    }),
  );
});

test('any bytes are refused, and never anything else happens', async () => {
  const image = await sampleImage();
  const pieces = fc.oneof(
    fc.uint8Array({ maxLength: 200 }),
    fc.tuple(fc.nat(image.length), fc.nat(300)).map(([at, length]) => image.subarray(at, at + length)),
  );
  await fc.assert(
    fc.asyncProperty(fc.array(pieces, { maxLength: 8 }), fc.boolean(), async (parts, withPreamble) => {
      const bytes = Buffer.concat(withPreamble ? [image.subarray(0, 16), ...parts] : parts);
      await assert.rejects(withFile(bytes, loadImage), ImageError);
    }),
    { numRuns: 300 },
  );
});

test('records whose checksums fit and whose contents do not are refused by field', async () => {
  const cases: [RegExp, (writer: ImageWriter) => void][] = [
    [
      /header.architecture/,
      (writer) => writer.record(recordType.header, 0, HeaderSchema, { architecture: 'riscv' }),
    ],
    [/record\[0\].type/, (writer) => writer.record(recordType.pagemap, 1, PagemapSchema, {})],
    [
      /pagemap\[3\].runs at byte \d+: 2 pages, but 4096 bytes follow/,
      (writer) => {
        writer.record(recordType.header, 0, HeaderSchema, { architecture: 'x86_64', pageSize: 4096 });
        writer.record(recordType.pagemap, 3, PagemapSchema, { runs: [{ start: 0n, pages: 2 }] });
        void writer.pages(3, 4096, (buffer) => buffer.fill(0));
      },
    ],
    [
      /epoll\[2\].targets\[1\].file at byte \d+: there is no open file 5/,
      (writer) => {
        writer.record(recordType.header, 0, HeaderSchema, { architecture: 'x86_64', pageSize: 4096 });
        writer.record(70, 2, EpollSchema, { targets: [{ file: 2 }, { file: 5 }] });
      },
    ],
    [
      /epoll\[2\].targets\[0\].fd at byte \d+: no descriptor is 4294967295/,
      (writer) => {
        writer.record(recordType.header, 0, HeaderSchema, { architecture: 'x86_64', pageSize: 4096 });
        writer.record(70, 2, EpollSchema, { targets: [{ file: 2, fd: 0xffff_ffff }] });
      },
    ],
    [
      /record\[1\].type at byte \d+: 9999 is not known/,
      (writer) => {
        writer.record(recordType.header, 0, HeaderSchema, { architecture: 'x86_64', pageSize: 4096 });
        writer.record(9999, 1, PagemapSchema, {});
      },
    ],
  ];
  for (const [wanted, write] of cases) {
    await withFile(new Uint8Array(), async (fd) => {
      const writer = new ImageWriter(fd, 'test');
      write(writer);
      writer.tail();
      await assert.rejects(loadImage(fd), wanted);
    });
  }
});

test('a stream that ends with an error record is refused with its text', async () => {
  const fd = createMemfd('image-test');
  try {
    await new ImageWriter(fd, 'test').error('ERR_UNSUPPORTED', 'there was a socket');
    await assert.rejects(
      readRecords(fd),
      /the checkpoint that wrote it failed: there was a socket \(ERR_UNSUPPORTED\)/,
    );
  } finally {
    closeSync(fd);
  }
});
