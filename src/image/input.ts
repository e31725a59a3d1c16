import {
  closeSync,
  fstatSync,
  mkdtempSync,
  openSync,
  readSync,
  rmdirSync,
  unlinkSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { open } from '../sys/uapi.js';

const CHUNK_SIZE = 1 << 20;

/**
 * A descriptor of a regular file with the whole image. A stream is first read to its end into a file
 * without a name in the directory for temporary files (TMPDIR). The caller closes it.
 */
export function openImage(source: string | number): number {
  const fd = typeof source === 'number' ? source : openSync(source, 'r');
  if (fstatSync(fd).isFile()) return typeof source === 'number' ? openSync(`/proc/self/fd/${fd}`, 'r') : fd;
  const spool = openUnnamed();
  try {
    const chunk = Buffer.alloc(CHUNK_SIZE);
    for (let count = readSync(fd, chunk); count > 0; count = readSync(fd, chunk)) {
      for (let at = 0; at < count; ) at += writeSync(spool, chunk, at, count - at);
    }
    return spool;
  } catch (error) {
    closeSync(spool);
    throw error;
  } finally {
    if (typeof source !== 'number') closeSync(fd);
  }
}

function openUnnamed(): number {
  try {
    return openSync(tmpdir(), open.O_RDWR | open.O_TMPFILE | open.O_CLOEXEC, 0o600);
  } catch (error) {
    if (!(error instanceof Error && 'code' in error && error.code === 'EOPNOTSUPP')) throw error;
    const directory = mkdtempSync(join(tmpdir(), 'stasis-'));
    const path = join(directory, 'image');
    const fd = openSync(path, 'wx+', 0o600);
    unlinkSync(path);
    rmdirSync(directory);
    return fd;
  }
}
