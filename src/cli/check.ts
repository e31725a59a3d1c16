import type { Command } from 'commander';
import { checkText } from '../present/report.js';
import { exitStatus } from './messages.js';

export function addCheck(program: Command): void {
  program
    .command('check')
    .description('show what this kernel and these privileges allow')
    .option('--json', 'print it as JSON')
    .action(async (options: { readonly json?: boolean }) => {
      const { check } = await import('../check.js');
      const report = check();
      process.stdout.write(`${options.json ? JSON.stringify(report, null, 2) : checkText(report)}\n`);
      process.exitCode = report.usable ? exitStatus.done : exitStatus.failed;
    });
}
