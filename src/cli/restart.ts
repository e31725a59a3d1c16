import { constants } from 'node:os';
import { isatty } from 'node:tty';
import type { Command } from 'commander';
import { UsageError } from '../errors.js';
import { restartText } from '../present/report.js';
import { readProcIfAlive } from '../procfs/read.js';
import { parseStat } from '../procfs/stat.js';
import type { ExitStatus, RestartReport } from '../restart.js';
import { exitStatus, progress, say } from './messages.js';

interface Options {
  readonly input?: string;
  readonly detach?: boolean;
  readonly attach: Record<string, string>;
  readonly copyStatus?: boolean;
  readonly force?: boolean;
  readonly pidns?: boolean;
  readonly cgroups: boolean;
  readonly json?: boolean;
  readonly verbose?: boolean;
}

const STANDARD_INPUT = 0;

export function addRestart(program: Command): void {
  program
    .command('restart')
    .description('restart the tree of processes in IMAGE, and wait for it')
    .argument('[image]', 'the image; without it, or with -, standard input')
    .option('-i, --input <file>', 'the image')
    .option('-d, --detach', 'print the pid of the root and leave it running')
    .option('-a, --attach <key=target>', 'a new end for what led outside: fd:N, a path, or null', collect, {})
    .option('--copy-status', 'end with the status, or by the signal, with which the root ends')
    .option('--pidns', 'restart a subtree in a pid namespace of its own, where its pids are free')
    .option('--no-cgroups', 'leave the processes in the control groups of stasis')
    .option('-f, --force', 'restart though files have changed')
    .option('--json', 'print a report on standard error as JSON')
    .option('-v, --verbose', 'show every step with its time')
    .action(run);
}

async function run(argument: string | undefined, options: Options): Promise<void> {
  if (argument !== undefined && options.input !== undefined) {
    throw new UsageError('the image is named twice', { advice: 'name it either as argument or with -i' });
  }
  const name = argument ?? options.input ?? '-';
  if (name === '-' && isatty(STANDARD_INPUT)) {
    throw new UsageError('no image is named', {
      reason: 'standard input is a terminal',
      advice: 'name the image, or send it through a pipe',
    });
  }
  const { restart } = await import('../restart.js');
  const report = await restart({
    input: name === '-' ? STANDARD_INPUT : name,
    attach: options.attach,
    force: options.force === true,
    pidNamespace: options.pidns === true,
    cgroups: options.cgroups,
    onStep: progress(options.verbose),
  });
  for (const warning of report.warnings) say(`stasis: warning: ${warning}`);
  if (options.json) say(JSON.stringify(report));
  else if (options.verbose) say(restartText(report));
  if (options.detach) {
    process.stdout.write(`${report.pid}\n`);
    return;
  }
  const end = await waitAndForward(report);
  if (options.copyStatus) copyStatus(end);
}

function collect(value: string, previous: Record<string, string>): Record<string, string> {
  const equals = value.lastIndexOf('=');
  if (equals <= 0) {
    throw new UsageError(`--attach ${value} names no target`, { advice: "write --attach 'KEY=TARGET'" });
  }
  return { ...previous, [value.slice(0, equals)]: value.slice(equals + 1) };
}

/** Signals that a person or service manager sends to a job. */
const FORWARDED = ['SIGTERM', 'SIGHUP', 'SIGUSR1', 'SIGUSR2', 'SIGCONT', 'SIGALRM'] as const;
/** Those that a terminal sends to the whole group, so that a root in our group has them already. */
const FROM_TERMINAL = ['SIGINT', 'SIGQUIT'] as const;

async function waitAndForward(report: RestartReport): Promise<ExitStatus> {
  const handlers = new Map<NodeJS.Signals, () => void>();
  for (const name of [...FORWARDED, ...FROM_TERMINAL]) {
    const fromTerminal = (FROM_TERMINAL as readonly string[]).includes(name);
    handlers.set(name, () => {
      if (!fromTerminal || !sharesGroup(report.pid)) sendIfAlive(report.pid, name);
    });
  }
  for (const [name, handler] of handlers) process.on(name, handler);
  try {
    return await report.wait();
  } finally {
    for (const [name, handler] of handlers) process.off(name, handler);
  }
}

function sharesGroup(pid: number): boolean {
  const other = readProcIfAlive(`/proc/${pid}/stat`);
  const own = readProcIfAlive('/proc/self/stat');
  if (other === undefined || own === undefined) return true;
  return parseStat(other).processGroup === parseStat(own).processGroup;
}

function sendIfAlive(pid: number, name: NodeJS.Signals): void {
  try {
    process.kill(pid, name);
  } catch (error) {
    // It has just ended: report.wait() is about to say so.
    if (!(error instanceof Error && 'code' in error && error.code === 'ESRCH')) throw error;
  }
}

function copyStatus(end: ExitStatus): void {
  if (end.kind === 'exited') {
    process.exitCode = end.status;
    return;
  }
  const name = Object.entries(constants.signals).find(([, number]) => number === end.signal)?.[0];
  process.exitCode = exitStatus.failed;
  // The same end, as far as it can be had: some signals are not deadly for Node.js itself.
  if (name !== undefined) process.kill(process.pid, name);
  process.exitCode = 128 + end.signal;
}
