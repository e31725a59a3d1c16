/**
 * Descriptions of the kernel's C structures. A description lays fields out by C's rules of natural
 * alignment; `test/sys/headers.test.ts` compiles a probe against the system's headers and compares every
 * size and offset.
 */

type FieldType = 'u8' | 'u16' | 'u32' | 's32' | 'u64' | 's64';

const SIZES: Readonly<Record<FieldType, number>> = { u8: 1, u16: 2, u32: 4, s32: 4, u64: 8, s64: 8 };

type ValueOf<T extends FieldType> = T extends 'u64' | 's64' ? bigint : number;

export type StructValue<Fields extends Record<string, FieldType>> = {
  [Name in keyof Fields]: ValueOf<Fields[Name]>;
};

/** A C structure: its name and header for verification, its layout, and its codec. */
export interface Struct<Fields extends Record<string, FieldType>> {
  /** As C spells it, such as `struct clone_args`. */
  readonly cName: string;
  readonly header: string;
  /** Bytes, padding included. */
  readonly size: number;
  readonly offsets: Readonly<Record<keyof Fields, number>>;
  /** Missing fields are zero. The buffer has memory of its own, so that the kernel may be given its address. */
  encode(values: Partial<StructValue<Fields>>): Buffer;
  decode(buffer: Buffer, at?: number): StructValue<Fields>;
}

/** Describes a C structure by its fields in order; one that is packed has no padding. */
export function struct<const Fields extends Record<string, FieldType>>(
  cName: string,
  header: string,
  fields: Fields,
  packed = false,
): Struct<Fields> {
  const layout: [name: keyof Fields & string, type: FieldType, offset: number][] = [];
  let end = 0;
  let alignment = 1;
  for (const [name, type] of Object.entries(fields)) {
    const size = SIZES[type];
    if (!packed) end = Math.ceil(end / size) * size;
    layout.push([name, type, end]);
    end += size;
    if (!packed) alignment = Math.max(alignment, size);
  }
  const size = Math.ceil(end / alignment) * alignment;
  return {
    cName,
    header,
    size,
    offsets: Object.fromEntries(layout.map(([name, , offset]) => [name, offset])) as Record<
      keyof Fields,
      number
    >,
    encode(values) {
      const buffer = Buffer.alloc(size);
      for (const [name, type, offset] of layout) {
        const value = values[name];
        if (value !== undefined) writeField(buffer, type, offset, value);
      }
      return buffer;
    },
    decode(buffer, at = 0) {
      return Object.fromEntries(
        layout.map(([name, type, offset]) => [name, readField(buffer, type, at + offset)]),
      ) as StructValue<Fields>;
    },
  };
}

function writeField(buffer: Buffer, type: FieldType, offset: number, value: number | bigint): void {
  switch (type) {
    case 'u8':
      buffer.writeUInt8(Number(value), offset);
      break;
    case 'u16':
      buffer.writeUInt16LE(Number(value), offset);
      break;
    case 'u32':
      buffer.writeUInt32LE(Number(value), offset);
      break;
    case 's32':
      buffer.writeInt32LE(Number(value), offset);
      break;
    case 'u64':
      buffer.writeBigUInt64LE(BigInt.asUintN(64, BigInt(value)), offset);
      break;
    case 's64':
      buffer.writeBigInt64LE(BigInt.asIntN(64, BigInt(value)), offset);
      break;
  }
}

function readField(buffer: Buffer, type: FieldType, offset: number): number | bigint {
  switch (type) {
    case 'u8':
      return buffer.readUInt8(offset);
    case 'u16':
      return buffer.readUInt16LE(offset);
    case 'u32':
      return buffer.readUInt32LE(offset);
    case 's32':
      return buffer.readInt32LE(offset);
    case 'u64':
      return buffer.readBigUInt64LE(offset);
    case 's64':
      return buffer.readBigInt64LE(offset);
  }
}
