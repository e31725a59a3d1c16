import { statSync } from 'node:fs';
import { DirectorySchema } from '../image/generated/directory_pb.js';
import { fileKind } from '../objects/slice.js';
import { fcntl, open } from '../sys/uapi.js';
import { cString } from '../tracee/remoteCalls.js';
import { refuseLostPath, reopenFlags } from './pathFile.js';

const SEEK_SET = 0;

/** Open directories. Their offset is a cookie of the file system, which keeps its meaning while it is mounted. */
export const directory = fileKind({
  kind: 'directory',
  recordType: 65,
  schema: DirectorySchema,

  claims: ({ descriptor }) => descriptor.stats.isDirectory(),
  refuse: refuseLostPath,

  checkpoint: ({ descriptor: { link, info } }) => ({
    path: link,
    flags: reopenFlags(info.flags),
    position: info.position,
  }),

  describe: ({ path }) => `${path}/`,

  verify({ path }) {
    if (statSync(path, { throwIfNoEntry: false })?.isDirectory() === true) return [];
    return [{ where: 'open directory', what: `${path} is missing or no directory`, advice: 'make it again' }];
  },

  restart({ path, flags, position }, { calls }) {
    const fd = calls.call('openat', [fcntl.AT_FDCWD, cString(path), flags, 0], {
      purpose: `opening ${path}`,
    });
    if ((flags & open.O_PATH) === 0) calls.call('lseek', [fd, position, SEEK_SET]);
    return fd;
  },
});
