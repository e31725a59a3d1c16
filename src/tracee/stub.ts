import { closeSync, writeSync } from 'node:fs';
import { TaskLostError } from '../errors.js';
import { nr } from '../sys/arch/index.js';
import { createMemfd } from '../sys/descriptors.js';
import { errnoName, errnoText } from '../sys/errno.js';
import { spawnBare } from '../sys/process.js';
import { pollfd } from '../sys/structs.js';
import { systemCallError } from '../sys/syscall.js';
import { mapFlag, pollEvent, prot, ptraceOption, SIG_BLOCK_ALL, signal, wait } from '../sys/uapi.js';
import { type AddressRange, advance, type RemoteAddress } from './address.js';
import { Assembler, CALL_CODE_SIZE, stubCode } from './arch/x86_64/machineCode.js';
import type { RemoteMemory } from './memory.js';
import { type CodeRunner, RemoteCalls } from './remoteCalls.js';
import { SCRATCH_CODE_SIZE, type Scratch } from './scratch.js';
import { describeStop, isEventStop, type Stop, Tracee } from './tracee.js';

/**
 * With which a program tells its tracer that it is over. The last real-time signal: what a restarted task
 * had pending comes before, and the tracer takes it before anybody could.
 */
export const RESTART_END_SIGNAL = 64;

/** Blocked while a task is built: everything but that signal. */
export const BUILDING_MASK = SIG_BLOCK_ALL & ~(1n << BigInt(RESTART_END_SIGNAL - 1));

/** New tasks stop before their first instruction, and all end with this process. */
export const RESTART_OPTIONS =
  ptraceOption.PTRACE_O_TRACESYSGOOD |
  ptraceOption.PTRACE_O_TRACEFORK |
  ptraceOption.PTRACE_O_TRACEVFORK |
  ptraceOption.PTRACE_O_TRACECLONE |
  ptraceOption.PTRACE_O_EXITKILL;

/** Where the stub's image is loaded; below everything that a restarted task may need. */
const STUB_BASE = 0x10000;
const ELF_HEADER_SIZE = 64;
const PROGRAM_HEADER_SIZE = 56;

/** A static executable of one page: it waits in read(0) and exits when its standard input ends. */
export function stubExecutable(code = stubCode(nr.read, nr.exit_group)): Buffer {
  const headers = ELF_HEADER_SIZE + PROGRAM_HEADER_SIZE;
  const file = Buffer.alloc(headers + code.length);
  // elf(5): 64-bit, little-endian, version 1; ET_EXEC for x86_64.
  file.write('\x7fELF\x02\x01\x01', 0, 'latin1');
  file.writeUInt16LE(2, 16);
  file.writeUInt16LE(62, 18);
  file.writeUInt32LE(1, 20);
  file.writeBigUInt64LE(BigInt(STUB_BASE + headers), 24);
  file.writeBigUInt64LE(BigInt(ELF_HEADER_SIZE), 32);
  file.writeUInt16LE(ELF_HEADER_SIZE, 52);
  file.writeUInt16LE(PROGRAM_HEADER_SIZE, 54);
  file.writeUInt16LE(1, 56);
  // One PT_LOAD segment, readable and executable: the whole file.
  const PT_LOAD = 1;
  file.writeUInt32LE(PT_LOAD, 64);
  file.writeUInt32LE(prot.PROT_READ | prot.PROT_EXEC, 68);
  file.writeBigUInt64LE(BigInt(STUB_BASE), 80);
  file.writeBigUInt64LE(BigInt(STUB_BASE), 88);
  file.writeBigUInt64LE(BigInt(file.length), 96);
  file.writeBigUInt64LE(BigInt(file.length), 104);
  file.writeBigUInt64LE(4096n, 112);
  code.copy(file, headers);
  return file;
}

/** Leaves the session in which it was started: what ends that is not to end it. */
const leaveSession = (assembler: Assembler) => assembler.systemCall(nr.setsid, []);

/**
 * Starts a stub that nobody holds, in a session of its own: when its standard input ends, it writes `text` to its
 * standard output. Returns its pid.
 */
