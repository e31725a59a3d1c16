/**
 * Every error that Stasis throws on purpose. Each has a stable `code`; the message says what failed,
 * `reason` says why, `advice` says what to do about it.
 */

/** The texts and data shared by all errors of Stasis. */
export interface ErrorDetails {
  /** Why it failed, one line. */
  readonly reason?: string;
  /** What a person can do about it, one line. */
  readonly advice?: string;
  readonly cause?: unknown;
}

/** Base class: catch this to catch everything that Stasis reports. */
export class StasisError extends Error {
  readonly code: string;
  readonly reason: string | undefined;
  readonly advice: string | undefined;

  constructor(code: string, message: string, details: ErrorDetails = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.name = new.target.name;
    this.code = code;
    this.reason = details.reason;
    this.advice = details.advice;
  }
}

/** A system call made by Stasis itself failed. */
export class SystemCallError extends StasisError {
  constructor(
    readonly call: string,
    /** Positive errno. */
    readonly errno: number,
    /** The symbolic name, such as `EPERM`. */
    readonly errnoName: string,
    errnoText: string,
    subject?: string,
  ) {
    super('ERR_SYSTEM_CALL', `${call}${subject === undefined ? '' : ` (${subject})`} failed: ${errnoName}`, {
      reason: errnoText,
    });
  }
}

/** A system call executed inside a task failed. */
export class RemoteCallError extends StasisError {
  constructor(
    readonly tid: number,
    readonly call: string,
    readonly args: readonly bigint[],
    readonly errno: number,
    readonly errnoName: string,
    errnoText: string,
    purpose?: string,
  ) {
    const shown = args.map((value) => `0x${BigInt.asUintN(64, value).toString(16)}`).join(', ');
    super(
      'ERR_REMOTE_CALL',
      `${purpose ?? 'a system call'} in task ${tid} failed: ${call}(${shown}) returned ${errnoName}`,
      { reason: errnoText },
    );
  }
}

/** A task ended, or did something unforeseen, while Stasis worked on it. */
export class TaskLostError extends StasisError {
  constructor(
    readonly tid: number,
    message: string,
    details: ErrorDetails = {},
  ) {
    super('ERR_TASK_LOST', message, details);
  }
}

/** The caller may not do this. */
export class PermissionError extends StasisError {
  constructor(message: string, details: ErrorDetails) {
    super('ERR_PERMISSION', message, details);
  }
}

/** There is no such process, or it can't be a target (a kernel task, Stasis itself). */
export class TargetError extends StasisError {
  constructor(
    readonly pid: number,
    message: string,
    details: ErrorDetails,
  ) {
    super('ERR_TARGET', message, details);
  }
}

/** The tree could not be brought to a stop. */
export class FreezeError extends StasisError {
  constructor(
    readonly tid: number,
    message: string,
    details: ErrorDetails,
  ) {
    super('ERR_FREEZE', message, details);
  }
}

/** One thing that stands in the way: where it is, what it is, what to do. */
export interface Obstacle {
  readonly pid?: number;
  /** The descriptor, mapping, path, thread or property concerned, such as `fd 7` or `mapping 7f00-7f10`. */
  readonly where?: string;
  readonly what: string;
  readonly advice: string;
}

/** The target has things that can't be checkpointed. Nothing was changed. */
export class UnsupportedError extends StasisError {
  constructor(readonly obstacles: readonly Obstacle[]) {
    super('ERR_UNSUPPORTED', `checkpoint refused: ${countOf(obstacles.length, 'obstacle')}`, {
      reason: obstacles.map(formatObstacle).join('\n'),
      advice: 'the target runs on unchanged',
    });
  }
}

/** Who refers to a kernel object. */
export interface Holder {
  readonly pid: number;
  readonly comm: string;
  readonly fd?: number;
  /** `start-end`, hexadecimal. */
  readonly mapping?: string;
  /** How it refers to it, where neither descriptor nor mapping says it. */
  readonly how?: string;
}

/** A kernel object that something outside refers to as well. */
export interface Leak {
  /** Such as `file`, `pipe` or `utsNamespace`. */
  readonly kind: string;
  /** A path, `pipe:[N]`, or what else tells it apart. */
  readonly name: string;
  /** Accepts it as an argument of `--allow-leak`. */
  readonly key: string;
  /** Its address in the kernel where that is known. */
  readonly identity: string;
  /** The kernel's count of references; undefined where it can't be known. */
  readonly kernelCount: number | undefined;
  /** References from inside. */
  readonly users: number;
  /** References of Stasis itself, which are no leak. */
  readonly own: number;
  readonly inside: readonly Holder[];
  readonly outside: readonly Holder[];
  /** References that the kernel counts and nobody visible has. */
  readonly hidden: number;
  /** The best explanations of these. */
  readonly hiddenIn: readonly string[];
  /** Something appeared or disappeared after it was collected; the step by which that was seen. */
  readonly reverse?: string;
  /** Nothing that can change is shared: it never stands in the way. */
  readonly harmless: boolean;
  /** It was accepted by the caller. */
  readonly allowed: boolean;
  readonly meaning: string;
  readonly advice: string;
}

