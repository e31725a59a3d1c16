import { closeSync, readSync } from 'node:fs';
import { BpfUnavailableError } from '../errors.js';
import { nr } from '../sys/arch/index.js';
import { errno, errnoName, errnoText } from '../sys/errno.js';
import { addressOf, trySyscall } from '../sys/syscall.js';

/** `enum bpf_cmd`, `enum bpf_prog_type`, `enum bpf_attach_type` of linux/bpf.h. */
const BPF_PROG_LOAD = 5;
const BPF_LINK_CREATE = 28;
const BPF_ITER_CREATE = 33;
const BPF_PROG_TYPE_TRACING = 26;
const BPF_TRACE_ITER = 28;
/** The kernel lets only programs with this license call its helpers that read kernel memory. */
const LICENSE = Buffer.from('GPL\0');
const ATTRIBUTE_SIZE = 160;
const LOAD_ATTEMPTS = 100;
const LOG_SIZE = 1 << 16;
/** Where members of `union bpf_attr` are, by command. */
const load = {
  prog_type: 0,
  insn_cnt: 4,
  insns: 8,
  license: 16,
  log_level: 24,
  log_size: 28,
  log_buf: 32,
  expected_attach_type: 68,
  attach_btf_id: 108,
};
const link = { prog_fd: 0, attach_type: 8 };
const create = { link_fd: 0 };
const INITIAL_SIZE = 1 << 18;
/** Copying what was read so far costs as much as reading it: it is to happen seldom. */
const GROWTH = 4;
const MIN_ROOM = 1 << 15;

/** A BPF program that is attached to an iterator of the kernel. It is gone with the scope, or this process. */
export class KernelIterator implements Disposable {
  private constructor(
    private readonly name: string,
    /** The descriptor that keeps the program attached; nobody else has it. */
    readonly linkFd: number,
  ) {}

  /**
   * Loads a program for the iterator with a BTF id. Throws BpfUnavailableError where the kernel or the
   * privileges do not permit it. Source: bpf(2), Documentation/bpf/bpf_iterators.rst.
   */
  static load(name: string, btfId: number, code: Buffer): KernelIterator {
    const programFd = loadProgram(name, btfId, code);
    try {
      const attributes = Buffer.alloc(ATTRIBUTE_SIZE);
      attributes.writeUInt32LE(programFd, link.prog_fd);
      attributes.writeUInt32LE(BPF_TRACE_ITER, link.attach_type);
      const linkFd = trySyscall(nr.bpf, BPF_LINK_CREATE, attributes, ATTRIBUTE_SIZE);
      if (linkFd < 0) throw refused(`the iterator ${name} can't be attached`, -linkFd);
      return new KernelIterator(name, linkFd);
    } finally {
      closeSync(programFd);
    }
  }

  /** Walks once, and returns all that the program wrote. */
  walk(): Buffer {
    const attributes = Buffer.alloc(ATTRIBUTE_SIZE);
    attributes.writeUInt32LE(this.linkFd, create.link_fd);
    const fd = trySyscall(nr.bpf, BPF_ITER_CREATE, attributes, ATTRIBUTE_SIZE);
    if (fd < 0) throw refused(`the iterator ${this.name} can't be started`, -fd);
    try {
      return readAll(fd);
    } finally {
      closeSync(fd);
    }
  }

  [Symbol.dispose](): void {
    closeSync(this.linkFd);
  }
}

function loadProgram(name: string, btfId: number, code: Buffer): number {
  const attempt = (logLevel: number): { fd: number; log: Buffer } => {
    const log = Buffer.alloc(logLevel === 0 ? 1 : LOG_SIZE);
    const attributes = Buffer.alloc(ATTRIBUTE_SIZE);
    attributes.writeUInt32LE(BPF_PROG_TYPE_TRACING, load.prog_type);
    attributes.writeUInt32LE(code.length / 8, load.insn_cnt);
    attributes.writeBigUInt64LE(addressOf(code), load.insns);
    attributes.writeBigUInt64LE(addressOf(LICENSE), load.license);
    if (logLevel > 0) {
      attributes.writeUInt32LE(logLevel, load.log_level);
      attributes.writeUInt32LE(log.length, load.log_size);
      attributes.writeBigUInt64LE(addressOf(log), load.log_buf);
    }
    attributes.writeUInt32LE(BPF_TRACE_ITER, load.expected_attach_type);
    attributes.writeUInt32LE(btfId, load.attach_btf_id);
    let fd = -errno.EAGAIN;
    // The kernel gives up its check of a program when a signal comes.
    for (let i = 0; fd === -errno.EAGAIN && i < LOAD_ATTEMPTS; i++) {
      fd = trySyscall(nr.bpf, BPF_PROG_LOAD, attributes, ATTRIBUTE_SIZE);
    }
    return { fd, log };
  };
  const { fd } = attempt(0);
  if (fd >= 0) return fd;
  // Only a program that the kernel does not take is worth the verifier's log.
  const { fd: second, log } = attempt(1);
  if (second >= 0) return second;
  const text = log.toString('latin1', 0, log.indexOf(0)).trim().split('\n').slice(-3).join('; ');
  throw refused(`the program for the iterator ${name} can't be loaded`, -second, text);
}

function readAll(fd: number): Buffer {
  let buffer = Buffer.allocUnsafeSlow(INITIAL_SIZE);
  let filled = 0;
  for (;;) {
    if (buffer.length - filled < MIN_ROOM) {
      const larger = Buffer.allocUnsafeSlow(GROWTH * buffer.length);
      buffer.copy(larger, 0, 0, filled);
      buffer = larger;
    }
    const count = readSome(fd, buffer, filled);
    if (count === 0) return buffer.subarray(0, filled);
    filled += count;
  }
}

/** The kernel asks to be called again after a million things of which nothing was written. */
function readSome(fd: number, buffer: Buffer, at: number): number {
  for (;;) {
    try {
      return readSync(fd, buffer, at, buffer.length - at, null);
    } catch (error) {
      if (!(error instanceof Error && 'code' in error && error.code === 'EAGAIN')) throw error;
    }
  }
}

function refused(message: string, number: number, log?: string): BpfUnavailableError {
  const details = log ? `; the kernel's verifier says: ${log}` : '';
  return new BpfUnavailableError(message, {
    reason: `${errnoName(number)}: ${errnoText(number)}${details}`,
    advice: 'BPF iterators need CAP_BPF and CAP_PERFMON, or CAP_SYS_ADMIN, in the initial user namespace',
  });
}
