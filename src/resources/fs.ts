import { statSync } from 'node:fs';
import type { Obstacle } from '../errors.js';
import { FsStructSchema } from '../image/generated/fs_pb.js';
import { taskKind } from '../objects/slice.js';
import { readLink } from '../procfs/read.js';
import { cString } from '../tracee/remoteCalls.js';

/** Working directory, root and umask: `struct fs_struct`. Source: chdir(2), chroot(2), umask(2). */
export const fs = taskKind({
  kind: 'fs',
  recordType: 17,
  scope: 'process',
  schema: FsStructSchema,

  refuse({ live }) {
    return [
      ...refuseDirectory(live, 'cwd', 'the working directory'),
      ...refuseDirectory(live, 'root', 'the root directory'),
    ];
  },

  checkpoint({ live, status }) {
    const message = {
      workingDirectory: readLink(`/proc/${live}/cwd`),
      rootDirectory: readLink(`/proc/${live}/root`),
      umask: status.umask,
    };
    return () => message;
  },

  verify({ workingDirectory, rootDirectory }, pid) {
    return [workingDirectory, rootDirectory].flatMap((path) =>
      statSync(path, { throwIfNoEntry: false })?.isDirectory() === true
        ? []
        : [{ pid, where: path, what: 'the directory is missing', advice: 'make it again' }],
    );
  },

  restart({ workingDirectory, rootDirectory, umask }, calls) {
    calls.call('chdir', [cString(workingDirectory)], { purpose: `entering ${workingDirectory}` });
    // The working directory stays where it is, also outside the new root.
    if (rootDirectory !== '/') {
      calls.call('chroot', [cString(rootDirectory)], { purpose: `changing the root to ${rootDirectory}` });
    }
    calls.call('umask', [umask]);
  },
});

/** A directory that its path does not lead to any more can't be entered again. */
function refuseDirectory(pid: number, link: 'cwd' | 'root', what: string): Obstacle[] {
  const path = readLink(`/proc/${pid}/${link}`);
  const held = statSync(`/proc/${pid}/${link}`);
  const found = statSync(path, { throwIfNoEntry: false });
  if (found !== undefined && found.dev === held.dev && found.ino === held.ino) return [];
  return [
    {
      pid,
      where: path,
      what: `${what} has been removed, or another one has its name`,
      advice: 'let the process change to a directory that exists',
    },
  ];
}
