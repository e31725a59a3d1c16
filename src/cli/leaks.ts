import { writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { styleText } from 'node:util';
import type { Command } from 'commander';
import type { LeakReport } from '../leaks.js';
import { leaksText, type Paint, plain } from '../present/leaks.js';
import { censusMethod, collect, exitStatus, parsePid, progress } from './messages.js';

interface Options {
  readonly allowLeak: readonly string[];
  readonly json?: boolean;
  readonly html?: string;
  readonly watch?: boolean;
  readonly bpf: boolean;
  readonly verbose?: boolean;
}

const WATCH_INTERVAL_MS = 1000;

export function addLeaks(program: Command): void {
  program
    .command('leaks')
    .description('find what a running tree or container shares with the outside; nothing is stopped')
    .argument('<pid>', 'the root of the tree, or the init of the container')
    .option('--allow-leak <key>', 'accept a leak: KIND, KIND:NAME, KIND:PID:FD, or stdio', collect, [])
    .option('--json', 'print the report as JSON')
    .option('--html <file>', 'write the report as a page for a browser')
    .option('--watch', 'look again every second until nothing leaks')
    .option('--no-bpf', 'look by /proc and kcmp only')
    .option('-v, --verbose', 'show what is harmless as well, and every step with its time')
    .action(run);
}

async function run(argument: string, options: Options): Promise<void> {
  const pid = parsePid(argument);
  const { findLeaks } = await import('../leaks.js');
  const look = (): Promise<LeakReport> =>
    findLeaks(pid, {
      allow: options.allowLeak,
      method: censusMethod(options),
      onStep: progress(options.verbose),
    });
  let report = await look();
  await print(report, options);
  for (let last = summary(report); options.watch && !report.contained; ) {
    await sleep(WATCH_INTERVAL_MS);
    report = await look();
    if (summary(report) !== last) await print(report, options);
    last = summary(report);
  }
  process.exitCode = report.contained ? exitStatus.done : exitStatus.leaks;
}

async function print(report: LeakReport, options: Options): Promise<void> {
  if (options.html !== undefined) {
    const { leaksHtml } = await import('../present/leaksHtml.js');
    writeFileSync(options.html, leaksHtml(report));
  }
  const text = options.json
    ? JSON.stringify(report, unknownAsNull, 2)
    : leaksText(report, { verbose: options.verbose === true, paint: terminalPaint() });
  process.stdout.write(`${text}\n`);
}

/** Two looks with the same summary need not be shown twice. */
function summary({ leaks }: LeakReport): string {
  return leaks
    .filter(({ harmless }) => !harmless)
    .map(({ kind, identity, kernelCount, users, outside }) => [
      kind,
      identity,
      kernelCount,
      users,
      outside.length,
    ])
    .join(';');
}

function terminalPaint(): Paint {
  if (!process.stdout.isTTY || process.env.NO_COLOR) return plain;
  return (style, text) => styleText(style, text);
}

/** What can't be known is null in JSON, and not left out. */
function unknownAsNull(_key: string, value: unknown): unknown {
  return value === undefined ? null : value;
}
