import { fstatSync, readSync } from 'node:fs';
import { crc32 } from 'node:zlib';
import { type DescMessage, fromBinary, type MessageShape } from '@bufbuild/protobuf';
import { ImageError } from '../errors.js';
import {
  decodeHeader,
  FORMAT_VERSION,
  HEADER_SIZE,
  MAGIC,
  PAGE_ALIGNMENT,
  PREAMBLE_SIZE,
  type RecordHeader,
  recordType,
  trailingPadding,
} from './format.js';
import { ErrorRecordSchema, TailSchema } from './generated/image_pb.js';
import { checksumPages, type PageSpan } from './pageChecksums.js';

/** A record whose checksums fit. */
export interface ImageRecord {
  readonly type: number;
  readonly objref: number;
  /** Where its header begins in the stream, bytes. */
  readonly offset: number;
  /** Where its payload begins, bytes. */
  readonly payloadOffset: number;
  readonly length: number;
  /** The payload; empty for pages, which stay in the file. */
  readonly payload: Uint8Array;
}

const AHEAD_SIZE = 0x4000;

/**
 * Reads all records of an image in a regular file and checks every byte: frames, checksums, and that the
 * tail stands where the stream ends. Raw pages are checked and left where they are.
 *
 * Throws ImageError with the offset and field of what is wrong, also when the stream ends with the error
 * record of a checkpoint that failed.
 */
export async function readRecords(fd: number): Promise<ImageRecord[]> {
  const reader = new Reader(fd);
  reader.preamble();
  const records: ImageRecord[] = [];
  for (;;) {
    const record = reader.next(records.length);
    if (record.type === recordType.error) throw failedCheckpoint(record);
    if (record.type === recordType.tail) {
      reader.finish(record, records.length);
      await checkPages(fd, reader.pages);
      return records;
    }
    records.push(record);
  }
}

/** Decodes a record's payload. Throws ImageError. */
export function decodePayload<Desc extends DescMessage>(
  record: ImageRecord,
  schema: Desc,
  field: string,
): MessageShape<Desc> {
  try {
    return fromBinary(schema, record.payload);
  } catch (error) {
    throw new ImageError(record.payloadOffset, field, 'the payload is no valid message', { cause: error });
  }
}

/** Raw pages in the stream, and the checksum that they are to have. */
interface CheckedSpan extends PageSpan {
  readonly name: string;
  readonly crc: number;
}

async function checkPages(fd: number, spans: readonly CheckedSpan[]): Promise<void> {
  const checksums = await checksumPages(fd, spans);
  for (const [index, { name, offset, crc }] of spans.entries()) {
    if (checksums[index] === crc) continue;
    throw new ImageError(offset, `${name}.pages`, 'the checksum does not fit: the pages are damaged');
  }
}

class Reader {
  /** What is to be checked when all records are known. */
  readonly pages: CheckedSpan[] = [];
  private position = 0;
  private readonly size: number;
  private readonly ahead = Buffer.alloc(AHEAD_SIZE);
  private aheadStart = 0;
  private aheadLength = 0;

  constructor(private readonly fd: number) {
    this.size = fstatSync(fd).size;
  }

  preamble(): void {
    const bytes = this.take(PREAMBLE_SIZE, 'preamble');
    if (!bytes.subarray(0, MAGIC.length).equals(MAGIC)) {
      const text = bytes.subarray(0, 6).equals(MAGIC.subarray(0, 6));
      throw new ImageError(
        0,
        'preamble.magic',
        text ? 'its line ending was changed: it was copied as text' : 'this is no Stasis image',
      );
    }
    if (crc32(bytes.subarray(0, 12)) !== bytes.readUInt32LE(12)) {
      throw new ImageError(12, 'preamble.crc', 'the checksum does not fit');
    }
    const version = bytes.readUInt32LE(8);
    if (version !== FORMAT_VERSION) {
      throw new ImageError(8, 'preamble.version', `format ${version}, this Stasis reads ${FORMAT_VERSION}`, {
        advice: 'use the version of Stasis that wrote it, or a newer one',
      });
    }
  }

