import type { FileKind, TaskKind } from '../objects/slice.js';
import { attributes } from './attributes.js';
import { cgroups } from './cgroups.js';
import { characterDevice } from './characterDevice.js';
import { credentials } from './credentials.js';
import { directory } from './directory.js';
import { epoll } from './epoll.js';
import { eventfd } from './eventfd.js';
import { external } from './external.js';
import { fs } from './fs.js';
import { intervalTimers } from './intervalTimers.js';
import { limits } from './limits.js';
import { pendingSignals, sharedPendingSignals } from './pendingSignals.js';
import { pipe } from './pipe.js';
import { posixTimers } from './posixTimers.js';
import { regularFile } from './regularFile.js';
import { scheduling } from './scheduling.js';
import { seccomp } from './seccomp.js';
import { sighand } from './sighand.js';
import { threadState } from './threadState.js';

/**
 * The registry: every slice, by what it describes. Record types 16 to 63 are states of tasks, address
 * spaces and tables; 64 and up are open files. `test/resources/registry.test.ts` sees that none is given
 * twice.
 */

/** Kinds of open files. The first that claims a file has it. */
export const fileKinds: readonly FileKind[] = [
  regularFile,
  directory,
  characterDevice,
  pipe,
  external,
  eventfd,
  epoll,
];

/** Structures that processes may share: each is in the image once, under an objref of its own. */
export const structureKinds = { sighand, fs } as const satisfies Record<string, TaskKind<'process'>>;

/** Comes before all other state of threads: it is set for several at once, and suspended until they run. */
export const seccompKind: TaskKind<'thread'> = seccomp;

/** Parts of a process's state, in the order in which they are brought back. */
export const processKinds: readonly TaskKind<'process'>[] = [
  limits,
  attributes,
  // It takes signals: those that were pending come after.
  posixTimers,
  sharedPendingSignals,
  intervalTimers,
  cgroups,
];

/** Parts of a thread's state, in the order in which they are brought back: credentials end the privileges. */
export const threadKinds: readonly TaskKind<'thread'>[] = [
  threadState,
  scheduling,
  pendingSignals,
  credentials,
];