export function spawnWriter(descriptors: readonly number[], text: string): number {
  const write = (address: number) =>
    stubCode(nr.read, nr.exit_group, {
      atStart: leaveSession,
      atEnd: (assembler) =>
        assembler.systemCall(nr.write, [1n, BigInt(address), BigInt(Buffer.byteLength(text))]),
    });
  // The text follows the code, whose length does not depend on where it is.
  const base = STUB_BASE + ELF_HEADER_SIZE + PROGRAM_HEADER_SIZE;
  const code = write(base + write(base).length);
  return spawnExecutable(stubExecutable(Buffer.concat([code, Buffer.from(text)])), descriptors);
}

/** As {@link spawnWriter}: when its standard input ends, it kills processes. */
export function spawnKiller(descriptors: readonly number[], pids: readonly number[]): number {
  const code = stubCode(nr.read, nr.exit_group, {
    atStart: leaveSession,
    atEnd(assembler) {
      for (const pid of pids) assembler.systemCall(nr.kill, [BigInt(pid), BigInt(signal.SIGKILL)]);
    },
    size: 128 + pids.length * CALL_CODE_SIZE,
  });
  return spawnExecutable(stubExecutable(code), descriptors);
}

function spawnExecutable(executable: Buffer, descriptors: readonly number[]): number {
  const file = createMemfd('stasis-stub');
  try {
    writeSync(file, executable);
    return spawnBare(file, descriptors);
  } finally {
    closeSync(file);
  }
}

/**
 * Starts a stub and holds it. Its descriptors are those given, from 0 on; the first must be the read end
 * of a pipe whose write end only this process has, so that the stub ends with this process also before it
 * is held.
 */
export function startStub(descriptors: readonly number[]): Tracee {
  const pid = spawnExecutable(stubExecutable(), descriptors);
  const tracee = Tracee.trySeize(pid, RESTART_OPTIONS);
  if (!(tracee instanceof Tracee)) throw new TaskLostError(pid, 'the helper process could not be held');
  tracee.interruptIfAlive();
  const stop = tracee.wait();
  if (!isEventStop(stop)) {
    throw new TaskLostError(pid, 'the helper process did not start', { reason: describeStop(stop) });
  }
  return tracee;
}

/** Makes a stub map the scratch area, by stepping it through two system calls of its own code. */
export function mapScratch(tracee: Tracee, scratch: Scratch): void {
  const flags = mapFlag.MAP_PRIVATE | mapFlag.MAP_ANONYMOUS | mapFlag.MAP_FIXED_NOREPLACE;
  const instruction = stubSyscallInstruction();
  const code = [scratch.code, SCRATCH_CODE_SIZE, prot.PROT_READ | prot.PROT_EXEC, flags, -1, 0];
  const data = [scratch.data, scratch.end - scratch.data, prot.PROT_READ | prot.PROT_WRITE, flags, -1, 0];
  stepSyscall(tracee, instruction, nr.mmap, code.map(BigInt));
  stepSyscall(tracee, instruction, nr.mmap, data.map(BigInt));
}

/** Makes a held task unmap a range that its code stands in, and stops it at the exit of that call. */
export function unmapByStepping(tracee: Tracee, instruction: RemoteAddress, range: AddressRange): void {
  stepSyscall(tracee, instruction, nr.munmap, [range.start, range.end - range.start]);
}

/**
 * Makes a held task begin a call that waits, and interrupts it at once, so that it has a restart block to go on
 * with. Returns what the call returned: ERESTART_RESTARTBLOCK, or its result where it did not have to wait.
 */
export function interruptCall(
  tracee: Tracee,
  instruction: RemoteAddress,
  number: number,
  args: readonly bigint[],
): bigint {
  setCall(tracee, instruction, number, args);
  tracee.resumeToSyscall();
  expectSyscallStop(tracee, 'entry');
  tracee.interruptIfAlive();
  tracee.resume();
  const stop = tracee.wait();
  if (!isEventStop(stop)) {
    throw new TaskLostError(tracee.tid, `task ${tracee.tid} was not interrupted in a system call`, {
      reason: describeStop(stop),
    });
  }
  return tracee.getRegisters().result;
}

function setCall(tracee: Tracee, instruction: bigint, number: number, args: readonly bigint[]): void {
  const registers = tracee.getRegisters();
  registers.set('rip', instruction).set('orig_rax', -1n).set('rax', BigInt(number));
  const [rdi = 0n, rsi = 0n, rdx = 0n, r10 = 0n, r8 = 0n, r9 = 0n] = args;
  registers.set('rdi', rdi).set('rsi', rsi).set('rdx', rdx).set('r10', r10).set('r8', r8).set('r9', r9);
  tracee.setRegisters(registers);
}