  next(index: number): ImageRecord {
    const offset = this.position;
    const name = `record[${index}]`;
    const decoded = decodeHeader(this.take(HEADER_SIZE, `${name}.header`));
    if ('problem' in decoded) throw new ImageError(offset, `${name}.${decoded.field}`, decoded.problem);
    this.skipZeros(decoded.padding, `${name}.padding`);
    const payloadOffset = this.position;
    const payload =
      decoded.type === recordType.pages
        ? this.passPages(decoded, payloadOffset, name)
        : this.checkPayload(decoded, payloadOffset, name);
    return {
      type: decoded.type,
      objref: decoded.objref,
      offset,
      payloadOffset,
      length: decoded.length,
      payload,
    };
  }

  finish(tail: ImageRecord, records: number): void {
    const { records: expected, bytes } = decodePayload(tail, TailSchema, 'tail');
    if (expected !== records) {
      throw new ImageError(tail.offset, 'tail.records', `${expected}, but ${records} were read`);
    }
    if (Number(bytes) !== tail.offset) {
      throw new ImageError(tail.offset, 'tail.bytes', `${bytes}, but the tail is at ${tail.offset}`);
    }
    if (this.position !== this.size) {
      throw new ImageError(this.position, 'end', 'bytes follow behind the tail');
    }
  }

  private checkPayload(header: RecordHeader, at: number, name: string): Uint8Array {
    const payload = this.take(header.length, `${name}.payload`);
    if (crc32(payload) !== header.payloadCrc) {
      throw new ImageError(at, `${name}.payload`, 'the checksum does not fit: the payload is damaged');
    }
    this.skipZeros(trailingPadding(header.length), `${name}.end`);
    return payload;
  }

  private passPages({ length, payloadCrc }: RecordHeader, at: number, name: string): Uint8Array {
    if (at % PAGE_ALIGNMENT !== 0 || length % PAGE_ALIGNMENT !== 0) {
      throw new ImageError(at, `${name}.pages`, 'pages that are not aligned');
    }
    if (at + length > this.size) throw cutOff(this.size, `${name}.pages`);
    this.pages.push({ name, offset: at, length, crc: payloadCrc });
    this.position += length;
    return new Uint8Array();
  }

  private skipZeros(length: number, field: string): void {
    if (length > 0 && this.take(length, field).some((byte) => byte !== 0)) {
      throw new ImageError(this.position - length, field, 'padding that is not zero');
    }
  }

  private take(length: number, field: string): Buffer {
    return this.fill(Buffer.allocUnsafe(length), field);
  }

  private fill(buffer: Buffer, field: string): Buffer {
    let filled = this.fromAhead(buffer);
    while (filled < buffer.length) {
      const wanted = buffer.length - filled;
      if (wanted < AHEAD_SIZE) {
        // Most records are small: many come with one read.
        this.aheadStart = this.position + filled;
        this.aheadLength = readSync(this.fd, this.ahead, 0, AHEAD_SIZE, this.aheadStart);
        if (this.aheadLength > 0) {
          filled += this.fromAhead(buffer, filled);
          continue;
        }
      }
      const count = readSync(this.fd, buffer, filled, wanted, this.position + filled);
      if (count === 0) {
        throw cutOff(this.position + filled, field);
      }
      filled += count;
    }
    this.position += filled;
    return buffer;
  }

  /** Takes what was read ahead, from `filled` on. Returns how many bytes. */
  private fromAhead(buffer: Buffer, filled = 0): number {
    const from = this.position + filled - this.aheadStart;
    if (from < 0 || from >= this.aheadLength) return 0;
    return this.ahead.copy(buffer, filled, from, this.aheadLength);
  }
}

function cutOff(offset: number, field: string): ImageError {
  return new ImageError(offset, field, 'the stream ends here: it was cut off');
}

function failedCheckpoint(record: ImageRecord): ImageError {
  const { code, message } = decodePayload(record, ErrorRecordSchema, 'error');
  return new ImageError(record.offset, 'error', `the checkpoint that wrote it failed: ${message} (${code})`, {
    advice: 'see to the reason and checkpoint again',
  });
}
