import { StasisError } from '../errors.js';
import { indent } from './text.js';

/** An error for a person: what failed, why, what to do. Errors that are not ours keep their stack. */
export function errorText(error: unknown): string {
  if (!(error instanceof StasisError)) {
    return `stasis: unexpected error\n${indent(error instanceof Error ? (error.stack ?? error.message) : String(error), 2)}`;
  }
  const lines = [`stasis: ${error.message}`];
  if (error.reason !== undefined) lines.push(indent(error.reason, 2));
  if (error.advice !== undefined) lines.push(`  -> ${error.advice}`);
  return lines.join('\n');
}
