import { type FilesStruct, FilesStructSchema } from '../image/generated/files_struct_pb.js';
import { decodePayload, type ImageRecord } from '../image/reader.js';
import type { ImageWriter } from '../image/writer.js';
import type { FrozenProcess } from '../objects/frozenProcess.js';
import type { OpenedFiles } from '../objects/slice.js';
import { fcntl, open } from '../sys/uapi.js';
import type { RemoteCalls, RemoteResult } from '../tracee/remoteCalls.js';
import { lockMessage, takeLock } from './fileLock.js';
import type { OpenFiles } from './openFiles.js';

export const FILES_STRUCT_RECORD = 51;

/** Writes the record of a table of descriptors, and the locks of the process (fcntl(2) F_SETLK). */
export function saveFilesStruct(
  process: FrozenProcess,
  files: OpenFiles,
  objref: number,
  writer: ImageWriter,
): void {
  const locked = new Set<string>();
  writer.record(FILES_STRUCT_RECORD, objref, FilesStructSchema, {
    descriptors: process.descriptors.map((descriptor) => ({
      fd: descriptor.fd,
      closeOnExec: (descriptor.info.flags & open.O_CLOEXEC) !== 0,
      file: files.objectOf(process, descriptor).objref,
      // Each lock is shown with every descriptor of the same file; one that may take it is enough.
      locks: descriptor.info.locks
        .filter((lock) => {
          const access = descriptor.info.flags & open.O_ACCMODE;
          const fits = access === open.O_RDWR || (access === open.O_WRONLY) === (lock.mode === 'WRITE');
          const key = `${descriptor.link} ${lock.start} ${lock.end}`;
          if (lock.type !== 'POSIX' || !fits || locked.has(key)) return false;
          locked.add(key);
          return true;
        })
        .map(lockMessage),
    })),
  });
}

export function loadFilesStruct(record: ImageRecord): FilesStruct {
  return decodePayload(record, FilesStructSchema, `filesStruct[${record.objref}]`);
}

/** What the table of a new task is filled from. */
export interface FilesSource extends OpenedFiles {
  /** In the task: a pidfd of the helper that has the files open. */
  readonly helper: number;
  /** Numbers that are not free while the table is filled. */
  readonly reserved: readonly number[];
}

/** Queues the calls that fill a table in which only the reserved numbers are taken. */
export function fillFilesStruct({ descriptors }: FilesStruct, source: FilesSource, calls: RemoteCalls): void {
  const sorted = [...descriptors].sort((a, b) => a.fd - b.fd);
  const occupied = new Set<number>(source.reserved);
  let lowestFree = 0;
  for (const { fd, closeOnExec, file } of sorted) {
    const wanted = source.descriptorOf(file, fd);
    const got: RemoteResult = calls.call('pidfd_getfd', [source.helper, wanted, 0], {
      purpose: `taking descriptor ${fd}, ${source.describe(file)}`,
    });
    if (fd === lowestFree) {
      // The kernel gives the lowest number that is free, close-on-exec.
      if (!closeOnExec) calls.call('fcntl', [got, fcntl.F_SETFD, 0]);
    } else {
      calls.call('dup3', [got, fd, closeOnExec ? open.O_CLOEXEC : 0], {
        purpose: `moving a file to descriptor ${fd}`,
      });
      calls.call('close', [got]);
    }
    occupied.add(fd);
    while (occupied.has(lowestFree)) lowestFree++;
  }
  for (const { fd, file, locks } of sorted) {
    for (const lock of locks) takeLock(lock, fd, calls, source.describe(file));
  }
}
