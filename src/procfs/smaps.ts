import { ProcFormatError } from '../errors.js';

/** One mapping of `/proc/PID/smaps` (proc_pid_smaps(5)). */
export interface ProcMapping {
  readonly start: bigint;
  readonly end: bigint;
  readonly read: boolean;
  readonly write: boolean;
  readonly execute: boolean;
  readonly shared: boolean;
  /** Bytes into the file. */
  readonly offset: bigint;
  readonly device: string;
  readonly inode: bigint;
  /** Path, `[heap]` and the like, or empty. Newlines in it are written as `\012`. */
  readonly name: string;
  /** Two-letter flags, such as `gd` (grows down); empty where the kernel shows none. */
  readonly flags: ReadonlySet<string>;
}

const HEADER =
  /^([0-9a-f]+)-([0-9a-f]+) ([r-])([w-])([x-])([sp]) ([0-9a-f]+) ([0-9a-f]+:[0-9a-f]+) (\d+)\s*(.*)$/;
const FLAGS_LINE = 'VmFlags:';
const NO_FLAGS: ReadonlySet<string> = new Set();
const flagSets = new Map<string, ReadonlySet<string>>();

/** Parses `/proc/PID/smaps`, or `/proc/PID/maps`, which has no flags. Throws ProcFormatError. */
export function parseMappings(text: string): ProcMapping[] {
  return parse(text, true);
}

/**
 * As {@link parseMappings}, of a process that runs: the kernel writes the file piece by piece, and what is
 * mapped meanwhile may be there twice, or out of order.
 */
export function parseRunningMappings(text: string): ProcMapping[] {
  return parse(text, false);
}

function parse(text: string, ordered: boolean): ProcMapping[] {
  const mappings: ProcMapping[] = [];
  let position = 0;
  let previousEnd = 0n;
  let current: ProcMapping | undefined;
  while (position < text.length) {
    let end = text.indexOf('\n', position);
    if (end < 0) end = text.length;
    const first = text.charCodeAt(position);
    if (isHexDigit(first)) {
      current = parseHeader(text.slice(position, end));
      if (current.start >= current.end || (ordered && current.start < previousEnd)) {
        throw new ProcFormatError('maps', `the range at ${current.start.toString(16)} is out of order`);
      }
      previousEnd = current.end;
      mappings.push(current);
    } else if (text.startsWith(FLAGS_LINE, position)) {
      if (current === undefined) throw new ProcFormatError('smaps', 'flags before the first mapping');
      current = { ...current, flags: flagSet(text.slice(position + FLAGS_LINE.length, end).trim()) };
      mappings[mappings.length - 1] = current;
    } else if (current === undefined) {
      throw new ProcFormatError('maps', `the line ${JSON.stringify(text.slice(position, end))}`);
    }
    position = end + 1;
  }
  return mappings;
}

function parseHeader(line: string): ProcMapping {
  const match = HEADER.exec(line);
  if (match === null) throw new ProcFormatError('maps', `the line ${JSON.stringify(line)}`);
  const [, start, end, read, write, execute, shared, offset, device = '', inode, name = ''] = match;
  return {
    start: BigInt(`0x${start}`),
    end: BigInt(`0x${end}`),
    read: read === 'r',
    write: write === 'w',
    execute: execute === 'x',
    shared: shared === 's',
    offset: BigInt(`0x${offset}`),
    device,
    inode: BigInt(inode ?? 0),
    name,
    flags: NO_FLAGS,
  };
}

/** The few combinations that occur are kept once. */
function flagSet(text: string): ReadonlySet<string> {
  let set = flagSets.get(text);
  if (set === undefined) {
    set = new Set(text.split(' ').filter((flag) => flag !== ''));
    flagSets.set(text, set);
  }
  return set;
}

/** Detail lines of smaps begin with a capital letter, which is no digit of the kernel's lower-case hex. */
function isHexDigit(code: number): boolean {
  return (code >= 0x30 && code <= 0x39) || (code >= 0x61 && code <= 0x66);
}
