/** The library: checkpoint and restart trees of processes from a Node.js program. */

export { type CheckReport, check, type FeatureReport } from './check.js';
export { type CheckpointOptions, type CheckpointReport, checkpoint } from './checkpoint.js';
export * from './errors.js';
export {
  type FileDescription,
  type ImageDescription,
  inspect,
  type MappingDescription,
  type ProcessDescription,
  type SharedMemoryDescription,
} from './inspect.js';
export { type FindLeaksOptions, findLeaks, type InsideProcess, type LeakReport } from './leaks.js';
export type { NotVerified } from './objects/census.js';
export type { CensusMethod } from './objects/censusTaker.js';
export type { StepEvent, StepTime } from './objects/steps.js';
export type { Attachments } from './resources/tree/attachments.js';
export { type ExitStatus, type RestartOptions, type RestartReport, restart } from './restart.js';
