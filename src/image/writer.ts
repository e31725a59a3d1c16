import { writevSync } from 'node:fs';
import { crc32 } from 'node:zlib';
import { create, type DescMessage, type MessageInitShape, toBinary } from '@bufbuild/protobuf';
import { OutputError } from '../errors.js';
import { sleepSync } from '../sys/process.js';
import {
  encodeHeader,
  encodePreamble,
  HEADER_SIZE,
  PAGE_ALIGNMENT,
  PREAMBLE_SIZE,
  recordType,
  trailingPadding,
} from './format.js';
import { ErrorRecordSchema, TailSchema } from './generated/image_pb.js';

/** Bytes of pages that are kept until the processes run again: those of small trees are all. */
const KEPT_PAGES = 64 << 20;
const ZEROS = Buffer.alloc(PAGE_ALIGNMENT);

/**
 * Writes an image stream in one pass to a descriptor, which may be a pipe. Throws OutputError when the
 * other side takes no more.
 */
export class ImageWriter {
  /** Messages that wait to be encoded. */
  private queue: (() => void)[] = [];
  private gathered: Uint8Array[] = [encodePreamble()];
  private gatheredSize = PREAMBLE_SIZE;
  private written = 0;
  private records = 0;
  private room = KEPT_PAGES;
  private buffer = Buffer.alloc(0);

  constructor(
    private readonly fd: number,
    /** For messages. */
    private readonly name: string,
  ) {}

  /** Bytes of the stream so far, without what waits to be encoded. */
  get size(): number {
    return this.written + this.gatheredSize;
  }

  /**
   * Appends a record with a message as its payload. The message must not change any more: it is encoded
   * with {@link flush}, when the processes that it tells of may run again.
   */
  record<Desc extends DescMessage>(
    type: number,
    objref: number,
    schema: Desc,
    init: MessageInitShape<Desc>,
  ): void {
    this.queue.push(() => this.append(type, objref, toBinary(schema, create(schema, init))));
  }

  /**
   * Appends a record of raw pages, aligned to a page in the stream. `fill` puts them into the buffer that it
   * is given. As long as there is room they are kept, to be written with {@link flush}; else they are
   * written at once, and the buffer is used again.
   */
  pages(objref: number, length: number, fill: (buffer: Buffer) => void): void {
    if (length <= this.room) {
      this.room -= length;
      const kept = Buffer.allocUnsafeSlow(length);
      fill(kept);
      this.queue.push(() => this.appendPages(objref, kept));
      return;
    }
    if (this.buffer.length < length) this.buffer = Buffer.allocUnsafeSlow(length);
    const pages = this.buffer.subarray(0, length);
    fill(pages);
    this.encode();
    this.appendPages(objref, pages);
    this.flush();
  }

  private appendPages(objref: number, bytes: Uint8Array): void {
    const padding = (PAGE_ALIGNMENT - ((this.size + HEADER_SIZE) % PAGE_ALIGNMENT)) % PAGE_ALIGNMENT;
    const header = { type: recordType.pages, flags: 0, objref, padding, length: bytes.length };
    this.push(encodeHeader({ ...header, payloadCrc: crc32(bytes) }));
    this.push(ZEROS.subarray(0, padding));
    this.push(bytes);
    this.records++;
  }

  /** Ends the stream: with this record it is complete. */
  tail(): void {
    this.encode();
    this.record(recordType.tail, 0, TailSchema, { records: this.records, bytes: BigInt(this.size) });
    this.flush();
  }

  /** Ends a stream that will not be completed by the reason for that. */
  error(code: string, message: string): void {
    this.record(recordType.error, 0, ErrorRecordSchema, { code, message });
    this.flush();
  }

  private append(type: number, objref: number, payload: Uint8Array): void {
    this.push(
      encodeHeader({
        type,
        flags: 0,
        objref,
        padding: 0,
        length: payload.length,
        payloadCrc: crc32(payload),
      }),
    );
    this.push(payload);
    this.push(ZEROS.subarray(0, trailingPadding(payload.length)));
    this.records++;
  }

  private encode(): void {
    for (const append of this.queue.splice(0)) append();
  }

  private push(bytes: Uint8Array): void {
    if (bytes.length === 0) return;
    this.gathered.push(bytes);
    this.gatheredSize += bytes.length;
  }

  /** Encodes and writes out everything. */
  flush(): void {
    this.encode();
    const chunks = this.gathered;
    this.gathered = [];
    const size = this.gatheredSize;
    this.gatheredSize = 0;
    this.written += size;
    const MAX_CHUNKS = 1000;
    for (let i = 0; i < chunks.length; i += MAX_CHUNKS) this.writeAll(chunks.slice(i, i + MAX_CHUNKS));
  }

  private writeAll(chunks: Uint8Array[]): void {
    let rest = chunks;
    while (rest.length > 0) rest = dropBytes(rest, this.writeSome(rest));
  }

  private writeSome(chunks: Uint8Array[]): number {
    try {
      return writevSync(this.fd, chunks);
    } catch (error) {
      const code = error instanceof Error && 'code' in error ? error.code : undefined;
      if (code === 'EAGAIN') {
        // A pipe that its reader made non-blocking, and that is full.
        sleepSync(1);
        return 0;
      }
      throw new OutputError(`the image can't be written to ${this.name}`, {
        reason: code === undefined ? String(error) : (OUTPUT_REASONS[String(code)] ?? String(code)),
        advice: 'the target runs on; make room or choose another place, and checkpoint again',
        cause: error,
      });
    }
  }
}

const OUTPUT_REASONS: Readonly<Record<string, string>> = {
  ENOSPC: 'no space is left there',
  EDQUOT: 'the disk quota is used up',
  EFBIG: 'the file would become larger than the limit for files',
  EPIPE: 'the reader of the pipe has ended',
  EIO: 'the device reports an input/output error',
};

function dropBytes(chunks: Uint8Array[], count: number): Uint8Array[] {
  let left = count;
  for (const [index, chunk] of chunks.entries()) {
    if (left < chunk.length) return [chunk.subarray(left), ...chunks.slice(index + 1)];
    left -= chunk.length;
  }
  return [];
}
