import { InternalError } from '../errors.js';
import { BpfAssembler, type BpfRegister, type LoadSize } from './assembler.js';
import type { KernelTypes, Member } from './btf.js';

/** `enum bpf_func_id`. Source: bpf-helpers(7). */
const BPF_FUNC_probe_read_kernel = 113;
const BPF_FUNC_seq_write = 127;
/** In `struct bpf_iter__…`, whose first member is the one with the file that is written to. */
const CONTEXT_META = 0;
const SLOT_SIZE = 8;

/** The columns of a program's rows, each of eight bytes. */
export class RowLayout<Column extends string> {
  private readonly indexes: ReadonlyMap<string, number>;

  constructor(readonly columns: readonly Column[]) {
    this.indexes = new Map(columns.map((column, index) => [column, index]));
  }

  /** Bytes of a row. */
  get size(): number {
    return this.columns.length * SLOT_SIZE;
  }

  indexOf(column: Column): number {
    const index = this.indexes.get(column);
    if (index === undefined) throw new InternalError(`there is no column ${column}`);
    return index;
  }
}

/**
 * Writes a program that fills one row for each thing that an iterator shows. r6 holds the iterator's
 * context. What this kernel has no member for stays zero, and is named in {@link missing}.
 */
export class RowProgram<Column extends string> {
  readonly assembler = new BpfAssembler();
  readonly missing = new Map<Column, string>();
  private readonly end = this.assembler.newLabel();

  constructor(
    readonly types: KernelTypes,
    readonly layout: RowLayout<Column>,
  ) {
    this.assembler.move('r6', 'r1');
    for (let at = 0; at < layout.size; at += SLOT_SIZE) {
      this.assembler.storeImmediate('r10', at - layout.size, 0);
    }
  }

  /** Loads a pointer of the context; there is no row where it is null. */
  context(to: BpfRegister, offset: number): void {
    this.assembler.load(8, to, 'r6', offset);
    this.skipRowIfZero(to);
  }

  /** There is no row where the register is not zero. */
  skipRowUnlessZero(register: BpfRegister): void {
    this.assembler.jumpIfNotEqual(register, 0, this.end);
  }

  /** There is no row where the register is zero. */
  skipRowIfZero(register: BpfRegister): void {
    this.assembler.jumpIfEqual(register, 0, this.end);
  }

  /** Puts a member of a structure whose type the kernel knows into a column. r1 is lost. */
  column(column: Column, from: BpfRegister, structure: string, path: string): void {
    const member = this.types.findMember(structure, path);
    if (member === undefined) {
      this.missing.set(column, `${structure}.${path}`);
      return;
    }
    this.assembler.load(loadSize(member, path), 'r1', from, member.offset);
    this.put(column, 'r1');
  }

  /** Puts a register into a column. */
  put(column: Column, from: BpfRegister): void {
    this.assembler.store('r10', this.slot(column), from);
  }

  /**
   * Copies a member into a column, from an address that may be anything: what can't be read stays zero.
   * r1 to r5 are lost.
   */
  probe(column: Column, address: BpfRegister, structure: string, path: string, length?: number): void {
    const member = this.types.findMember(structure, path);
    if (member === undefined) {
      this.missing.set(column, `${structure}.${path}`);
      return;
    }
    this.probeAt(column, address, member.offset, length ?? loadSize(member, path));
  }

  /** As {@link probe}, by offset and length. */
  probeAt(column: Column, address: BpfRegister, offset: number, length: number): void {
    this.assembler.move('r3', address);
    if (offset !== 0) this.assembler.addImmediate('r3', offset);
    this.assembler
      .move('r1', 'r10')
      .addImmediate('r1', this.slot(column))
      .moveImmediate('r2', length)
      .call(BPF_FUNC_probe_read_kernel);
  }

  /** Loads a column's present value: an address that was copied into it can be followed from there. */
  get(to: BpfRegister, column: Column): void {
    this.assembler.load(8, to, 'r10', this.slot(column));
  }

  /** Writes `body` so that it is skipped where the register is zero. */
  unlessZero(register: BpfRegister, body: () => void): void {
    const after = this.assembler.newLabel();
    this.assembler.jumpIfEqual(register, 0, after);
    body();
    this.assembler.label(after);
  }

