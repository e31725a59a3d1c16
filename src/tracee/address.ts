/** An address in a target's memory: a `bigint` that can't be taken for one of ours or for a length. */
export type RemoteAddress = bigint & { readonly __remoteAddress: unique symbol };

/** Marks a number as an address in a target. */
export function remoteAddress(value: bigint): RemoteAddress {
  return value as RemoteAddress;
}

/** The address `bytes` further on. */
export function advance(address: RemoteAddress, bytes: number | bigint): RemoteAddress {
  return (address + BigInt(bytes)) as RemoteAddress;
}

/** A range of addresses, from `start` up to but not including `end`. */
export interface AddressRange {
  readonly start: RemoteAddress;
  readonly end: RemoteAddress;
}

/**
 * The lowest free range of `length` bytes at or above `from`, clear of all `used` ranges by a guard of
 * one megabyte, so that a stack that grows down does not meet it. Undefined when user space is full.
 */
export function findHole(
  used: readonly AddressRange[],
  length: number,
  from: RemoteAddress = remoteAddress(0x2000_0000n),
): RemoteAddress | undefined {
  const guard = 0x10_0000n;
  const size = BigInt(length);
  let candidate: bigint = from;
  for (const range of [...used].sort((a, b) => (a.start < b.start ? -1 : 1))) {
    if (range.end + guard <= candidate) continue;
    if (range.start >= candidate + size + guard) break;
    candidate = range.end + guard;
  }
  return candidate + size <= USER_SPACE_END ? remoteAddress(candidate) : undefined;
}

const USER_SPACE_END = 0x7fff_ffff_f000n;
