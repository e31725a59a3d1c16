import { type BigIntStats, statSync } from 'node:fs';
import type { Obstacle } from '../errors.js';
import type { OpenFile, Refusal } from '../objects/slice.js';
import { O_LARGEFILE, open } from '../sys/uapi.js';

/** What regular files, directories and devices have in common: they are opened again by their path. */

const ONLY_WHEN_OPENING =
  open.O_CREAT | open.O_EXCL | open.O_TRUNC | open.O_NOCTTY | open.O_CLOEXEC | O_LARGEFILE;

/** The flags with which a file is opened again. */
export function reopenFlags(flags: number): number {
  return flags & ~ONLY_WHEN_OPENING;
}

/** Why a file would not be found again by the path that the kernel shows for it. */
export function refuseLostPath({ descriptor }: OpenFile): Refusal | undefined {
  if ((descriptor.info.flags & open.O_ASYNC) !== 0) {
    return {
      what: `${descriptor.link} sends signals when it is ready (O_ASYNC)`,
      advice: 'not supported yet',
    };
  }
  return leadsTo(descriptor.link, descriptor.stats)
    ? undefined
    : {
        what: `the file ${descriptor.link} has been removed or replaced`,
        advice: 'checkpoint when the program has closed it; removed files are not supported yet',
      };
}

/** Whether a path leads to the file with these stats. */
export function leadsTo(path: string, stats: BigIntStats): boolean {
  const found = statSync(path, { bigint: true, throwIfNoEntry: false });
  return found !== undefined && found.dev === stats.dev && found.ino === stats.ino;
}

/** What an image says of a file, to notice changes. */
export interface FileIdentity {
  readonly path: string;
  readonly size: bigint;
  readonly modifiedNs: bigint;
}

/** A missing file, or one that is not as it was. `identical` may still accept one with another time. */
export function verifyFile(
  file: FileIdentity,
  where: string,
  force: boolean,
  identical: () => boolean = () => false,
): Obstacle[] {
  const found = statSync(file.path, { bigint: true, throwIfNoEntry: false });
  if (found === undefined || !found.isFile()) {
    return [
      {
        where,
        what: `${file.path} is ${found === undefined ? 'missing' : 'no regular file any more'}`,
        advice: 'put it back as it was at the checkpoint',
      },
    ];
  }
  const differences: string[] = [];
  if (found.size !== file.size) differences.push(`size ${found.size} instead of ${file.size} bytes`);
  if (found.mtimeNs !== file.modifiedNs) {
    differences.push(`mtime ${timeText(found.mtimeNs)} instead of ${timeText(file.modifiedNs)}`);
  }
  if (force || differences.length === 0 || (found.size === file.size && identical())) return [];
  return [
    {
      where,
      what: `${file.path} has changed: ${differences.join(', ')}`,
      advice: 'put it back as it was, or accept the change with --force',
    },
  ];
}

function timeText(nanoseconds: bigint): string {
  const fraction = String(nanoseconds % 1_000_000_000n).padStart(9, '0');
  return `${new Date(Number(nanoseconds / 1_000_000n)).toISOString().slice(0, 19)}.${fraction}Z`;
}
