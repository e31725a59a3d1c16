#!/usr/bin/env node
import { Command, CommanderError } from 'commander';
import { UsageError } from '../errors.js';
import { errorText } from '../present/error.js';
import { VERSION } from '../version.js';
import { addCheck } from './check.js';
import { addCheckpoint } from './checkpoint.js';
import { addInspect } from './inspect.js';
import { exitStatus } from './messages.js';
import { addRestart } from './restart.js';

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

try {
  await program.parseAsync();
} catch (error) {
  if (error instanceof CommanderError) process.exitCode = error.exitCode === 0 ? 0 : exitStatus.usage;
  else {
    process.stderr.write(`${errorText(error)}\n`);
    process.exitCode = error instanceof UsageError ? exitStatus.usage : exitStatus.failed;
  }
}