/**
 * The tree is not self-contained: something outside shares kernel objects with it, or changed them
 * meanwhile. It runs on. The 2009 series returned EAGAIN for this.
 */
export class LeakError extends StasisError {
  readonly errno = 11;
  readonly errnoName = 'EAGAIN';

  constructor(
    readonly leaks: readonly Leak[],
    /** What else stands in the way. */
    readonly obstacles: readonly Obstacle[] = [],
  ) {
    super('ERR_LEAK', `checkpoint refused: ${countOf(leaks.length, 'leak')}`, {
      reason: [...leaks.map(formatLeak), ...obstacles.map(formatObstacle)].join('\n'),
      advice: `the target runs on unchanged; what may be shared is accepted with ${acceptingOptions(leaks)}`,
    });
  }
}

/** The machine is not as the image needs it. Nothing was started. */
export class RestartRefusedError extends StasisError {
  constructor(readonly obstacles: readonly Obstacle[]) {
    super('ERR_RESTART_REFUSED', `restart refused: ${countOf(obstacles.length, 'obstacle')}`, {
      reason: obstacles.map(formatObstacle).join('\n'),
      advice: 'nothing was started',
    });
  }
}

/** Building the tree failed. Everything that had been started was ended again. */
export class RestartFailedError extends StasisError {
  constructor(message: string, details: ErrorDetails) {
    super('ERR_RESTART_FAILED', message, details);
  }
}

/** The image is damaged, cut off, foreign, newer, or says that its checkpoint failed. */
export class ImageError extends StasisError {
  constructor(
    /** Byte offset in the stream. */
    readonly offset: number,
    /** Path of the field, such as `header.version` or `mm[12].vma[3].start`. */
    readonly field: string,
    problem: string,
    details: ErrorDetails = {},
  ) {
    super('ERR_IMAGE', `image refused: ${field} at byte ${offset}: ${problem}`, {
      advice: 'take another copy of the image, or checkpoint again',
      ...details,
    });
  }
}

/** The image can't be written. The target runs on. */
export class OutputError extends StasisError {
  constructor(message: string, details: ErrorDetails) {
    super('ERR_OUTPUT', message, details);
  }
}

/** An option or argument is wrong. */
export class UsageError extends StasisError {
  constructor(message: string, details: ErrorDetails = {}) {
    super('ERR_USAGE', message, details);
  }
}

/** A file below `/proc` does not read as it should. */
export class ProcFormatError extends StasisError {
  constructor(file: string, problem: string) {
    super('ERR_PROC_FORMAT', `${file} can't be parsed: ${problem}`, {
      reason: 'this kernel writes it in a way that Stasis does not know',
      advice: 'report the file and the kernel version',
    });
  }
}

/** The kernel's description of its own types is missing or can't be read. */
export class KernelTypesError extends StasisError {
  constructor(message: string, details: ErrorDetails) {
    super('ERR_KERNEL_TYPES', message, details);
  }
}

/** BPF programs can't be loaded or run here. Only what `/proc` and kcmp show can be seen then. */
export class BpfUnavailableError extends StasisError {
  constructor(message: string, details: ErrorDetails) {
    super('ERR_BPF_UNAVAILABLE', message, details);
  }
}

/** A defect in Stasis. */
export class InternalError extends StasisError {
  constructor(message: string) {
    super('ERR_INTERNAL', message, { advice: 'report this with the output of stasis -v' });
  }
}

/** One line for one obstacle. */
export function formatObstacle(obstacle: Obstacle): string {
  const place = [obstacle.pid === undefined ? undefined : `pid ${obstacle.pid}`, obstacle.where]
    .filter((part) => part !== undefined)
    .join(', ');
  return `${place === '' ? '' : `${place}: `}${obstacle.what}; ${obstacle.advice}`;
}

function countOf(count: number, noun: string): string {
  return `${count} ${noun}${count === 1 ? '' : 's'}`;
}

/** One line for one leak: what it is, how it is counted, and who outside has it. */
export function formatLeak(leak: Leak): string {
  const counts =
    leak.kernelCount === undefined
      ? `${countOf(leak.users, 'reference')} inside`
      : `${countOf(leak.kernelCount, 'reference')} in the kernel, ${leak.users} inside`;
  const outside = leak.outside.length === 0 ? '' : `; outside: ${leak.outside.map(formatHolder).join(', ')}`;
  const hidden = leak.hidden === 0 ? '' : `; ${leak.hidden} hidden: ${leak.hiddenIn.join(', or ')}`;
  const when = leak.reverse === undefined ? '' : ` (reverse leak, seen after ${leak.reverse})`;
  return `${leak.kind} ${leak.name}${when}: ${leak.meaning}; ${counts}${outside}${hidden}`;
}

/** `python3[12] fd 3`. */
export function formatHolder({ pid, comm, fd, mapping, how }: Holder): string {
  const place = fd !== undefined ? ` fd ${fd}` : mapping !== undefined ? ` mapping ${mapping}` : '';
  return `${comm}[${pid}]${place}${how === undefined ? '' : ` ${how}`}`;
}

/** The options that accept these leaks, each once. */
export function acceptingOptions(leaks: readonly Leak[]): string {
  return [...new Set(leaks.map(({ key }) => `--allow-leak '${key}'`))].join(' ');
}
