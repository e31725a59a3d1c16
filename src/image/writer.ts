import { writevSync } from 'node:fs';
import { crc32 } from 'node:zlib';
import { create, type DescMessage, type MessageInitShape, toBinary } from '@bufbuild/protobuf';
import { OutputError } from '../errors.js';
import { nr } from '../sys/arch/index.js';
import { errno, errnoName } from '../sys/errno.js';
import { sleepSync } from '../sys/process.js';
import { iovec } from '../sys/structs.js';
import { addressOf, syscallInBackground, systemCallError } from '../sys/syscall.js';
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
/** IOV_MAX of limits.h, and a little less. */
const MAX_CHUNKS = 1000;
const ZEROS = Buffer.alloc(PAGE_ALIGNMENT);

/**
 * Writes an image stream in one pass to a descriptor, which may be a pipe. Throws OutputError when the
 * other side takes no more.
 */
export class ImageWriter implements AsyncDisposable {
  /** Messages that wait to be encoded. */
  private queue: (() => void)[] = [];
  private gathered: Uint8Array[] = [encodePreamble()];
  private gatheredSize = PREAMBLE_SIZE;
  private written = 0;
  private records = 0;
  private room = KEPT_PAGES;
  private buffers: readonly Buffer[] = [];
  private writing: Promise<void> | undefined;

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
   * is given. As long as there is room they are kept, to be written with {@link flush}. Else they are written
   * in the background, while the next ones are filled into another buffer; {@link settle} waits for the last.
   */
  async pages(objref: number, length: number, fill: (buffer: Buffer) => void): Promise<void> {
    if (length <= this.room) {
      this.room -= length;
      const kept = Buffer.allocUnsafeSlow(length);
      fill(kept);
      this.queue.push(() => this.appendPages(objref, kept));
      return;
    }
    const pages = this.spareBuffer(length);
    fill(pages);
    await this.settle();
    this.encode();
    this.appendPages(objref, pages);
    const chunks = this.takeGathered();
    this.writing = this.writeInBackground(chunks);
    // That it failed is said by settle; until then nobody waits for it.
    this.writing.catch(() => undefined);
  }

  /** Waits until what is written in the background is written. Throws OutputError. */
  async settle(): Promise<void> {
    const { writing } = this;
    this.writing = undefined;
    await writing;
  }

  /** Waits until nothing is being written any more: only then may the descriptor be closed. */
  async [Symbol.asyncDispose](): Promise<void> {
    // A failure that nobody has waited for comes after another one, which is on its way to the caller.
    await this.writing?.catch(() => undefined);
  }

  /** One of two buffers in turn: the other one may be being written. */
  private spareBuffer(length: number): Buffer {
    const [spare = Buffer.alloc(0), other = Buffer.alloc(0)] = this.buffers;
    const large = spare.length >= length ? spare : Buffer.allocUnsafeSlow(length);
    this.buffers = [other, large];
    return large.subarray(0, length);
  }

  private async writeInBackground(chunks: Uint8Array[]): Promise<void> {
    for (let rest = chunks; rest.length > 0; ) {
      const part = rest.slice(0, MAX_CHUNKS);
      const vectors = Buffer.concat(
        part.map((chunk) => iovec.encode({ iov_base: addressOf(chunk), iov_len: BigInt(chunk.length) })),
      );
      const count = await syscallInBackground(nr.writev, this.fd, vectors, part.length);
      if (count >= 0) rest = dropBytes(rest, count);
      else if (count === -errno.EAGAIN) await new Promise((resolve) => setTimeout(resolve, 1));
      else if (count !== -errno.EINTR)
        throw this.outputError(errnoName(-count), systemCallError(-count, 'writev'));
    }
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
  async error(code: string, message: string, errno = 0): Promise<void> {
    await this.settle();
    this.record(recordType.error, 0, ErrorRecordSchema, { code, message, errno });
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

  /** Encodes and writes out everything. Nothing may be being written in the background. */
  flush(): void {
    this.encode();
    const chunks = this.takeGathered();
    for (let i = 0; i < chunks.length; i += MAX_CHUNKS) this.writeAll(chunks.slice(i, i + MAX_CHUNKS));
  }

  private takeGathered(): Uint8Array[] {
    const chunks = this.gathered;
    this.gathered = [];
    this.written += this.gatheredSize;
    this.gatheredSize = 0;
    return chunks;
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
      throw this.outputError(code === undefined ? String(error) : String(code), error);
    }
  }

  private outputError(code: string, cause: unknown): OutputError {
    return new OutputError(`the image can't be written to ${this.name}`, {
      reason: OUTPUT_REASONS[code] ?? code,
      advice: 'the target runs on; make room or choose another place, and checkpoint again',
      cause,
    });
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
