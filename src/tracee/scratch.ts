import { type AddressRange, advance, type RemoteAddress } from './address.js';

/**
 * A piece of a target's address space in which Stasis works: code that can be executed but not written by
 * the target, then data that can be written but not executed. Tasks that forbid writable code
 * (PR_SET_MDWE, SELinux) allow that.
 */
export interface Scratch extends AddressRange {
  readonly code: RemoteAddress;
  readonly data: RemoteAddress;
  /** A page for what must outlive a program, with room for a signal frame below it. */
  readonly saved: RemoteAddress;
}

/** Bytes. 512 calls of at most {@link CALL_CODE_SIZE} bytes, and an epilogue. */
export const SCRATCH_CODE_SIZE = 0x1_0000;
/** Bytes. Results, and whatever the calls point to: the largest is the group list of 65,536 groups. */
export const SCRATCH_DATA_SIZE = 0x8_0000;
const SCRATCH_SAVED_SIZE = 0x1000;
export const SCRATCH_SIZE = SCRATCH_CODE_SIZE + SCRATCH_DATA_SIZE + SCRATCH_SAVED_SIZE;

/** The scratch area that begins at `start`. */
export function scratchAt(start: RemoteAddress): Scratch {
  return {
    start,
    end: advance(start, SCRATCH_SIZE),
    code: start,
    data: advance(start, SCRATCH_CODE_SIZE),
    saved: advance(start, SCRATCH_CODE_SIZE + SCRATCH_DATA_SIZE),
  };
}
