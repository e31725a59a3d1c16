import type { RegisterName, Registers } from './registers.js';

/** The number by which instructions name a register. */
const REGISTER_NUMBER = {
  rax: 0,
  rcx: 1,
  rdx: 2,
  rbx: 3,
  rsp: 4,
  rbp: 5,
  rsi: 6,
  rdi: 7,
  r8: 8,
  r9: 9,
  r10: 10,
  r11: 11,
  r12: 12,
  r13: 13,
  r14: 14,
  r15: 15,
} as const satisfies Partial<Record<RegisterName, number>>;

export type GeneralRegister = keyof typeof REGISTER_NUMBER;

/** Where a system call takes its arguments (syscall(2)). */
export const ARGUMENT_REGISTERS: readonly GeneralRegister[] = ['rdi', 'rsi', 'rdx', 'r10', 'r8', 'r9'];

/**
 * Writes the few instructions that Stasis runs inside a task. None of them but `compare` touches the
 * flags, and none the stack, unless said so.
 */
export class Assembler {
  length = 0;
  private readonly jumpsToEnd: number[] = [];

  constructor(readonly bytes: Buffer) {}

  /** mov reg, value: by the zero-extending 32-bit form (B8+r imm32) where it fits, else REX.W B8+r imm64. */
  moveImmediate(register: GeneralRegister, value: bigint): this {
    const number = REGISTER_NUMBER[register];
    const unsigned = BigInt.asUintN(64, value);
    if (unsigned <= 0xffff_ffffn) {
      if (number >= 8) this.byte(0x41);
      this.byte(0xb8 + (number & 7));
      this.length = this.bytes.writeUInt32LE(Number(unsigned), this.length);
    } else {
      this.byte(number >= 8 ? 0x49 : 0x48);
      this.byte(0xb8 + (number & 7));
      this.length = this.bytes.writeBigUInt64LE(unsigned, this.length);
    }
    return this;
  }

  /** movabs rax, [address] (48 A1 imm64), then mov reg, rax (REX.W 89 /r). Changes rax. */
  loadAbsolute(register: GeneralRegister, address: bigint): this {
    this.byte(0x48).byte(0xa1);
    this.length = this.bytes.writeBigUInt64LE(address, this.length);
    const number = REGISTER_NUMBER[register];
    return this.byte(number >= 8 ? 0x49 : 0x48)
      .byte(0x89)
      .byte(0xc0 | (number & 7));
  }

  /** movabs [address], rax (48 A3 imm64). */
  storeResult(address: bigint): this {
    this.byte(0x48).byte(0xa3);
    this.length = this.bytes.writeBigUInt64LE(address, this.length);
    return this;
  }

  /** mov reg, rax (REX.W 89 /r). */
  moveResult(register: GeneralRegister): this {
    const number = REGISTER_NUMBER[register];
    return this.byte(number >= 8 ? 0x49 : 0x48)
      .byte(0x89)
      .byte(0xc0 | (number & 7));
  }

  /** syscall (0F 05). The kernel changes rcx and r11. */
  syscall(): this {
    return this.byte(0x0f).byte(0x05);
  }

  /** cmp rax, -4095 (48 3D imm32); jae end (0F 83 rel32): leaves when rax is a negative errno. Changes flags. */
  jumpToEndOnError(): this {
    this.byte(0x48).byte(0x3d);
    this.length = this.bytes.writeInt32LE(-4095, this.length);
    this.byte(0x0f).byte(0x83);
    this.jumpsToEnd.push(this.length);
    this.length += 4;
    return this;
  }

  /** The label to which {@link jumpToEndOnError} jumps. */
  markEnd(): this {
    for (const at of this.jumpsToEnd) this.bytes.writeInt32LE(this.length - (at + 4), at);
    this.jumpsToEnd.length = 0;
    return this;
  }

  /** mov reg, values; mov eax, number; syscall. */
  systemCall(number: number, args: readonly bigint[]): this {
    args.forEach((value, index) => {
      const register = ARGUMENT_REGISTERS[index];
      if (register !== undefined) this.moveImmediate(register, value);
    });
    return this.moveImmediate('rax', BigInt(number)).syscall();
  }

  /** popfq (9D): flags from the stack. */
  popFlags(): this {
    return this.byte(0x9d);
  }

  /** jmp back to an earlier `length` (EB rel8): at most 126 bytes. */
  jumpBack(length: number): this {
    this.byte(0xeb);
    this.length = this.bytes.writeInt8(length - (this.length + 1), this.length);
    return this;
  }

  /** jmp [rip+0] (FF 25 00000000) and the target behind it. Needs no register. */
  jumpAbsolute(address: bigint): this {
    this.byte(0xff).byte(0x25);
    this.length = this.bytes.writeUInt32LE(0, this.length);
    this.length = this.bytes.writeBigUInt64LE(address, this.length);
    return this;
  }

  /** Every general register by immediate, then a jump to rip: the flags and the stack stay as they are. */
  restoreRegisters(registers: Registers): this {
    for (const name of Object.keys(REGISTER_NUMBER) as GeneralRegister[]) {
      this.moveImmediate(name, registers.get(name));
    }
    return this.jumpAbsolute(registers.get('rip'));
  }

  private byte(value: number): this {
    this.bytes[this.length++] = value;
    return this;
  }
}

/** At most this many bytes of code for one system call with six arguments and its result. */
export const CALL_CODE_SIZE = 6 * 13 + 5 + 2 + 10 + 12;

/** What a stub does besides waiting. */
export interface StubCalls {
  readonly atStart?: (assembler: Assembler) => void;
  readonly atEnd?: (assembler: Assembler) => void;
  /** Bytes that this takes at most. */
  readonly size?: number;
}

/** The code of a stub that waits in read(0) and exits when that returns anything but EINTR. */
export function stubCode(
  nrRead: number,
  nrExitGroup: number,
  { atStart, atEnd, size = 128 }: StubCalls = {},
): Buffer {
  const assembler = new Assembler(Buffer.alloc(128 + size));
  atStart?.(assembler);
  const start = assembler.length;
  assembler.moveImmediate('rdi', 0n).moveImmediate('rdx', 1n);
  const code = assembler.bytes;
  // lea rsi, [rsp-8] (48 8D 74 24 F8)
  assembler.length += Buffer.from([0x48, 0x8d, 0x74, 0x24, 0xf8]).copy(code, assembler.length);
  assembler.moveImmediate('rax', BigInt(nrRead)).syscall();
  // cmp rax, -4 (48 83 F8 FC): EINTR; je start (74 rel8)
  assembler.length += Buffer.from([0x48, 0x83, 0xf8, 0xfc, 0x74]).copy(code, assembler.length);
  code.writeInt8(start - (assembler.length + 1), assembler.length);
  assembler.length += 1;
  atEnd?.(assembler);
  assembler.systemCall(nrExitGroup, [0n]);
  return code.subarray(0, assembler.length);
}
