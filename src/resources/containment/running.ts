import { TargetError } from '../../errors.js';
import { type Census, type CensusTaker, type CensusTask, descendants } from '../../objects/census.js';
import type { Steps } from '../../objects/steps.js';
import { blocking, type Findings, judge, type LeakPolicy, standing } from './judge.js';

/** How long to wait between two looks, milliseconds: what is on its way has arrived by then. */
const LOOK_AGAIN_MS = [5, 20];

/**
 * Looks at a tree that runs, and changes while it is looked at: what only one look saw was on its way. Throws
 * TargetError when the root has ended.
 */
export async function lookAtRunning(
  taker: CensusTaker,
  pid: number,
  policy: LeakPolicy,
  steps: Steps,
): Promise<{ census: Census; findings: Findings }> {
  const look = (): { census: Census; findings: Findings } => {
    const census = steps.run('walk', () => taker.take(pid, (tasks) => insideOf(pid, tasks)));
    return { census, findings: steps.run('judge', () => judge(census, policy)) };
  };
  let { census, findings } = look();
  for (const milliseconds of LOOK_AGAIN_MS) {
    if (blocking(findings).length === 0) break;
    await new Promise((resolve) => setTimeout(resolve, milliseconds));
    const later = look();
    census = later.census;
    findings = standing(findings, later.findings);
  }
  return { census, findings };
}

/** The tree below the root, without Stasis itself, which may have been started from inside. */
function insideOf(pid: number, tasks: readonly CensusTask[]): ReadonlySet<number> {
  if (!tasks.some(({ pid: own }) => own === pid)) {
    throw new TargetError(pid, `process ${pid} has ended`, { advice: 'look for it with ps or pgrep' });
  }
  const inside = new Set(descendants(pid, tasks));
  inside.delete(process.pid);
  return inside;
}
