import { statfsSync } from 'node:fs';
import { RegularFileSchema } from '../image/generated/regular_file_pb.js';
import { fileKind } from '../objects/slice.js';
import { fcntl, open, PROC_SUPER_MAGIC } from '../sys/uapi.js';
import { cString } from '../tracee/remoteCalls.js';
import { isKnownLock, lockMessage, takeLock } from './fileLock.js';
import { leadsTo, refuseLostPath, reopenFlags, verifyFile } from './pathFile.js';

const SEEK_SET = 0;
/** linux/magic.h: file systems whose files are made up by the kernel when they are read. */
const SYNTHETIC_FILE_SYSTEMS = [PROC_SUPER_MAGIC, 0x62656572, 0x64626720, 0x74726163, 0x63677270, 0x27e0eb];

/** Open regular files: path, flags, offset, and the locks that belong to the open file description. */
export const regularFile = fileKind({
  kind: 'regularFile',
  recordType: 64,
  schema: RegularFileSchema,

  claims: ({ descriptor }) => descriptor.stats.isFile() && descriptor.link.startsWith('/'),

  refuse(file) {
    const { link, info, stats } = file.descriptor;
    // Memory without a path, such as a memfd, is an affair of its own.
    if (link.startsWith('/memfd:')) {
      return { what: `the memory file ${link}`, advice: 'memfds are not supported yet' };
    }
    const strange = info.locks.find((lock) => !isKnownLock(lock));
    if (strange !== undefined) {
      return { what: `a ${strange.type} on ${link}`, advice: 'leases are not supported; give it back first' };
    }
    const lost = refuseLostPath(file);
    if (lost !== undefined) return lost;
    if (leadsTo(link, stats) && SYNTHETIC_FILE_SYSTEMS.includes(statfsSync(link).type)) {
      return {
        what: `${link}, which the kernel makes up while it is read`,
        advice: 'checkpoint when the program has closed it',
      };
    }
    return undefined;
  },

  checkpoint({ descriptor: { link, info, stats } }) {
    return {
      path: link,
      flags: reopenFlags(info.flags),
      position: info.position,
      size: stats.size,
      modifiedNs: stats.mtimeNs,
      locks: info.locks.filter((lock) => lock.type !== 'POSIX').map(lockMessage),
    };
  },

  describe: ({ path, position, flags }) => `${path} at ${position}${accessText(flags)}`,

  verify: (message, { force }) => verifyFile(message, 'open file', force),

  restart(message, { calls }) {
    const fd = calls.call('openat', [fcntl.AT_FDCWD, cString(message.path), message.flags, 0], {
      purpose: `opening ${message.path}`,
    });
    if ((message.flags & open.O_PATH) === 0) {
      calls.call('lseek', [fd, message.position, SEEK_SET], { purpose: `seeking in ${message.path}` });
    }
    for (const lock of message.locks) takeLock(lock, fd, calls, message.path);
    return fd;
  },
});

/** How a file is open, for people. */
export function accessText(flags: number): string {
  const access = flags & open.O_ACCMODE;
  const mode = access === open.O_RDONLY ? 'read' : access === open.O_WRONLY ? 'write' : 'read/write';
  return ` (${mode}${(flags & open.O_APPEND) !== 0 ? ', append' : ''})`;
}
