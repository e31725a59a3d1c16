import { closeSync, openSync, readdirSync, readlinkSync, readSync } from 'node:fs';

let buffer = Buffer.alloc(0x1_0000);

/**
 * The whole text of a file below `/proc`, one character a byte. One read sees one state of the kernel, as
 * long as it fits the buffer; the buffer grows to what was met.
 */
export function readProc(path: string): string {
  return readProcBytes(path).toString('latin1');
}

/** As {@link readProc}, as bytes of their own. */
export function readProcBytes(path: string): Buffer {
  const fd = openSync(path, 'r');
  try {
    let length = 0;
    for (;;) {
      const count = readSync(fd, buffer, length, buffer.length - length, null);
      if (count === 0) return Buffer.from(buffer.subarray(0, length));
      length += count;
      if (length === buffer.length) buffer = Buffer.concat([buffer], buffer.length * 2);
    }
  } finally {
    closeSync(fd);
  }
}

/** The text, or undefined when the task that it tells of has ended. */
export function readProcIfAlive(path: string): string | undefined {
  return ifAlive(() => readProc(path));
}

/** The target of a link below `/proc`, or undefined when its task has ended or there is none. */
export function readLinkIfAlive(path: string): string | undefined {
  return ifAlive(() => readlinkSync(path));
}

/** The numeric names in a directory below `/proc`, ascending; undefined when its task has ended. */
export function readNumbersIfAlive(path: string): number[] | undefined {
  return ifAlive(() =>
    readdirSync(path)
      .map(Number)
      .filter((number) => Number.isInteger(number))
      .sort((a, b) => a - b),
  );
}

function ifAlive<T>(read: () => T): T | undefined {
  try {
    return read();
  } catch (error) {
    if (isGone(error)) return undefined;
    throw error;
  }
}

function isGone(error: unknown): boolean {
  return error instanceof Error && 'code' in error && (error.code === 'ENOENT' || error.code === 'ESRCH');
}
