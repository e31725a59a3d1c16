import { crc32 } from 'node:zlib';

/**
 * The frame of an image stream: a preamble, then records, each a header and a payload. All numbers are
 * little-endian. `docs/image-format.md` is the reference.
 */

/** The line ending shows a transfer that took the image for text. */
export const MAGIC = Buffer.from('STASIS\r\n');
export const FORMAT_VERSION = 2;
/** Magic, version, CRC-32 of both. */
export const PREAMBLE_SIZE = 16;

export const RECORD_MAGIC = 0x43455253;
export const HEADER_SIZE = 32;
/** Payloads of records end at a multiple of this, bytes. */
export const RECORD_ALIGNMENT = 8;
/** Raw pages begin at a multiple of this, so that they can be mapped. */
export const PAGE_ALIGNMENT = 4096;
/** A payload other than pages is refused beyond this, bytes. */
export const MAX_PAYLOAD = 64 << 20;
/** A record of pages is refused beyond this, bytes; the writer makes smaller ones. */
export const MAX_PAGES_PAYLOAD = 256 << 20;

/** Records of the stream itself; those of the resources are in their slices, from 16 on. */
export const recordType = {
  header: 1,
  pagemap: 2,
  pages: 3,
  error: 4,
  tail: 5,
} as const;

export interface RecordHeader {
  readonly type: number;
  readonly flags: number;
  /** The object that the record describes, 0 for none. */
  readonly objref: number;
  /** Zero bytes between header and payload. */
  readonly padding: number;
  /** Payload bytes. */
  readonly length: number;
  readonly payloadCrc: number;
}

export function encodePreamble(): Buffer {
  const bytes = Buffer.alloc(PREAMBLE_SIZE);
  MAGIC.copy(bytes);
  bytes.writeUInt32LE(FORMAT_VERSION, 8);
  bytes.writeUInt32LE(crc32(bytes.subarray(0, 12)), 12);
  return bytes;
}

export function encodeHeader(header: RecordHeader): Buffer {
  const bytes = Buffer.alloc(HEADER_SIZE);
  bytes.writeUInt32LE(RECORD_MAGIC, 0);
  bytes.writeUInt16LE(header.type, 4);
  bytes.writeUInt16LE(header.flags, 6);
  bytes.writeUInt32LE(header.objref, 8);
  bytes.writeUInt32LE(header.padding, 12);
  bytes.writeBigUInt64LE(BigInt(header.length), 16);
  bytes.writeUInt32LE(header.payloadCrc, 24);
  bytes.writeUInt32LE(crc32(bytes.subarray(0, 28)), 28);
  return bytes;
}

/** Why bytes are no record header: the field and what is wrong with it. */
export interface HeaderProblem {
  readonly field: string;
  readonly problem: string;
}

/** Decodes a header; a problem is returned, so that the reader can add the offset. */
export function decodeHeader(bytes: Buffer): RecordHeader | HeaderProblem {
  if (bytes.readUInt32LE(0) !== RECORD_MAGIC) {
    return { field: 'magic', problem: `0x${bytes.readUInt32LE(0).toString(16)} instead of a record` };
  }
  if (crc32(bytes.subarray(0, 28)) !== bytes.readUInt32LE(28)) {
    return { field: 'headerCrc', problem: 'the checksum does not fit: the header is damaged' };
  }
  const header: RecordHeader = {
    type: bytes.readUInt16LE(4),
    flags: bytes.readUInt16LE(6),
    objref: bytes.readUInt32LE(8),
    padding: bytes.readUInt32LE(12),
    length: Number(bytes.readBigUInt64LE(16)),
    payloadCrc: bytes.readUInt32LE(24),
  };
  const limit = header.type === recordType.pages ? MAX_PAGES_PAYLOAD : MAX_PAYLOAD;
  if (header.length > limit) {
    return { field: 'length', problem: `${header.length} bytes, more than the ${limit} allowed` };
  }
  if (header.padding >= PAGE_ALIGNMENT) {
    return { field: 'padding', problem: `${header.padding} bytes, a page or more` };
  }
  return header;
}

/** Zero bytes that follow a payload. */
export function trailingPadding(length: number): number {
  return (RECORD_ALIGNMENT - (length % RECORD_ALIGNMENT)) % RECORD_ALIGNMENT;
}
