import { createHash } from 'node:crypto';
import { closeSync, openSync, readSync } from 'node:fs';
import { readProc } from '../procfs/read.js';
import { parseRunningMappings } from '../procfs/smaps.js';

/** Size in bytes and SHA-256 of the kernel's vdso, as this process has it mapped; undefined without one. */
export function readVdso(): { size: number; sha256: Uint8Array } | undefined {
  const vdso = parseRunningMappings(readProc('/proc/self/maps')).find(({ name }) => name === '[vdso]');
  if (vdso === undefined) return undefined;
  const bytes = Buffer.alloc(Number(vdso.end - vdso.start));
  const fd = openSync('/proc/self/mem', 'r');
  try {
    readSync(fd, bytes, 0, bytes.length, Number(vdso.start));
  } finally {
    closeSync(fd);
  }
  return { size: bytes.length, sha256: createHash('sha256').update(bytes).digest() };
}
