import { isatty } from 'node:tty';
import type { Command } from 'commander';
import { checkpoint } from '../checkpoint.js';
import { UsageError } from '../errors.js';
import { checkpointText } from '../present/report.js';
import { parsePid, parseSeconds, progress, say } from './messages.js';

interface Options {
  readonly output: string;
  readonly kill?: boolean;
  readonly force?: boolean;
  readonly timeout: string;
  readonly json?: boolean;
  readonly verbose?: boolean;
}

const STANDARD_OUTPUT = 1;

export function addCheckpoint(program: Command): void {
  program
    .command('checkpoint')
    .description('save the tree of processes below PID as an image; it goes on running')
    .argument('<pid>', 'the root of the tree')
    .option('-o, --output <file>', 'where to write the image; - is standard output', '-')
    .option('-k, --kill', 'end the processes when their image is complete')
    .option('-f, --force', 'replace a file of that name')
    .option('-t, --timeout <seconds>', 'how long to wait for a task that does not stop', '10')
    .option('--json', 'print a report on standard error as JSON')
    .option('-v, --verbose', 'show every step with its time')
    .action(run);
}

async function run(argument: string, options: Options): Promise<void> {
  const pid = parsePid(argument);
  const timeoutMs = parseSeconds(options.timeout);
  if (options.output === '-' && isatty(STANDARD_OUTPUT)) {
    throw new UsageError('an image is not written to a terminal', {
      reason: 'standard output is one',
      advice: 'name a file with -o FILE, or send it through a pipe',
    });
  }
  const report = await checkpoint(pid, {
    output: options.output === '-' ? STANDARD_OUTPUT : options.output,
    timeoutMs,
    kill: options.kill === true,
    force: options.force === true,
    onStep: progress(options.verbose),
  });
  if (options.json) say(JSON.stringify(report));
  else if (options.verbose) say(checkpointText(report));
}
