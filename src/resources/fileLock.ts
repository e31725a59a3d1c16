import type { MessageInitShape, MessageShape } from '@bufbuild/protobuf';
import { FileLock_Kind, type FileLockSchema } from '../image/generated/file_lock_pb.js';
import type { ProcLock } from '../procfs/fdinfo.js';
import { flock } from '../sys/structs.js';
import { fcntl, flockOperation } from '../sys/uapi.js';
import type { RemoteArgument, RemoteCalls } from '../tracee/remoteCalls.js';

type FileLock = MessageShape<typeof FileLockSchema>;

const KINDS: Partial<Record<ProcLock['type'], FileLock_Kind>> = {
  FLOCK: FileLock_Kind.FLOCK,
  OFDLCK: FileLock_Kind.OFD,
  POSIX: FileLock_Kind.POSIX,
};

/** The kinds of locks that are brought back; leases and delegations are not. */
export function isKnownLock(lock: ProcLock): boolean {
  return KINDS[lock.type] !== undefined && lock.mode !== 'other';
}

/** The message for a lock. */
export function lockMessage(lock: ProcLock): MessageInitShape<typeof FileLockSchema> {
  return {
    kind: KINDS[lock.type] ?? FileLock_Kind.KIND_UNSPECIFIED,
    exclusive: lock.mode === 'WRITE',
    start: lock.start,
    length: lock.end === undefined ? 0n : lock.end - lock.start + 1n,
  };
}

/** Queues the call that takes a lock again. Source: flock(2), fcntl(2). */
export function takeLock(lock: FileLock, fd: RemoteArgument, calls: RemoteCalls, path: string): void {
  const purpose = `taking the lock on ${path} again, which somebody else may hold`;
  if (lock.kind === FileLock_Kind.FLOCK) {
    const operation = lock.exclusive ? flockOperation.LOCK_EX : flockOperation.LOCK_SH;
    calls.call('flock', [fd, operation | flockOperation.LOCK_NB], { purpose });
    return;
  }
  const command = lock.kind === FileLock_Kind.OFD ? fcntl.F_OFD_SETLK : fcntl.F_SETLK;
  const range = flock.encode({
    l_type: lock.exclusive ? fcntl.F_WRLCK : fcntl.F_RDLCK,
    l_start: lock.start,
    l_len: lock.length,
  });
  calls.call('fcntl', [fd, command, range], { purpose });
}
