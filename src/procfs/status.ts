import { ProcFormatError } from '../errors.js';

/** What Stasis uses of `/proc/PID/status` (proc_pid_status(5)). Signal and capability sets: bit N. */
export interface ProcStatus {
  readonly threadGroup: number;
  readonly tracer: number;
  /** The pid in each pid namespace, outermost first. */
  readonly namespacePids: readonly number[];
  /** Likewise; 0 where the leader is outside of a namespace. */
  readonly namespaceGroups: readonly number[];
  readonly namespaceSessions: readonly number[];
  readonly umask: number;
  readonly uid: Ids;
  readonly gid: Ids;
  readonly groups: readonly number[];
  readonly pendingSignals: bigint;
  readonly sharedPendingSignals: bigint;
  readonly blockedSignals: bigint;
  readonly ignoredSignals: bigint;
  readonly caughtSignals: bigint;
  readonly capabilities: Capabilities;
  readonly noNewPrivileges: boolean;
  /** 0 none, 1 strict, 2 filter. */
  readonly seccomp: number;
  /** Speculation was switched off for the thread, and can't be switched on again. */
  readonly speculationForced: boolean;
  /** Names of x86 features switched on for the thread, such as `shstk`. */
  readonly threadFeatures: readonly string[];
}

export interface Ids {
  readonly real: number;
  readonly effective: number;
  readonly saved: number;
  readonly fileSystem: number;
}

export interface Capabilities {
  readonly inheritable: bigint;
  readonly permitted: bigint;
  readonly effective: bigint;
  readonly bounding: bigint;
  readonly ambient: bigint;
}

/** Parses `/proc/PID/status` or a thread's. Throws ProcFormatError. */
export function parseStatus(text: string): ProcStatus {
  const lines = new Map<string, string>();
  for (const line of text.split('\n')) {
    const colon = line.indexOf(':');
    if (colon > 0) lines.set(line.slice(0, colon), line.slice(colon + 1).trim());
  }
  const required = (name: string): string => {
    const value = lines.get(name);
    if (value === undefined) throw new ProcFormatError('status', `no line ${name}`);
    return value;
  };
  const integer = (name: string): number => numberOf(required(name), name);
  const hex = (name: string): bigint => {
    const value = required(name);
    if (!/^[0-9a-f]+$/.test(value))
      throw new ProcFormatError('status', `${name} is ${JSON.stringify(value)}`);
    return BigInt(`0x${value}`);
  };
  const integers = (name: string): number[] =>
    required(name)
      .split(/\s+/)
      .filter((part) => part !== '')
      .map((part) => numberOf(part, name));
  const ids = (name: string): Ids => {
    const [real, effective, saved, fileSystem] = integers(name);
    if (fileSystem === undefined || saved === undefined || effective === undefined || real === undefined) {
      throw new ProcFormatError('status', `${name} has fewer than four numbers`);
    }
    return { real, effective, saved, fileSystem };
  };
  return {
    threadGroup: integer('Tgid'),
    tracer: integer('TracerPid'),
    namespacePids: integers('NSpid'),
    namespaceGroups: integers('NSpgid'),
    namespaceSessions: integers('NSsid'),
    // Tasks without an fs_struct, which are ending, have none.
    umask: Number.parseInt(lines.get('Umask') ?? '0', 8),
    uid: ids('Uid'),
    gid: ids('Gid'),
    groups: integers('Groups'),
    pendingSignals: hex('SigPnd'),
    sharedPendingSignals: hex('ShdPnd'),
    blockedSignals: hex('SigBlk'),
    ignoredSignals: hex('SigIgn'),
    caughtSignals: hex('SigCgt'),
    capabilities: {
      inheritable: hex('CapInh'),
      permitted: hex('CapPrm'),
      effective: hex('CapEff'),
      bounding: hex('CapBnd'),
      ambient: hex('CapAmb'),
    },
    noNewPrivileges: integer('NoNewPrivs') !== 0,
    seccomp: lines.has('Seccomp') ? integer('Seccomp') : 0,
    speculationForced: ['Speculation_Store_Bypass', 'SpeculationIndirectBranch'].some((name) =>
      lines.get(name)?.includes('force'),
    ),
    threadFeatures: (lines.get('x86_Thread_features') ?? '').split(/\s+/).filter((name) => name !== ''),
  };
}

function numberOf(text: string, name: string): number {
  if (!/^-?\d+$/.test(text)) throw new ProcFormatError('status', `${name} is ${JSON.stringify(text)}`);
  return Number(text);
}
