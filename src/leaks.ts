import { type Leak, PermissionError } from './errors.js';
import type { Census, NotVerified } from './objects/census.js';
import { type CensusMethod, makeCensusTaker } from './objects/censusTaker.js';
import { type StepEvent, Steps, type StepTime } from './objects/steps.js';
import { isPidNamespaceInit, refuseTarget } from './objects/target.js';
import { blocking, type Findings, LeakPolicy } from './resources/containment/judge.js';
import { lookAtRunning } from './resources/containment/running.js';

export interface FindLeaksOptions {
  /** Leaks that are accepted: a kind, `kind:name`, `kind:pid:fd`, or `stdio`. */
  readonly allow?: readonly string[];
  /** How to look: by the kernel's own counts (`bpf`), by `/proc` and kcmp(2) (`proc`), or what is possible. */
  readonly method?: CensusMethod;
  readonly signal?: AbortSignal;
  readonly onStep?: (event: StepEvent) => void;
}

/** A process of the tree that was looked at. */
export interface InsideProcess {
  readonly pid: number;
  readonly parent: number;
  readonly comm: string;
  readonly threads: number;
}

export interface LeakReport {
  /** Nothing crosses the border but what is harmless or was accepted. */
  readonly contained: boolean;
  readonly pid: number;
  /** The root is the init of a pid namespace. */
  readonly container: boolean;
  readonly method: 'bpf' | 'proc';
  readonly processes: readonly InsideProcess[];
  /** Kernel objects that something inside refers to. */
  readonly objects: number;
  readonly objectsByKind: Readonly<Record<string, number>>;
  /** Everything that crosses the border, harmless and accepted ones included. */
  readonly leaks: readonly Leak[];
  readonly notVerified: readonly NotVerified[];
  readonly steps: readonly StepTime[];
}

/**
 * Finds what of a running tree or container leaks: all kernel objects that something inside refers to and
 * something outside as well. Nothing is stopped or changed. Only what is seen in every look is reported.
 *
 * Throws TargetError, PermissionError, or the signal's reason.
 */
export async function findLeaks(pid: number, options: FindLeaksOptions = {}): Promise<LeakReport> {
  const steps = new Steps(options.onStep, options.signal);
  const policy = new LeakPolicy(options.allow ?? []);
  requireRoot();
  refuseTarget(pid);
  const taker = steps.run('prepare', () => makeCensusTaker(options.method ?? 'auto'));
  const { census, findings } = await lookAtRunning(taker, pid, policy, steps);
  return report(pid, census, findings, steps);
}

/** Without privileges the kernel shows neither the counts nor the descriptors of others. */
function requireRoot(): void {
  if (process.geteuid?.() === 0) return;
  throw new PermissionError('looking for leaks is not permitted', {
    reason: 'only root sees what all processes have open',
    advice: 'run it as root: sudo stasis leaks …',
  });
}

function report(pid: number, census: Census, findings: Findings, steps: Steps): LeakReport {
  const leaders = new Map(
    census.tasks.filter(({ tid, pid: own }) => tid === own).map((task) => [task.pid, task]),
  );
  const threads = new Map<number, number>();
  for (const task of census.tasks) threads.set(task.pid, (threads.get(task.pid) ?? 0) + 1);
  return {
    contained: blocking(findings).length === 0,
    pid,
    container: isPidNamespaceInit(pid),
    method: census.method,
    processes: [...census.inside].flatMap((inside) => {
      const task = leaders.get(inside);
      if (task === undefined) return [];
      return [{ pid: inside, parent: task.parent, comm: task.comm, threads: threads.get(inside) ?? 1 }];
    }),
    objects: findings.objects,
    objectsByKind: findings.objectsByKind,
    leaks: findings.leaks,
    notVerified: findings.notVerified,
    steps: steps.times,
  };
}
