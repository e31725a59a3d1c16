import { isatty } from 'node:tty';
import { type Command, Option } from 'commander';
import { formatLeak, UsageError } from '../errors.js';
import type { FreezeWay } from '../freezer/groupFreezer.js';
import { checkpointText } from '../present/report.js';
import { censusMethod, collect, parsePid, parseSeconds, progress, say } from './messages.js';

interface Options {
  readonly output: string;
  readonly kill?: boolean;
  readonly force?: boolean;
  readonly restartMarker?: string;
  readonly freezer?: FreezeWay;
  readonly timeout: string;
  readonly container?: boolean;
  readonly subtree?: boolean;
  readonly leaks?: 'refuse' | 'report' | 'ignore';
  readonly allowLeak: readonly string[];
  readonly bpf: boolean;
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
    .option(
      '--restart-marker <file>',
      'remove FILE now, and make it at every restart: the program sees which it is',
    )
    .option('-t, --timeout <seconds>', 'how long to wait for a task that does not stop', '10')
    .addOption(
      new Option(
        '--freezer <way>',
        'how to stop the tree; by default in a control group of its own, if it has one',
      ).choices(['cgroup2', 'cgroup1', 'ptrace']),
    )
    .option('-c, --container', 'refuse a PID that is not the init of a container')
    .option('--subtree', 'take a container as a subtree: report its leaks, do not refuse')
    .addOption(
      new Option('--leaks <what>', 'what to do about leaks; for a container refuse, else report').choices([
        'refuse',
        'report',
        'ignore',
      ]),
    )
    .option('--allow-leak <key>', 'accept a leak: KIND, KIND:NAME, KIND:PID:FD, or stdio', collect, [])
    .option('--no-bpf', 'look for leaks by /proc and kcmp only')
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
  const leaks = options.leaks ?? (options.subtree ? 'report' : undefined);
  const { checkpoint } = await import('../checkpoint.js');
  const report = await checkpoint(pid, {
    output: options.output === '-' ? STANDARD_OUTPUT : options.output,
    timeoutMs,
    container: options.container === true,
    ...(leaks === undefined ? {} : { leaks }),
    allowLeaks: options.allowLeak,
    leakMethod: censusMethod(options),
    ...(options.freezer === undefined ? {} : { freezer: options.freezer }),
    kill: options.kill === true,
    force: options.force === true,
    ...(options.restartMarker === undefined ? {} : { restartMarker: options.restartMarker }),
    onStep: progress(options.verbose),
  });
  // In JSON they are part of the report.
  const shown = options.json ? [] : report.leaks.filter(({ harmless, allowed }) => !harmless && !allowed);
  for (const leak of shown) say(`stasis: warning: leak: ${formatLeak(leak)}`);
  if (options.json) say(JSON.stringify(report));
  else if (options.verbose) say(checkpointText(report));
}
