import { InternalError, RemoteCallError, TaskLostError } from '../errors.js';
import { nr, type SyscallName, syscallName } from '../sys/arch/index.js';
import { errnoName, errnoText } from '../sys/errno.js';
import { advance, type RemoteAddress } from './address.js';
import { ARGUMENT_REGISTERS, Assembler, CALL_CODE_SIZE } from './arch/x86_64/machineCode.js';
import type { RemoteMemory } from './memory.js';
import { SCRATCH_CODE_SIZE, SCRATCH_DATA_SIZE, type Scratch } from './scratch.js';

/** Memory of the target that a call writes; its bytes can be read when the call was flushed. */
export class RemoteOutput {
  private contents: Buffer | undefined;

  constructor(readonly size: number) {}

  get bytes(): Buffer {
    if (this.contents === undefined) throw new InternalError('a remote output was read before its call ran');
    return this.contents;
  }

  /** For {@link RemoteCalls} alone. */
  fill(contents: Buffer): void {
    this.contents = contents;
  }
}

/** What a call returned. Usable as an argument of a later call before it ran, and as a number after. */
export class RemoteResult {
  private returned: bigint | undefined;

  /** The returned value; a negative errno only where failure was allowed. */
  get value(): number {
    if (this.returned === undefined) throw new InternalError('a remote result was read before its call ran');
    return Number(this.returned);
  }

  get settled(): bigint | undefined {
    return this.returned;
  }

  /** For {@link RemoteCalls} alone. */
  settle(value: bigint): void {
    this.returned = value;
  }
}

/** A structure that holds pointers to further data. */
export interface RemoteStructure {
  readonly bytes: Uint8Array;
  /** Where in `bytes` to put the address of which data. */
  readonly pointers: readonly { readonly at: number; readonly to: Uint8Array | RemoteOutput }[];
}

/** A value; or data that travels with the call; or memory for its output; or what an earlier call returned. */
export type RemoteArgument = number | bigint | Uint8Array | RemoteOutput | RemoteStructure | RemoteResult;

export interface CallOptions {
  /** The call may fail: the program goes on, and `value` is then the negative errno. */
  readonly mayFail?: boolean;
  /** What the call must return, such as the number of bytes to read; anything else is a failure. */
  readonly expect?: number;
  /** What the call is for, in the error's words: `mapping /bin/true at 0x…`. */
  readonly purpose?: string;
}

/** Runs the code at the scratch area's start to its end in a stopped task. */
export interface CodeRunner {
  readonly tid: number;
  readonly memory: RemoteMemory;
  readonly scratch: Scratch;
  /** The calls and instructions behind the program: they hand the task back to its tracer. */
  appendEpilogue(assembler: Assembler): void;
  /** Bytes that {@link appendEpilogue} needs at most. */
  readonly epilogueSize: number;
  /** Sets the task going at the scratch area's start. */
  start(): void;
  /** Waits until it has come to the end. */
  finish(): void;
}

interface QueuedCall {
  readonly number: number;
  readonly args: readonly (bigint | RemoteResult)[];
  readonly result: RemoteResult;
  readonly options: CallOptions;
}

const MAX_CALLS = 512;
const RESULTS_SIZE = MAX_CALLS * 8;
/** In a result's place until its call ran: no system call returns it. */
const NOT_RUN = -0x8000_0000_0000_0000n;
const codeBuffer = Buffer.alloc(SCRATCH_CODE_SIZE);

/**
 * System calls to be made by a stopped task, many in one go: they are compiled to straight code, run, and
 * their results read back, which costs the same few switches for one call as for five hundred.
 *
 * Calls are queued by {@link call} and run by {@link flush}, or when the scratch area is full. A call that
 * fails ends the program; flush then throws RemoteCallError.
 */
export class RemoteCalls {
  private queue: QueuedCall[] = [];
  private readonly resultIndexes = new Map<RemoteResult, number>();
  private inputs: { at: number; bytes: Uint8Array }[] = [];
  private outputs: { at: number; output: RemoteOutput }[] = [];
  private placed = new Map<Uint8Array | RemoteOutput, number>();
  private dataEnd = RESULTS_SIZE;
  private codeSize = 0;

  constructor(private readonly runner: CodeRunner) {}

  get tid(): number {
    return this.runner.tid;
  }

  call(name: SyscallName, args: readonly RemoteArgument[], options: CallOptions = {}): RemoteResult {
    if (args.length > ARGUMENT_REGISTERS.length) throw new InternalError(`${name} has too many arguments`);
    const needed = args.reduce<number>((sum, argument) => sum + this.spaceFor(argument), 0);
    if (needed > SCRATCH_DATA_SIZE - RESULTS_SIZE) {
      throw new InternalError(`the arguments of a remote ${name} need ${needed} bytes, more than there are`);
    }
    const codeRoom = SCRATCH_CODE_SIZE - this.runner.epilogueSize;
    if (
      this.queue.length === MAX_CALLS ||
      this.codeSize + CALL_CODE_SIZE > codeRoom ||
      this.dataEnd + needed > SCRATCH_DATA_SIZE
    ) {
      this.flush();
    }
    const result = new RemoteResult();
    this.resultIndexes.set(result, this.queue.length);
    this.codeSize += CALL_CODE_SIZE;
    this.queue.push({
      number: nr[name],
      args: args.map((argument) => this.place(argument)),
      result,
      options,
    });
    return result;
  }

  /** Runs what is queued. Throws RemoteCallError for the first call that failed and may not. */
  flush(): void {
    this.start();
    this.finish();
  }

