import { closeSync, openSync, readSync, writeSync } from 'node:fs';
import { TaskLostError } from '../errors.js';
import { nr } from '../sys/arch/index.js';
import { errno } from '../sys/errno.js';
import { iovec } from '../sys/structs.js';
import { addressOf, check, trySyscall } from '../sys/syscall.js';
import { PAGE_SIZE } from '../sys/uapi.js';
import { type AddressRange, type RemoteAddress, remoteAddress } from './address.js';

/**
 * A target's memory through `/proc/PID/mem`: reaches what the target itself may not read or write, as
 * ptrace does. Source: proc_pid_mem(5).
 */
export class RemoteMemory implements Disposable {
  private readonly fd: number;

  constructor(readonly pid: number) {
    this.fd = openSync(`/proc/${pid}/mem`, 'r+');
  }

  /** Fills `buffer` from `address`. */
  read(address: RemoteAddress, buffer: Uint8Array): void {
    this.transfer(address, buffer.length, 'read', () =>
      readSync(this.fd, buffer, 0, buffer.length, Number(address)),
    );
  }

  write(address: RemoteAddress, bytes: Uint8Array): void {
    this.transfer(address, bytes.length, 'written', () =>
      writeSync(this.fd, bytes, 0, bytes.length, Number(address)),
    );
  }

  [Symbol.dispose](): void {
    closeSync(this.fd);
  }

  private transfer(address: RemoteAddress, length: number, verb: string, move: () => number): void {
    let cause: unknown;
    try {
      if (move() === length) return;
    } catch (error) {
      cause = error;
    }
    throw new TaskLostError(
      this.pid,
      `${length} bytes at 0x${address.toString(16)} of process ${this.pid} can't be ${verb}`,
      { reason: 'the process has ended, or the kernel refuses access to that range', cause },
    );
  }
}

/** Memory of a task that runs; undefined when it can't be read, or the task has ended. Source: process_vm_readv(2). */
export function tryReadMemory(pid: number, address: bigint, length: number): Buffer | undefined {
  const buffer = Buffer.alloc(length);
  const local = iovec.encode({ iov_base: addressOf(buffer), iov_len: BigInt(length) });
  const remote = iovec.encode({ iov_base: address, iov_len: BigInt(length) });
  const got = trySyscall(nr.process_vm_readv, pid, local, 1, remote, 1, 0);
  return got === length ? buffer : undefined;
}

/** IOV_MAX of limits.h. */
const MAX_VECTORS = 1024;
const remoteVectors = Buffer.alloc(MAX_VECTORS * 16);
const localVector = Buffer.alloc(16);

/**
 * Reads the given ranges, one behind the other, into `buffer` from `at` on. Ranges that the target itself
 * may not read are read through its `/proc/PID/mem`. Source: process_vm_readv(2).
 */
export function readRanges(
  memory: RemoteMemory,
  ranges: readonly AddressRange[],
  buffer: Uint8Array,
  at = 0,
): number {
  let index = 0;
  let filled = at;
  let start: bigint = ranges[0]?.start ?? 0n;
  while (index < ranges.length) {
    const count = Math.min(ranges.length - index, MAX_VECTORS);
    let wanted = 0;
    for (let i = 0; i < count; i++) {
      const range = ranges[index + i] as AddressRange;
      const from = i === 0 ? start : range.start;
      remoteVectors.writeBigUInt64LE(from, i * 16);
      remoteVectors.writeBigUInt64LE(range.end - from, i * 16 + 8);
      wanted += Number(range.end - from);
    }
    localVector.writeBigUInt64LE(addressOf(buffer) + BigInt(filled), 0);
    localVector.writeBigUInt64LE(BigInt(wanted), 8);
    let got = trySyscall(nr.process_vm_readv, memory.pid, localVector, 1, remoteVectors, count, 0);
    if (got === -errno.EFAULT || got === 0) {
      // The page at `start` is not readable for the target itself.
      memory.read(remoteAddress(start), buffer.subarray(filled, filled + PAGE_SIZE));
      got = PAGE_SIZE;
    }
    if (got === -errno.ESRCH) throw new TaskLostError(memory.pid, `process ${memory.pid} has ended`);
    check(got, 'process_vm_readv', `process ${memory.pid}`);
    filled += got;
    let rest = BigInt(got);
    while (rest > 0n) {
      const range = ranges[index] as AddressRange;
      const left = range.end - start;
      if (rest < left) {
        start += rest;
        break;
      }
      rest -= left;
      index++;
      start = ranges[index]?.start ?? 0n;
    }
  }
  return filled - at;
}
