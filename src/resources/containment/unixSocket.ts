import type { Identity } from '../../objects/census.js';
import type { SharedKind, SharedObject, SharedObjects } from '../../objects/sharedObjects.js';
import { fileName } from './file.js';
import { type OpenEnd, openFiles, sideOfFile } from './pipe.js';

const AF_UNIX = 1;
/** The socket itself, and its place in the kernel's list of unix sockets. Source: net/unix/af_unix.c. */
const OWN_REFERENCES = 2;

/**
 * Unix sockets, by the sockets that are connected to them: each holds one reference to its peer. Also shown
 * are connections from outside that wait to be accepted.
 */
export const unixSocket: SharedKind = {
  kind: 'unixSocket',
  refUsers: 'exact',

  collect(table) {
    const sockets = unixSockets(table);
    const bySock = new Map(sockets.map((socket) => [socket.sock, socket]));
    for (const { sock, file, holders } of sockets) {
      if (sideOfFile(table, holders) !== 'inside') continue;
      const count = file.socket?.count;
      const object = table.object(
        'unixSocket',
        sock,
        count === undefined ? undefined : count - OWN_REFERENCES,
      );
      for (const { pid, fd } of holders) {
        if (table.sideOf(pid) === 'inside') table.addHolder(object, pid, { fd });
      }
    }
    for (const { sock, file, holders } of sockets) {
      const { peer, peerListener } = file.socket ?? {};
      const side = sideOfFile(table, holders);
      const target = peer === undefined ? undefined : table.find('unixSocket', peer);
      if (target !== undefined) {
        table.count(target, side);
        if (side === 'outside') addOutside(table, target, holders, 'is connected to it');
      }
      // The peer of one that waits to be accepted is in no file yet: it belongs to the listening socket.
      const own = table.find('unixSocket', sock);
      const listener = peerListener === undefined ? undefined : bySock.get(peerListener);
      if (own !== undefined && listener !== undefined) {
        table.count(own, sideOfFile(table, listener.holders));
        if (sideOfFile(table, listener.holders) === 'outside') {
          addOutside(table, own, listener.holders, 'has not accepted it yet');
        }
      }
      const queue = peerListener === undefined ? undefined : table.find('unixSocket', peerListener);
      if (queue !== undefined && side === 'outside')
        addOutside(table, queue, holders, 'waits to be accepted');
      // A connected socket whose peer is outside crosses the border, also where only it holds the peer.
      const peerSocket = peer === undefined ? undefined : bySock.get(peer);
      if (
        own !== undefined &&
        peerSocket !== undefined &&
        sideOfFile(table, peerSocket.holders) === 'outside'
      ) {
        addOutside(table, own, peerSocket.holders, 'is its peer');
      }
    }
  },

  judge(object) {
    return {
      name: fileName(object, undefined),
      harmless: false,
      meaning: 'the socket is connected to one outside, or reached from there',
      advice: 'end the process at the other end, or accept it and attach a new end at restart',
      hiddenIn: object.hidden > 0 ? ['a connection that no process has open'] : [],
    };
  },
};

function unixSockets(table: SharedObjects): (OpenEnd & { readonly sock: Identity })[] {
  return openFiles(table, ({ socket }) => socket?.family === AF_UNIX).flatMap((end) =>
    end.file.socket === undefined ? [] : [{ ...end, sock: end.file.socket.identity }],
  );
}

function addOutside(
  table: SharedObjects,
  object: SharedObject,
  holders: OpenEnd['holders'],
  how: string,
): void {
  for (const { pid, fd } of holders) {
    if (table.sideOf(pid) !== 'outside') continue;
    object.crosses = true;
    const known = object.outside.some((holder) => holder.pid === pid && holder.fd === fd);
    if (!known) table.addHolder(object, pid, { fd, how });
  }
}
