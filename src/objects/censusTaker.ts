import { BpfUnavailableError, KernelTypesError } from '../errors.js';
import { BpfCensusTaker } from './bpfCensus.js';
import type { CensusTaker } from './census.js';
import { ProcCensusTaker } from './procCensus.js';

/** How to look at the machine: `auto` takes BPF where it is possible. */
export type CensusMethod = 'auto' | 'bpf' | 'proc';

/** Prepares what takes censuses. Throws BpfUnavailableError or KernelTypesError for `bpf` where it can't be. */
export function makeCensusTaker(method: CensusMethod): CensusTaker {
  if (method === 'proc') return new ProcCensusTaker('BPF was switched off');
  try {
    return new BpfCensusTaker();
  } catch (error) {
    if (method === 'bpf') throw error;
    if (!(error instanceof BpfUnavailableError || error instanceof KernelTypesError)) throw error;
    return new ProcCensusTaker(`${error.message} (${error.reason ?? error.code})`);
  }
}