function expectSyscallStop(tracee: Tracee, moment: string): void {
  const stop = tracee.wait();
  if (stop.kind === 'syscall') return;
  throw new TaskLostError(tracee.tid, `task ${tracee.tid} did not reach the ${moment} of a system call`, {
    reason: describeStop(stop),
  });
}

function stepSyscall(tracee: Tracee, instruction: bigint, number: number, args: readonly bigint[]): void {
  setCall(tracee, instruction, number, args);
  for (const moment of ['entry', 'exit']) {
    tracee.resumeToSyscall();
    expectSyscallStop(tracee, moment);
  }
  const result = Number(tracee.getRegisters().result);
  if (result < 0 && result >= -4095) {
    throw new TaskLostError(tracee.tid, `a system call in task ${tracee.tid} failed: ${errnoName(-result)}`, {
      reason: errnoText(-result),
      cause: systemCallError(-result, `system call ${number}`),
    });
  }
}

/** The address of a `syscall` instruction in the stub's own code. */
function stubSyscallInstruction(): bigint {
  const headers = ELF_HEADER_SIZE + PROGRAM_HEADER_SIZE;
  const at = stubExecutable().indexOf(Buffer.from([0x0f, 0x05]), headers);
  return BigInt(STUB_BASE + at);
}

/**
 * The queue of calls of a task that is being built: it has nothing of its own yet that could be harmed.
 * `ownPid` and `ownTid` are what the task sees itself; `onBirth` is told what it makes, as this process sees it.
 */
export function callsOfNewTask(
  tracee: Tracee,
  ownPid: number,
  ownTid: number,
  memory: RemoteMemory,
  scratch: Scratch,
  onBirth: (tid: number) => void,
): RemoteCalls {
  const runner: CodeRunner = {
    tid: tracee.tid,
    memory,
    scratch,
    epilogueSize: 64,
    appendEpilogue(assembler: Assembler) {
      // Let go on from there without another call to make, it says again that it is at the end.
      const end = assembler.length;
      assembler
        .systemCall(nr.tgkill, [BigInt(ownPid), BigInt(ownTid), BigInt(RESTART_END_SIGNAL)])
        .jumpBack(end);
    },
    start() {
      const registers = tracee.getRegisters();
      tracee.setRegisters(registers.set('rip', scratch.code).set('orig_rax', -1n));
      tracee.resume();
    },
    finish() {
      for (let stop = tracee.wait(); !isEnd(stop); stop = tracee.wait()) {
        if (stop.kind === 'event' && !isEventStop(stop)) onBirth(tracee.eventMessage());
        else if (stop.kind !== 'signal') {
          throw new TaskLostError(tracee.tid, `task ${tracee.tid} ended while it was being built`, {
            reason: describeStop(stop),
          });
        }
        // Signals from outside are for a program that is not there yet: they are dropped.
        tracee.resume();
      }
    },
  };
  return new RemoteCalls(runner);
}

/**
 * Makes a held task go on as the init of a pid namespace when it is let go: it waits for the end of the process
 * behind the pidfd, then for that of all who were left to it, and ends. SIGCHLD must be ignored in it.
 */
export function becomeInit(tracee: Tracee, memory: RemoteMemory, scratch: Scratch, pidfd: number): void {
  memory.write(scratch.data, pollfd.encode({ fd: pidfd, events: pollEvent.POLLIN }));
  const assembler = new Assembler(Buffer.alloc(256));
  assembler.systemCall(nr.poll, [scratch.data, 1n, -1n]);
  const next = assembler.length;
  assembler
    .systemCall(nr.wait4, [-1n, 0n, BigInt(wait.__WALL), 0n])
    .jumpToEndOnError()
    .jumpBack(next)
    .markEnd()
    .systemCall(nr.exit_group, [0n]);
  memory.write(scratch.code, assembler.bytes);
  const registers = tracee.getRegisters();
  tracee.setRegisters(registers.set('rip', scratch.code).set('orig_rax', -1n));
}

function isEnd(stop: Stop): boolean {
  return stop.kind === 'signal' && stop.signal === RESTART_END_SIGNAL;
}

/** Where in the scratch area a `syscall` instruction is put, for {@link unmapByStepping}. */
export function scratchSyscallInstruction(scratch: Scratch): RemoteAddress {
  return advance(scratch.code, SCRATCH_CODE_SIZE - 2);
}
