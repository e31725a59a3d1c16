import { readdirSync } from 'node:fs';
import { basename } from 'node:path';
import type { SharedObjects } from '../../objects/sharedObjects.js';
import { readNumbersIfAlive, readProcIfAlive, visibleDescriptors } from '../../procfs/read.js';
import { tryReadFile, tryReadLink } from '../../sys/files.js';

const NOBODY_VISIBLE = 'the kernel itself, or a task that this pid namespace does not show';

/** What may hold references to a file that no task shows: the best explanations there are. */
export function explainHiddenFile(name: string, table: SharedObjects): string[] {
  const found = [
    ...socketsWithDescriptors(table),
    ...ringsWith(name),
    ...loopDevicesOn(name),
    ...(swapFiles().includes(name) ? ['a swap area'] : []),
  ];
  return found.length > 0 ? found : [NOBODY_VISIBLE];
}

/** Unix sockets in whose queues descriptors wait. Source: unix(7), SCM_RIGHTS. */
export function socketsWithDescriptors({ census }: SharedObjects): string[] {
  const bySocket = new Map<number, string[]>();
  for (const { pid, fd, file } of census.carriers) {
    const holders = bySocket.get(file.ino) ?? [];
    holders.push(`pid ${pid} fd ${fd}`);
    bySocket.set(file.ino, holders);
  }
  return [...bySocket].map(([ino, holders]) => `in flight in socket:[${ino}] (${holders.join(', ')})`);
}

/** Rings with which the file is registered. Source: io_uring_register(2), io_uring/fdinfo.c. */
function ringsWith(name: string): string[] {
  const found: string[] = [];
  for (const pid of readNumbersIfAlive('/proc') ?? []) {
    for (const fd of visibleDescriptors(pid)) {
      if (tryReadLink(`/proc/${pid}/fd/${fd}`) !== 'anon_inode:[io_uring]') continue;
      const text = tryReadFile(`/proc/${pid}/fdinfo/${fd}`);
      const files =
        typeof text === 'number' ? null : /^UserFiles:.*\n((?:\s*\d+: .*\n)*)/m.exec(text.toString('utf8'));
      const registered = (files?.[1] ?? '').split('\n').map((line) => line.replace(/^\s*\d+: /, ''));
      // Before Linux 6.8 only the last part of the path stands there.
      if (registered.includes(name) || registered.includes(basename(name)))
        found.push(`registered with the io_uring of pid ${pid} fd ${fd}`);
    }
  }
  return found;
}

/** Source: sysfs-block-loop. */
function loopDevicesOn(name: string): string[] {
  return readdirSync('/sys/block')
    .filter((device) => device.startsWith('loop'))
    .filter((device) => {
      const text = tryReadFile(`/sys/block/${device}/loop/backing_file`);
      return typeof text !== 'number' && text.toString('utf8').trimEnd() === name;
    })
    .map((device) => `the loop device /dev/${device}`);
}

function swapFiles(): string[] {
  return (readProcIfAlive('/proc/swaps') ?? '').split('\n').map((line) => line.split(/\s/)[0] ?? '');
}