  /** Writes the row as it is now; the program goes on. r1 to r5 are lost. */
  write(): void {
    const { layout } = this;
    this.assembler
      .load(8, 'r1', 'r6', CONTEXT_META)
      .load(8, 'r1', 'r1', 0)
      .move('r2', 'r10')
      .addImmediate('r2', -layout.size)
      .moveImmediate('r3', layout.size)
      .call(BPF_FUNC_seq_write);
  }

  /** Writes the row, ends the program, and returns its code. */
  finish(): Buffer {
    this.write();
    return this.close();
  }

  /** Ends a program that has written its rows, and returns its code. */
  close(): Buffer {
    return this.assembler.label(this.end).moveImmediate('r0', 0).exit().assemble();
  }

  private slot(column: Column): number {
    return this.layout.indexOf(column) * SLOT_SIZE - this.layout.size;
  }
}

/**
 * Rows as a program wrote them. Kernel addresses are read as {@link key numbers}: all that their 64 bits
 * tell apart is in the lower 53.
 */
export class Rows<Column extends string> {
  readonly count: number;
  private readonly words: Uint32Array;
  private readonly stride: number;

  constructor(
    readonly layout: RowLayout<Column>,
    readonly bytes: Buffer,
  ) {
    if (bytes.byteOffset % 4 !== 0 || bytes.length % layout.size !== 0) {
      throw new InternalError(`${bytes.length} bytes are no rows of ${layout.size}`);
    }
    this.words = new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
    this.stride = layout.size / 4;
    this.count = bytes.length / layout.size;
  }

  /** Reads a column as the unsigned number that its lower 32 bits are. */
  u32(column: Column): (row: number) => number {
    const { words, stride } = this;
    const at = 2 * this.layout.indexOf(column);
    return (row) => words[row * stride + at] as number;
  }

  /** Reads a column as a signed number of 32 bits. */
  s32(column: Column): (row: number) => number {
    const read = this.u32(column);
    return (row) => read(row) | 0;
  }

  /** Reads all 64 bits of a column. */
  u64(column: Column): (row: number) => bigint {
    const at = this.layout.indexOf(column) * SLOT_SIZE;
    return (row) => this.bytes.readBigUInt64LE(row * this.layout.size + at);
  }

  /** Reads the lower 53 bits of a column. */
  key(column: Column): (row: number) => number {
    const { words, stride } = this;
    const at = 2 * this.layout.indexOf(column);
    return (row) => {
      const low = row * stride + at;
      return ((words[low + 1] as number) & 0x1f_ffff) * 0x1_0000_0000 + (words[low] as number);
    };
  }

  /** Puts other numbers into a column; 0 for what is not in the map. */
  renumber(column: Column, numbers: ReadonlyMap<number, number>): void {
    const { words, stride } = this;
    const at = 2 * this.layout.indexOf(column);
    for (let row = 0; row < this.count; row++) {
      const word = row * stride + at;
      words[word] = numbers.get(words[word] as number) ?? 0;
    }
  }

  /** A copy of the rows for which `wanted` says so, with some columns emptied. */
  select(wanted: (row: number) => boolean, emptied: readonly Column[]): Buffer {
    const { size } = this.layout;
    const selected = Buffer.allocUnsafe(this.bytes.length);
    let end = 0;
    for (let row = 0; row < this.count; row++) {
      if (!wanted(row)) continue;
      this.bytes.copy(selected, end, row * size, (row + 1) * size);
      for (const column of emptied) {
        const at = end + this.layout.indexOf(column) * SLOT_SIZE;
        selected.fill(0, at, at + SLOT_SIZE);
      }
      end += size;
    }
    return selected.subarray(0, end);
  }

  /** Reads text of a column and those after it. */
  text(column: Column, length: number): (row: number) => string {
    const at = this.layout.indexOf(column) * SLOT_SIZE;
    return (row) => {
      const start = row * this.layout.size + at;
      const end = this.bytes.indexOf(0, start);
      return this.bytes.toString('utf8', start, end < 0 || end > start + length ? start + length : end);
    };
  }
}

function loadSize({ size }: Member, path: string): LoadSize {
  if (size === 1 || size === 2 || size === 4 || size === 8) return size;
  throw new InternalError(`${path} of ${size} bytes can't be loaded at once`);
}
