import { ProcFormatError } from '../errors.js';

/** A soft and a hard limit; RLIM_INFINITY for unlimited. */
export interface ProcLimit {
  /** RLIMIT_… of asm-generic/resource.h. */
  readonly resource: number;
  readonly soft: bigint;
  readonly hard: bigint;
}

/** getrlimit(2). */
export const RLIM_INFINITY = 0xffff_ffff_ffff_ffffn;

/** The names in `/proc/PID/limits` (fs/proc/base.c, `lnames`), by RLIMIT number. */
export const LIMIT_NAMES = [
  'Max cpu time',
  'Max file size',
  'Max data size',
  'Max stack size',
  'Max core file size',
  'Max resident set',
  'Max processes',
  'Max open files',
  'Max locked memory',
  'Max address space',
  'Max file locks',
  'Max pending signals',
  'Max msgqueue size',
  'Max nice priority',
  'Max realtime priority',
  'Max realtime timeout',
] as const;

/** Parses `/proc/PID/limits`. Throws ProcFormatError when one of the sixteen is missing. */
export function parseLimits(text: string): ProcLimit[] {
  const lines = text.split('\n');
  return LIMIT_NAMES.map((name, resource) => {
    const line = lines.find((candidate) => candidate.startsWith(name));
    if (line === undefined) throw new ProcFormatError('limits', `no line ${name}`);
    const [soft, hard] = line.slice(name.length).trim().split(/\s+/);
    return { resource, soft: limit(soft, name), hard: limit(hard, name) };
  });
}

function limit(text: string | undefined, name: string): bigint {
  if (text === 'unlimited') return RLIM_INFINITY;
  if (text === undefined || !/^\d+$/.test(text)) {
    throw new ProcFormatError('limits', `${name} is ${JSON.stringify(text)}`);
  }
  return BigInt(text);
}
