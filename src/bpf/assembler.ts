import { InternalError } from '../errors.js';

/** Registers of the BPF machine. r1 to r5 are lost in a call; r10 is the frame pointer. */
export type BpfRegister = 'r0' | 'r1' | 'r2' | 'r3' | 'r4' | 'r5' | 'r6' | 'r7' | 'r8' | 'r9' | 'r10';

/** Bytes of a load. */
export type LoadSize = 1 | 2 | 4 | 8;

/** A place in a program that jumps lead to. */
export type BpfLabel = string;

const INITIAL_WORDS = 1 << 10;
const REGISTERS: Readonly<Record<BpfRegister, number>> = {
  r0: 0,
  r1: 1,
  r2: 2,
  r3: 3,
  r4: 4,
  r5: 5,
  r6: 6,
  r7: 7,
  r8: 8,
  r9: 9,
  r10: 10,
};

/** Opcodes. Source: Documentation/bpf/standardization/instruction-set.rst. */
const opcode = {
  ALU64_ADD_K: 0x07,
  ALU64_ADD_X: 0x0f,
  ALU64_AND_K: 0x57,
  ALU64_LSH_K: 0x67,
  ALU64_MOV_K: 0xb7,
  ALU64_MOV_X: 0xbf,
  JMP_JA: 0x05,
  JMP_JEQ_K: 0x15,
  JMP_JEQ_X: 0x1d,
  JMP_JNE_K: 0x55,
  JMP_CALL: 0x85,
  JMP_EXIT: 0x95,
  STX_DW: 0x7b,
  ST_DW: 0x7a,
} as const;
const LOADS: Readonly<Record<LoadSize, number>> = { 1: 0x71, 2: 0x69, 4: 0x61, 8: 0x79 };

/** Assembles a BPF program. Labels may be used before they are placed. */
export class BpfAssembler {
  /** Two words an instruction. */
  private words = new Uint32Array(INITIAL_WORDS);
  private end = 0;
  private readonly labels = new Map<BpfLabel, number>();
  private readonly jumps: { readonly at: number; readonly to: BpfLabel }[] = [];
  private fresh = 0;

  /** How many instructions there are. */
  get length(): number {
    return this.end / 2;
  }

  /** A label that no other part of the program uses. */
  newLabel(): BpfLabel {
    return `label ${this.fresh++}`;
  }

  /** `to = *(size *)(from + offset)`, zero-extended. */
  load(size: LoadSize, to: BpfRegister, from: BpfRegister, offset: number): this {
    return this.emit(LOADS[size], to, from, offset, 0);
  }

  /** `*(u64 *)(to + offset) = from`. */
  store(to: BpfRegister, offset: number, from: BpfRegister): this {
    return this.emit(opcode.STX_DW, to, from, offset, 0);
  }

  /** `*(u64 *)(to + offset) = value`. */
  storeImmediate(to: BpfRegister, offset: number, value: number): this {
    return this.emit(opcode.ST_DW, to, 'r0', offset, value);
  }

  move(to: BpfRegister, from: BpfRegister): this {
    return this.emit(opcode.ALU64_MOV_X, to, from, 0, 0);
  }

  moveImmediate(to: BpfRegister, value: number): this {
    return this.emit(opcode.ALU64_MOV_K, to, 'r0', 0, value);
  }

  add(to: BpfRegister, from: BpfRegister): this {
    return this.emit(opcode.ALU64_ADD_X, to, from, 0, 0);
  }

  addImmediate(to: BpfRegister, value: number): this {
    return this.emit(opcode.ALU64_ADD_K, to, 'r0', 0, value);
  }

  andImmediate(to: BpfRegister, value: number): this {
    return this.emit(opcode.ALU64_AND_K, to, 'r0', 0, value);
  }

  shiftLeft(to: BpfRegister, bits: number): this {
    return this.emit(opcode.ALU64_LSH_K, to, 'r0', 0, bits);
  }

  jump(to: BpfLabel): this {
    return this.emitJump(opcode.JMP_JA, 'r0', 'r0', 0, to);
  }

  jumpIfEqual(register: BpfRegister, value: number, to: BpfLabel): this {
    return this.emitJump(opcode.JMP_JEQ_K, register, 'r0', value, to);
  }

  jumpIfSame(register: BpfRegister, other: BpfRegister, to: BpfLabel): this {
    return this.emitJump(opcode.JMP_JEQ_X, register, other, 0, to);
  }

  jumpIfNotEqual(register: BpfRegister, value: number, to: BpfLabel): this {
    return this.emitJump(opcode.JMP_JNE_K, register, 'r0', value, to);
  }

  /** Calls a helper function by its number. Source: bpf-helpers(7). */
  call(helper: number): this {
    return this.emit(opcode.JMP_CALL, 'r0', 'r0', 0, helper);
  }

  exit(): this {
    return this.emit(opcode.JMP_EXIT, 'r0', 'r0', 0, 0);
  }

  label(name: BpfLabel): this {
    if (this.labels.has(name)) throw new InternalError(`the label ${name} is placed twice`);
    this.labels.set(name, this.length);
    return this;
  }

  /** The program, with all jumps resolved. */
  assemble(): Buffer {
    for (const { at, to } of this.jumps) {
      const target = this.labels.get(to);
      if (target === undefined) throw new InternalError(`the label ${to} is not placed`);
      const first = this.words[2 * at] as number;
      this.words[2 * at] = (first & 0xffff) | ((target - at - 1) << 16);
    }
    return Buffer.from(this.words.slice(0, this.end).buffer);
  }

  private emitJump(code: number, to: BpfRegister, from: BpfRegister, value: number, label: BpfLabel): this {
    this.jumps.push({ at: this.length, to: label });
    return this.emit(code, to, from, 0, value);
  }

  private emit(code: number, to: BpfRegister, from: BpfRegister, offset: number, value: number): this {
    if (this.end === this.words.length) {
      const larger = new Uint32Array(2 * this.end);
      larger.set(this.words);
      this.words = larger;
    }
    this.words[this.end] = code | (REGISTERS[to] << 8) | (REGISTERS[from] << 12) | (offset << 16);
    this.words[this.end + 1] = value;
    this.end += 2;
    return this;
  }
}
