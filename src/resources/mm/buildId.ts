import { closeSync, openSync, readSync } from 'node:fs';

const ELF_MAGIC = 0x464c457f;
const ELF_HEADER_SIZE = 64;
const PROGRAM_HEADER_SIZE = 56;
const MAX_PROGRAM_HEADERS = 64;
const PT_NOTE = 4;
const NT_GNU_BUILD_ID = 3;
const NOTE_HEADER_SIZE = 12;
const MAX_NOTES = 4096;

/** The GNU build-id of a 64-bit ELF file; empty when it has none or is no such file. Source: elf(5). */
export function buildIdOf(path: string): Uint8Array {
  const fd = openSync(path, 'r');
  try {
    const header = readAt(fd, 0, ELF_HEADER_SIZE);
    if (header.length < ELF_HEADER_SIZE || header.readUInt32LE(0) !== ELF_MAGIC || header[4] !== 2) {
      return new Uint8Array();
    }
    const count = Math.min(header.readUInt16LE(56), MAX_PROGRAM_HEADERS);
    const table = readAt(fd, Number(header.readBigUInt64LE(32)), count * PROGRAM_HEADER_SIZE);
    for (let at = 0; at + PROGRAM_HEADER_SIZE <= table.length; at += PROGRAM_HEADER_SIZE) {
      if (table.readUInt32LE(at) !== PT_NOTE) continue;
      const size = Math.min(Number(table.readBigUInt64LE(at + 32)), MAX_NOTES);
      const id = findBuildId(readAt(fd, Number(table.readBigUInt64LE(at + 8)), size));
      if (id !== undefined) return id;
    }
    return new Uint8Array();
  } finally {
    closeSync(fd);
  }
}

/** Finds the build-id among the notes of a segment. */
export function findBuildId(notes: Buffer): Uint8Array | undefined {
  for (let at = 0; at + NOTE_HEADER_SIZE <= notes.length; ) {
    const nameSize = notes.readUInt32LE(at);
    const size = notes.readUInt32LE(at + 4);
    const type = notes.readUInt32LE(at + 8);
    const name = at + NOTE_HEADER_SIZE;
    const description = name + ((nameSize + 3) & ~3);
    if (description + size > notes.length) return undefined;
    if (type === NT_GNU_BUILD_ID && notes.toString('latin1', name, name + 3) === 'GNU') {
      return Uint8Array.prototype.slice.call(notes, description, description + size);
    }
    const next = description + ((size + 3) & ~3);
    if (next <= at) return undefined;
    at = next;
  }
  return undefined;
}

function readAt(fd: number, position: number, length: number): Buffer {
  const buffer = Buffer.alloc(length);
  return buffer.subarray(0, readSync(fd, buffer, 0, length, position));
}
