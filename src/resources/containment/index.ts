import { NAMESPACES } from '../../bpf/taskProgram.js';
import { STRUCTURES } from '../../objects/census.js';
import type { SharedKind } from '../../objects/sharedObjects.js';
import { credentials, keyring } from './credentials.js';
import { file } from './file.js';
import { fileLock } from './fileLock.js';
import { futex } from './futex.js';
import { namespace } from './namespace.js';
import { pipe } from './pipe.js';
import { parent, tracer } from './relations.js';
import { membership } from './session.js';
import { sharedMemory } from './sharedMemory.js';
import { structure } from './structure.js';
import { messageQueues, semaphores, sharedSegment } from './systemV.js';
import { terminal } from './terminal.js';
import { unixSocket } from './unixSocket.js';

/** Every kind of kernel object by which a container can leak. */
export const sharedKinds: readonly SharedKind[] = [
  ...STRUCTURES.map(structure),
  file,
  pipe,
  unixSocket,
  sharedMemory,
  sharedSegment,
  semaphores,
  messageQueues,
  terminal,
  membership('session'),
  membership('processGroup'),
  tracer,
  parent,
  fileLock,
  futex,
  credentials,
  keyring,
  ...NAMESPACES.map(namespace),
];
