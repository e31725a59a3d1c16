import { closeSync, existsSync, lstatSync, openSync, renameSync, unlinkSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { OutputError } from '../errors.js';
import { nr } from '../sys/arch/index.js';
import { errno } from '../sys/errno.js';
import { check, trySyscall } from '../sys/syscall.js';
import { fcntl, open } from '../sys/uapi.js';

const AT_SYMLINK_FOLLOW = 0x400;

/** Where an image is written to. A file appears under its name only with {@link commit}. */
export class ImageOutput implements Disposable {
  private constructor(
    readonly fd: number,
    /** For messages. */
    readonly name: string,
    private readonly finish: () => void,
    private readonly abandon: () => void,
  ) {}

  /** A descriptor of the caller's, such as standard output. It stays open. */
  static descriptor(fd: number, name: string): ImageOutput {
    return new ImageOutput(fd, name, nothing, nothing);
  }

  /**
   * A file, which has no name until it is complete: whatever happens before, nothing is left behind.
   * Throws OutputError when the name is taken and `overwrite` is false, or the place can't be written.
   */
  static file(path: string, overwrite: boolean): ImageOutput {
    const taken = lstatSync(path, { throwIfNoEntry: false });
    if (taken?.isDirectory()) throw new OutputError(`${path} is a directory`, { advice: 'name a file' });
    const special = taken !== undefined && !taken.isFile() && !taken.isSymbolicLink();
    if (taken !== undefined && !special && !overwrite) {
      throw new OutputError(`${path} exists`, {
        reason: 'an image does not replace a file by itself',
        advice: 'take another name, or replace it with --force',
      });
    }
    try {
      return special ? ImageOutput.existing(path) : ImageOutput.unnamed(path);
    } catch (error) {
      throw new OutputError(`${path} can't be written`, {
        reason: error instanceof Error ? error.message : String(error),
        advice: 'choose a directory that exists and has room',
        cause: error,
      });
    }
  }

  /** Gives the complete image its name. */
  commit(): void {
    this.finish();
  }

  [Symbol.dispose](): void {
    this.abandon();
  }

  /** A device or named pipe, which is written to as it is. */
  private static existing(path: string): ImageOutput {
    const fd = openSync(path, 'w');
    return new ImageOutput(fd, path, nothing, () => closeSync(fd));
  }

  private static unnamed(path: string): ImageOutput {
    const directory = dirname(path);
    let fd: number;
    try {
      fd = openSync(directory, open.O_RDWR | open.O_TMPFILE | open.O_CLOEXEC, 0o600);
    } catch (error) {
      // Not every file system has files without names.
      if (
        error instanceof Error &&
        'code' in error &&
        (error.code === 'EOPNOTSUPP' || error.code === 'EISDIR')
      ) {
        return ImageOutput.hidden(path);
      }
      throw error;
    }
    let closed = false;
    const close = (): void => {
      if (!closed) closeSync(fd);
      closed = true;
    };
    const finish = (): void => {
      const source = Buffer.from(`/proc/self/fd/${fd}\0`);
      if (!link(source, path)) {
        const temporary = temporaryName(path);
        link(source, temporary);
        renameSync(temporary, path);
      }
      close();
    };
    return new ImageOutput(fd, path, finish, close);
  }

  private static hidden(path: string): ImageOutput {
    const temporary = temporaryName(path);
    const fd = openSync(temporary, 'wx', 0o600);
    let complete = false;
    const finish = (): void => {
      renameSync(temporary, path);
      complete = true;
    };
    return new ImageOutput(fd, path, finish, () => {
      closeSync(fd);
      if (!complete && existsSync(temporary)) unlinkSync(temporary);
    });
  }
}

/** False when the name is taken. */
function link(source: Buffer, path: string): boolean {
  const result = trySyscall(
    nr.linkat,
    fcntl.AT_FDCWD,
    source,
    fcntl.AT_FDCWD,
    Buffer.from(`${path}\0`),
    AT_SYMLINK_FOLLOW,
  );
  if (result === -errno.EEXIST) return false;
  check(result, 'linkat', path);
  return true;
}

function temporaryName(path: string): string {
  return join(dirname(path), `.${basename(path)}.${process.pid}.partial`);
}

function nothing(): void {
  // A descriptor that is not ours needs nothing.
}
