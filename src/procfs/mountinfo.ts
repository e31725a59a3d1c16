import { ProcFormatError } from '../errors.js';

/** A mount, as `/proc/PID/mountinfo` tells of it. */
export interface Mount {
  /** `major:minor` of its file system. */
  readonly device: string;
  /** Which directory of the file system is mounted. */
  readonly root: string;
  readonly mountpoint: string;
  /** Of the mount, such as `rw,nosuid`. */
  readonly options: readonly string[];
  readonly propagation: Propagation;
  readonly type: string;
  readonly source: string;
  /** Of the file system. */
  readonly superOptions: readonly string[];
}

export type Propagation = 'private' | 'shared' | 'slave' | 'unbindable';

/** Parses `/proc/PID/mountinfo`. Source: proc_pid_mountinfo(5). Throws ProcFormatError. */
export function parseMountinfo(text: string): Mount[] {
  return text
    .split('\n')
    .filter((line) => line !== '')
    .map(parseMount);
}

function parseMount(line: string): Mount {
  const words = line.split(' ');
  const dash = words.indexOf('-', 6);
  const [, , device, root, mountpoint, options] = words;
  const [type, source, superOptions] = words.slice(dash + 1);
  if (
    dash < 0 ||
    device === undefined ||
    root === undefined ||
    mountpoint === undefined ||
    options === undefined ||
    type === undefined ||
    source === undefined ||
    !/^\d+:\d+$/.test(device)
  ) {
    throw new ProcFormatError('mountinfo', `'${line}' is no mount`);
  }
  return {
    device,
    root: withoutEscapes(root),
    mountpoint: withoutEscapes(mountpoint),
    options: options.split(','),
    propagation: propagationOf(words.slice(6, dash)),
    type,
    source: withoutEscapes(source),
    superOptions: (superOptions ?? '').split(','),
  };
}

/** A mount that is both gets what it is given, and passes it on: for what Stasis asks it is shared. */
function propagationOf(fields: readonly string[]): Propagation {
  if (fields.some((field) => field.startsWith('shared:'))) return 'shared';
  if (fields.some((field) => field.startsWith('master:'))) return 'slave';
  return fields.includes('unbindable') ? 'unbindable' : 'private';
}

/** Blanks, tabs, line feeds and backslashes are written in octal. */
function withoutEscapes(text: string): string {
  return text.replace(/\\([0-7]{3})/g, (_, digits: string) =>
    String.fromCharCode(Number.parseInt(digits, 8)),
  );
}
