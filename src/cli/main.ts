import { Command, CommanderError } from 'commander';
import { LeakError, UsageError } from '../errors.js';
import { errorText } from '../present/error.js';
import { VERSION } from '../version.js';
import { addCheck } from './check.js';
import { addCheckpoint } from './checkpoint.js';
import { addInspect } from './inspect.js';
import { addLeaks } from './leaks.js';
import { exitStatus } from './messages.js';
import { addRestart } from './restart.js';

/**
 * Runs one command. Each imports what it does when it is run: only what is needed is loaded, which takes a
 * quarter off the start.
 */
export async function main(): Promise<void> {
  process.stdout.on('error', endQuietly);
  try {
    await makeProgram().parseAsync();
  } catch (error) {
    if (error instanceof CommanderError) {
      process.exitCode = error.exitCode === 0 ? exitStatus.done : exitStatus.usage;
      return;
    }
    process.stderr.write(`${errorText(error)}\n`);
    process.exitCode =
      error instanceof UsageError
        ? exitStatus.usage
        : error instanceof LeakError
          ? exitStatus.leaks
          : exitStatus.failed;
  }
}

/** Whoever read the output has gone: as other tools end by SIGPIPE then. */
function endQuietly(error: NodeJS.ErrnoException): void {
  if (error.code !== 'EPIPE') throw error;
  process.exit(exitStatus.failed);
}

function makeProgram(): Command {
  const program = new Command('stasis')
    .description('Checkpoint running Linux process trees and restart them.')
    .version(VERSION)
    .exitOverride()
    .configureOutput({ outputError: (text, write) => write(text.replace(/^error: /, 'stasis: ')) })
    .showHelpAfterError('  -> see stasis --help');
  addCheckpoint(program);
  addRestart(program);
  addLeaks(program);
  addInspect(program);
  addCheck(program);
  return program;
}
