import type { CheckReport } from '../check.js';
import type { CheckpointReport } from '../checkpoint.js';
import type { RestartReport } from '../restart.js';
import { bytesText, countText, indent, tableText } from './text.js';

/** One line on a finished checkpoint. */
export function checkpointText(report: CheckpointReport): string {
  return `checkpoint of ${report.pid}: ${countsText(report)}, held for ${report.frozenMs.toFixed(1)} ms`;
}

/** One line on a finished restart. */
export function restartText(report: RestartReport): string {
  return `restart of ${report.pid}: ${countsText(report)}`;
}

/** What this machine allows. */
export function checkText(report: CheckReport): string {
  const rows = report.features.map(({ name, available, required, without }) => [
    available ? 'yes' : required ? 'NO' : 'no',
    name,
    available ? '' : `${required ? 'nothing works: ' : ''}${without}`,
  ]);
  const verdict = report.usable ? 'stasis works here' : 'stasis does not work here';
  return `${verdict} (Linux ${report.kernelRelease}, ${report.architecture})\n${indent(tableText(rows), 2)}`;
}

function countsText(report: {
  readonly processes: number;
  readonly threads: number;
  readonly pages: number;
  readonly bytes: number;
}): string {
  return [
    countText(report.processes, 'process', 'processes'),
    countText(report.threads, 'thread'),
    countText(report.pages, 'page'),
    bytesText(report.bytes),
  ].join(', ');
}
