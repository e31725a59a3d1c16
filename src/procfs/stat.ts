import { ProcFormatError } from '../errors.js';

/** What Stasis uses of `/proc/PID/stat` (proc_pid_stat(5)). */
export interface ProcStat {
  readonly pid: number;
  readonly comm: string;
  /** One letter: R, S, D, Z, T, t, X, I. */
  readonly state: string;
  readonly parent: number;
  readonly processGroup: number;
  readonly session: number;
  /** Device number of the controlling terminal, 0 for none. */
  readonly terminal: number;
  readonly foregroundProcessGroup: number;
  /** PF_… of include/linux/sched.h. */
  readonly flags: number;
  readonly nice: number;
  /** Clock ticks after boot. */
  readonly startTime: bigint;
  readonly startCode: bigint;
  readonly endCode: bigint;
  readonly startStack: bigint;
  readonly startData: bigint;
  readonly endData: bigint;
  readonly startBrk: bigint;
  readonly argStart: bigint;
  readonly argEnd: bigint;
  readonly envStart: bigint;
  readonly envEnd: bigint;
  /** The signal for the parent when the task ends; -1 for threads other than the leader. */
  readonly exitSignal: number;
  readonly exitCode: number;
}

const FIELD_COUNT = 52;

/** Parses `/proc/PID/stat` or `/proc/PID/task/TID/stat`. Throws ProcFormatError. */
export function parseStat(text: string): ProcStat {
  const open = text.indexOf('(');
  // The name may hold anything, parentheses included: it ends at the last one.
  const close = text.lastIndexOf(')');
  if (open < 0 || close < open) throw new ProcFormatError('stat', 'no name in parentheses');
  const fields = text
    .slice(close + 2)
    .trimEnd()
    .split(' ');
  if (fields.length < FIELD_COUNT - 2) {
    throw new ProcFormatError('stat', `${fields.length + 2} fields instead of ${FIELD_COUNT}`);
  }
  /** By the field's number in the manual page. */
  const field = (number: number): string => fields[number - 3] ?? '';
  const integer = (number: number): number => parseInteger(field(number), number);
  const big = (number: number): bigint => parseBig(field(number), number);
  return {
    pid: parseInteger(text.slice(0, open).trim(), 1),
    comm: text.slice(open + 1, close),
    state: field(3),
    parent: integer(4),
    processGroup: integer(5),
    session: integer(6),
    terminal: integer(7),
    foregroundProcessGroup: integer(8),
    flags: integer(9),
    nice: integer(19),
    startTime: big(22),
    startCode: big(26),
    endCode: big(27),
    startStack: big(28),
    startData: big(45),
    endData: big(46),
    startBrk: big(47),
    argStart: big(48),
    argEnd: big(49),
    envStart: big(50),
    envEnd: big(51),
    exitSignal: integer(38),
    exitCode: integer(52),
  };
}

function parseInteger(text: string, number: number): number {
  if (!/^-?\d+$/.test(text)) throw new ProcFormatError('stat', `field ${number} is ${JSON.stringify(text)}`);
  return Number(text);
}

function parseBig(text: string, number: number): bigint {
  if (!/^\d+$/.test(text)) throw new ProcFormatError('stat', `field ${number} is ${JSON.stringify(text)}`);
  return BigInt(text);
}
