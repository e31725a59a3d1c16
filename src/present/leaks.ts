import { acceptingOptions, formatHolder, type Leak } from '../errors.js';
import type { LeakReport } from '../leaks.js';
import { countText, shorten, wrap } from './text.js';

/** Adds colours, or does not. */
export type Paint = (style: 'red' | 'green' | 'yellow' | 'dim' | 'bold', text: string) => string;

/** For output that is no terminal. */
export const plain: Paint = (_style, text) => text;

const WIDTH = 80;
const KIND_WIDTH = 15;
const COUNT_WIDTH = 8;
const COUNTS = ['KERNEL', 'INSIDE', 'OUTSIDE', 'HIDDEN'];
const NAME_WIDTH = WIDTH - KIND_WIDTH - COUNTS.length * COUNT_WIDTH - 1;
const INDENT = 4;
const MANY_HOLDERS = 6;

/** What leaks, for a person: the verdict in the first line, and no line wider than 80 columns. */
export function leaksText(report: LeakReport, { verbose = false, paint = plain } = {}): string {
  const open = report.leaks.filter(({ harmless, allowed }) => !harmless && !allowed);
  const allowed = report.leaks.filter((leak) => leak.allowed && !leak.harmless);
  const harmless = report.leaks.filter((leak) => leak.harmless);
  const shown = [...open, ...(verbose ? [...allowed, ...harmless] : [])];
  const lines = [verdict(report, open.length, paint)];
  if (shown.length > 0) {
    const counts = COUNTS.map((name) => name.padStart(COUNT_WIDTH)).join('');
    lines.push('', paint('bold', `${'KIND'.padEnd(KIND_WIDTH)}${'NAME'.padEnd(NAME_WIDTH)} ${counts}`));
    for (const leak of shown) lines.push(...leakLines(leak, paint));
  }
  lines.push(...closing(report, open, allowed.length, harmless.length, verbose, paint));
  return lines.join('\n');
}

function verdict(report: LeakReport, leaks: number, paint: Paint): string {
  const scope = `${countText(report.objects, 'object')} of ${countText(report.processes.length, 'process', 'processes')}`;
  const what = `${report.container ? 'container' : 'tree'} ${report.pid}`;
  return report.contained
    ? `${paint('green', 'contained')}: nothing of ${what} leaks (${scope})`
    : `${paint('red', 'NOT CONTAINED')}: ${countText(leaks, 'leak')} of ${what} (${scope})`;
}

function leakLines(leak: Leak, paint: Paint): string[] {
  const outside = leak.kernelCount === undefined ? leak.outside.length : outsideCount(leak);
  const counts = [leak.kernelCount ?? '?', leak.users, outside, leak.hidden]
    .map((count) => String(count).padStart(COUNT_WIDTH))
    .join('');
  const kind = leak.kind.length < KIND_WIDTH ? leak.kind.padEnd(KIND_WIDTH) : `${leak.kind} `;
  const style = leak.harmless ? 'dim' : leak.allowed ? 'yellow' : 'red';
  const name = shorten(leak.name, NAME_WIDTH - (kind.length - KIND_WIDTH)).padEnd(
    NAME_WIDTH - (kind.length - KIND_WIDTH),
  );
  return [
    `${paint(style, kind)}${name} ${counts}`,
    ...detail('inside', holdersText(leak.inside)),
    ...detail('outside', holdersText(leak.outside)),
    ...detail('hidden', leak.hiddenIn.join(', or ')),
    ...detail('', leak.allowed ? `accepted: ${leak.meaning}` : leak.meaning),
    ...(leak.harmless || leak.allowed ? [] : detail('->', leak.advice)),
  ];
}

/** References from outside that can be seen. */
function outsideCount({ kernelCount = 0, users, own, hidden }: Leak): number {
  return Math.max(0, kernelCount - users - own - hidden);
}

function holdersText(holders: Leak['inside']): string {
  const shown = holders.slice(0, MANY_HOLDERS).map(formatHolder);
  if (holders.length > MANY_HOLDERS) shown.push(`and ${holders.length - MANY_HOLDERS} more`);
  return shown.join(', ');
}

function detail(label: string, text: string): string[] {
  if (text === '') return [];
  const prefix = label === '' ? '' : `${label.padEnd(8)}`;
  const first = ' '.repeat(INDENT) + prefix;
  return wrap(text, WIDTH - first.length).map(
    (line, index) => (index === 0 ? first : ' '.repeat(first.length)) + line,
  );
}

function closing(
  report: LeakReport,
  open: readonly Leak[],
  allowed: number,
  harmless: number,
  verbose: boolean,
  paint: Paint,
): string[] {
  const lines: string[] = [];
  if (open.length > 0) {
    lines.push('', 'to accept what leaks, and give it a new end at restart:');
    for (const option of acceptingOptions(open).split(/ (?=--allow-leak)/)) lines.push(`  ${option}`);
  }
  const more = [
    ...(allowed > 0 ? [`${allowed} accepted`] : []),
    ...(harmless > 0 ? [`${harmless} harmless`] : []),
  ];
  if (more.length > 0 && !verbose)
    lines.push('', paint('dim', `also shared: ${more.join(', ')} (shown with -v)`));
  const unverified = report.notVerified.filter(({ reason }) => verbose || reason !== '');
  if (unverified.length > 0) {
    lines.push('', 'not verified, seen by their visible holders only:');
    const byReason = new Map<string, string[]>();
    for (const { kind, reason } of unverified) byReason.set(reason, [...(byReason.get(reason) ?? []), kind]);
    for (const [reason, kinds] of byReason) {
      const text = `${kinds.join(', ')}: ${reason}`;
      lines.push(...wrap(text, WIDTH - 4).map((line, index) => `${index === 0 ? '  ' : '    '}${line}`));
    }
  }
  return lines;
}
