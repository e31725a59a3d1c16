import { Command, CommanderError } from 'commander';
import { UsageError } from '../errors.js';
import { errorText } from '../present/error.js';
import { VERSION } from '../version.js';
import { addCheck } from './check.js';
import { addCheckpoint } from './checkpoint.js';
import { addInspect } from './inspect.js';
import { exitStatus } from './messages.js';
import { addRestart } from './restart.js';

/** Runs one command. */
export async function main(): Promise<void> {
  try {
    await makeProgram().parseAsync();
  } catch (error) {
    if (error instanceof CommanderError) {
      process.exitCode = error.exitCode === 0 ? exitStatus.done : exitStatus.usage;
      return;
    }
    process.stderr.write(`${errorText(error)}\n`);
    process.exitCode = error instanceof UsageError ? exitStatus.usage : exitStatus.failed;
  }
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
  addInspect(program);
  addCheck(program);
  return program;
}
