import { writeSync } from 'node:fs';
import { UsageError } from '../errors.js';
import type { CensusMethod } from '../objects/censusTaker.js';
import type { StepEvent } from '../objects/steps.js';

/** Exit statuses, the same for all commands. */
export const exitStatus = { done: 0, failed: 1, usage: 2, leaks: 3 } as const;

const STANDARD_ERROR = 2;

/** Writes lines to standard error, at once, also when nothing runs the event loop. */
export function say(text: string): void {
  writeSync(STANDARD_ERROR, `${text}\n`);
}

/** Names each step on a terminal as it begins, so that long work is seen to go on. */
export function progress(verbose: boolean | undefined): (event: StepEvent) => void {
  return ({ step, state, milliseconds }) => {
    if (verbose && state === 'end')
      say(`  ${step.padEnd(10)} ${(milliseconds ?? 0).toFixed(2).padStart(9)} ms`);
  };
}

/** Gathers the arguments of an option that may be given several times. */
export function collect(value: string, earlier: readonly string[]): readonly string[] {
  return [...earlier, value];
}

/** How to look for leaks, by the option `--no-bpf`. */
export function censusMethod({ bpf }: { readonly bpf: boolean }): CensusMethod {
  return bpf ? 'auto' : 'proc';
}

/** A pid from the command line. Throws UsageError. */
export function parsePid(text: string): number {
  return parseNumber(text, 'pid', 1, 0x7fff_ffff);
}

/** Seconds from the command line, as milliseconds. Throws UsageError. */
export function parseSeconds(text: string): number {
  return parseNumber(text, 'number of seconds', 0, 86_400) * 1000;
}

function parseNumber(text: string, what: string, least: number, most: number): number {
  const value = Number(text);
  if (/^\d+$/.test(text) && value >= least && value <= most) return value;
  throw new UsageError(`${JSON.stringify(text)} is no ${what}`, {
    reason: `it has to be a whole number from ${least} to ${most}`,
    advice: 'see stasis --help',
  });
}
