import { readProcIfAlive } from './read.js';

/** A process's command line for a person, or its name in brackets when it has none; undefined when it is gone. */
export function commandOf(pid: number): string | undefined {
  const line = readProcIfAlive(`/proc/${pid}/cmdline`);
  if (line === undefined) return undefined;
  const command = Buffer.from(line, 'latin1').toString('utf8').split('\0').join(' ').trim();
  if (command !== '') return command.length > 80 ? `${command.slice(0, 77)}...` : command;
  const name = readProcIfAlive(`/proc/${pid}/comm`);
  return name === undefined ? undefined : `[${name.trim()}]`;
}