  /** Sets off what is queued, to be ended by {@link finish}: meanwhile other tasks can be set off too. */
  start(): void {
    if (this.queue.length === 0) return;
    const { memory, scratch } = this.runner;
    memory.write(scratch.code, this.compile());
    memory.write(scratch.data, this.initialData());
    this.runner.start();
  }

  /** Waits for what {@link start} set off. Throws as {@link flush} does. */
  finish(): void {
    if (this.queue.length === 0) return;
    this.runner.finish();
    this.collectResults();
  }

  /** Whether calls wait to be run. */
  get pending(): boolean {
    return this.queue.length > 0;
  }

  private compile(): Uint8Array {
    const assembler = new Assembler(codeBuffer);
    this.queue.forEach((call, index) => {
      call.args.forEach((argument, position) => {
        const register = ARGUMENT_REGISTERS[position];
        if (register === undefined) return;
        if (typeof argument === 'bigint') assembler.moveImmediate(register, argument);
        else assembler.loadAbsolute(register, this.resultAddress(this.indexOf(argument)));
      });
      assembler.moveImmediate('rax', BigInt(call.number)).syscall().storeResult(this.resultAddress(index));
      if (!call.options.mayFail) assembler.jumpToEndOnError();
    });
    assembler.markEnd();
    this.runner.appendEpilogue(assembler);
    return codeBuffer.subarray(0, assembler.length);
  }

  private initialData(): Buffer {
    const inputsEnd = this.inputs.reduce((end, input) => Math.max(end, input.at + input.bytes.length), 0);
    const data = Buffer.alloc(Math.max(inputsEnd, this.queue.length * 8));
    for (let i = 0; i < this.queue.length; i++) data.writeBigInt64LE(NOT_RUN, i * 8);
    for (const { at, bytes } of this.inputs) data.set(bytes, at);
    return data;
  }

  private collectResults(): void {
    const { memory, scratch } = this.runner;
    const queue = this.queue;
    const outputsEnd = this.outputs.reduce((end, { at, output }) => Math.max(end, at + output.size), 0);
    const data = Buffer.alloc(Math.max(queue.length * 8, outputsEnd));
    memory.read(scratch.data, data);
    const outputs = this.outputs;
    this.reset();
    queue.forEach((call, index) => {
      const value = data.readBigInt64LE(index * 8);
      if (value === NOT_RUN) {
        throw new TaskLostError(
          this.tid,
          `task ${this.tid} left a program before ${syscallName(call.number)}`,
        );
      }
      if (value < 0n && value >= -4095n && !call.options.mayFail) throw this.failure(call, Number(-value));
      const { expect, purpose } = call.options;
      if (expect !== undefined && value !== BigInt(expect)) {
        throw new TaskLostError(
          this.tid,
          `${purpose ?? syscallName(call.number)} in task ${this.tid} fell short`,
          {
            reason: `${syscallName(call.number)} returned ${value} instead of ${expect}`,
          },
        );
      }
      call.result.settle(value);
    });
    for (const { at, output } of outputs) output.fill(data.subarray(at, at + output.size));
  }

  private failure(call: QueuedCall, errno: number): RemoteCallError {
    const args = call.args.map((value) => (typeof value === 'bigint' ? value : (value.settled ?? -1n)));
    return new RemoteCallError(
      this.tid,
      syscallName(call.number),
      args,
      errno,
      errnoName(errno),
      errnoText(errno),
      call.options.purpose,
    );
  }

  private reset(): void {
    this.queue = [];
    this.resultIndexes.clear();
    this.inputs = [];
    this.outputs = [];
    this.placed = new Map();
    this.dataEnd = RESULTS_SIZE;
    this.codeSize = 0;
  }

  private indexOf(result: RemoteResult): number {
    const index = this.resultIndexes.get(result);
    if (index === undefined) throw new InternalError('a remote result belongs to another program');
    return index;
  }

  private resultAddress(index: number): RemoteAddress {
    return advance(this.runner.scratch.data, index * 8);
  }

  private spaceFor(argument: RemoteArgument): number {
    if (argument instanceof Uint8Array) return aligned(argument.length);
    if (argument instanceof RemoteOutput) return aligned(argument.size);
    if (typeof argument === 'object' && 'pointers' in argument) {
      return argument.pointers.reduce(
        (sum, pointer) => sum + this.spaceFor(pointer.to),
        aligned(argument.bytes.length),
      );
    }
    return 0;
  }

  private place(argument: RemoteArgument): bigint | RemoteResult {
    if (typeof argument === 'number' || typeof argument === 'bigint') return BigInt(argument);
    if (argument instanceof RemoteResult) return argument.settled ?? argument;
    if (argument instanceof Uint8Array || argument instanceof RemoteOutput) return this.placeData(argument);
    const bytes = Buffer.from(argument.bytes);
    for (const { at, to } of argument.pointers) bytes.writeBigUInt64LE(this.placeData(to), at);
    return this.placeData(bytes);
  }

  private placeData(data: Uint8Array | RemoteOutput): bigint {
    let at = this.placed.get(data);
    if (at === undefined) {
      at = this.dataEnd;
      this.placed.set(data, at);
      if (data instanceof RemoteOutput) {
        this.outputs.push({ at, output: data });
        this.dataEnd += aligned(data.size);
      } else {
        this.inputs.push({ at, bytes: data });
        this.dataEnd += aligned(data.length);
      }
    }
    return advance(this.runner.scratch.data, at);
  }
}

/** A path or name as C wants it. */
export function cString(text: string): Buffer {
  return Buffer.from(`${text}\0`, 'utf8');
}

function aligned(size: number): number {
  return (size + 15) & ~15;
}
