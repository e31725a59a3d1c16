/** The second thread of {@link checksumPages}. */
import { parentPort, workerData } from 'node:worker_threads';
import { type ChecksumWork, takeSpans } from './pageChecksums.js';

takeSpans(workerData as ChecksumWork);
parentPort?.postMessage('done');
