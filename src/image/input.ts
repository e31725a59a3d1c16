import {
  closeSync,
  fstatSync,
  mkdtempSync,
  openSync,
  readSync,
  rmdirSync,
  statSync,
  unlinkSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { UsageError } from '../errors.js';
import { open } from '../sys/uapi.js';

const CHUNK_SIZE = 1 << 20;

/**
 * A descriptor of a regular file with the whole image. A stream is first read to its end into a file
 * without a name in the directory for temporary files (TMPDIR). The caller closes it. Throws UsageError where there
 * is nothing that could be read.
 */
export function openImage(source: string | number): number {
  const fd = openSource(source);
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

function openSource(source: string | number): number {
  const advice = 'name a file that stasis checkpoint has written';
  try {
    const stats = typeof source === 'number' ? fstatSync(source) : statSync(source);
    if (stats.isDirectory()) throw new UsageError(`${source} is a directory`, { advice });
    return typeof source === 'number' ? source : openSync(source, 'r');
  } catch (error) {
    if (!(error instanceof Error && 'syscall' in error)) throw error;
    const name = typeof source === 'number' ? `descriptor ${source}` : source;
    throw new UsageError(`${name} can't be read`, { reason: error.message, advice, cause: error });
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
