import { PermissionError } from '../errors.js';
import { readProc } from '../procfs/read.js';
import { parseStatus } from '../procfs/status.js';
import { capability } from '../sys/uapi.js';

/** Whether this process has a capability. */
export function hasCapability(number: number): boolean {
  const { effective } = parseStatus(readProc('/proc/self/status')).capabilities;
  return ((effective >> BigInt(number)) & 1n) === 1n;
}

/** What checkpoint and restart can't do without. Throws PermissionError. */
export function requirePrivileges(purpose: string): void {
  const missing: string[] = [];
  if (!hasCapability(capability.CAP_SYS_PTRACE)) missing.push('CAP_SYS_PTRACE');
  if (!hasCapability(capability.CAP_SYS_ADMIN)) missing.push('CAP_SYS_ADMIN');
  if (missing.length === 0) return;
  throw new PermissionError(`${purpose} is not permitted`, {
    reason: `this process lacks ${missing.join(' and ')}`,
    advice: 'run it as root: sudo stasis …',
  });
}
