import { closeSync, readSync } from 'node:fs';
import { PipeEndSchema } from '../image/generated/pipe_pb.js';
import { type FileCheckpoint, type FileRestart, fileKind, type OpenFile } from '../objects/slice.js';
import {
  bytesReadable,
  createPipe,
  pipeCapacity,
  pollNow,
  setPipeCapacity,
  teePipe,
} from '../sys/descriptors.js';
import { fcntl, open, pollEvent } from '../sys/uapi.js';
import { cString, RemoteOutput } from '../tracee/remoteCalls.js';

/** Bytes written by one remote call when a pipe is refilled. */
const REFILL_CHUNK = 0x1_0000;

/** Anonymous pipes with both ends in the tree, or with nobody at the other end. Source: pipe(7). */
export const pipe = fileKind({
  kind: 'pipe',
  recordType: 67,
  schema: PipeEndSchema,

  claims: (file, context) => isPipe(file) && !leadsOutside(file, context),

  refuse({ descriptor: { info, link } }) {
    if ((info.flags & open.O_DIRECT) !== 0) {
      return { what: `${link} is a pipe in packet mode`, advice: 'not supported yet' };
    }
    if ((info.flags & open.O_ASYNC) !== 0) {
      return { what: `${link} sends signals when it is ready (O_ASYNC)`, advice: 'not supported yet' };
    }
    return undefined;
  },

  checkpoint(file, context) {
    const shared = context.collect('pipe', file.descriptor.link);
    const message = {
      pipe: shared.objref,
      flags: file.descriptor.info.flags & (open.O_ACCMODE | open.O_NONBLOCK),
    };
    if (!context.claimRecord(shared)) return message;
    const reader = context.sameLink(file).find((end) => accessOf(end) !== open.O_WRONLY);
    return {
      ...message,
      capacity: context.borrow(file, pipeCapacity),
      // Without a reader in the tree nobody will ever see what is in the pipe.
      contents: reader === undefined ? new Uint8Array() : context.borrow(reader, peekContents),
    };
  },

  describe({ pipe: objref, flags, contents }) {
    const end = (flags & open.O_ACCMODE) === open.O_WRONLY ? 'write end' : 'read end';
    return `pipe #${objref}, ${end}${contents.length > 0 ? `, ${contents.length} bytes in it` : ''}`;
  },

  restart(message, context) {
    const ends = context.shared(`pipe ${message.pipe}`, () => makePipe(context));
    const { calls } = context;
    if (message.capacity > 0) {
      calls.call('fcntl', [ends.writeEnd, fcntl.F_SETPIPE_SZ, message.capacity], {
        purpose: `giving a pipe room for ${message.capacity} bytes`,
      });
    }
    for (let at = 0; at < message.contents.length; at += REFILL_CHUNK) {
      const chunk = message.contents.subarray(at, at + REFILL_CHUNK);
      calls.call('write', [ends.writeEnd, chunk, chunk.length], { purpose: 'refilling a pipe' });
    }
    return takeEnd(ends, message.flags, context);
  },
});

interface PipeEnds {
  readonly readEnd: number;
  readonly writeEnd: number;
  readonly taken: Set<number>;
}

function makePipe({ calls }: FileRestart): PipeEnds {
  const pair = new RemoteOutput(8);
  calls.call('pipe2', [pair, 0], { purpose: 'making a pipe' });
  calls.flush();
  return { readEnd: pair.bytes.readInt32LE(0), writeEnd: pair.bytes.readInt32LE(4), taken: new Set() };
}

/** The first open file of each end is the one that pipe2 made; further ones are opened through `/proc`. */
function takeEnd(ends: PipeEnds, flags: number, { calls, procSelf }: FileRestart) {
  const access = flags & open.O_ACCMODE;
  const end = access === open.O_WRONLY ? ends.writeEnd : ends.readEnd;
  if (access === open.O_RDWR || ends.taken.has(end)) {
    return calls.call('openat', [procSelf, cString(`fd/${end}`), flags, 0], {
      purpose: 'opening a pipe once more',
    });
  }
  ends.taken.add(end);
  if ((flags & open.O_NONBLOCK) !== 0) calls.call('fcntl', [end, fcntl.F_SETFL, open.O_NONBLOCK]);
  return end;
}

/** Whether a file is an anonymous pipe. */
export function isPipe({ descriptor }: OpenFile): boolean {
  return descriptor.link.startsWith('pipe:[');
}

/**
 * Whether somebody outside has the other end: the tree has only one, and poll(2) does not say that the
 * other is closed everywhere.
 */
function leadsOutside(file: OpenFile, context: FileCheckpoint): boolean {
  const access = new Set(context.sameLink(file).map(accessOf));
  if (access.has(open.O_RDWR) || access.size > 1) return false;
  const events = context.borrow(file, (fd) => pollNow(fd, pollEvent.POLLIN | pollEvent.POLLOUT));
  if ((events & (pollEvent.POLLHUP | pollEvent.POLLERR)) !== 0) return false;
  return !context.endsWithStasis(file);
}

function accessOf({ descriptor }: OpenFile): number {
  return descriptor.info.flags & open.O_ACCMODE;
}

/** The bytes in a pipe, which stay there: tee(2) copies them to a pipe of our own. */
function peekContents(fd: number): Uint8Array {
  const length = bytesReadable(fd);
  if (length === 0) return new Uint8Array();
  const copy = createPipe();
  try {
    setPipeCapacity(copy.readEnd, pipeCapacity(fd));
    const contents = Buffer.alloc(teePipe(fd, copy.writeEnd, length));
    let filled = 0;
    while (filled < contents.length) {
      filled += readSync(copy.readEnd, contents, filled, contents.length - filled, null);
    }
    return contents;
  } finally {
    closeSync(copy.readEnd);
    closeSync(copy.writeEnd);
  }
}
