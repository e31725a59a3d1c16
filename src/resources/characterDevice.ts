import { statSync } from 'node:fs';
import { CharacterDeviceSchema } from '../image/generated/character_device_pb.js';
import { fileKind } from '../objects/slice.js';
import { fcntl } from '../sys/uapi.js';
import { cString } from '../tracee/remoteCalls.js';
import { refuseLostPath, reopenFlags } from './pathFile.js';

const MEMORY_MAJOR = 1;
/** drivers/char/mem.c: null, zero, full, random, urandom. They keep nothing for whoever has them open. */
const STATELESS_MINORS = [3, 5, 7, 8, 9];

/** Devices without state of their own: `/dev/null`, `zero`, `full`, `random`, `urandom`. */
export const characterDevice = fileKind({
  kind: 'characterDevice',
  recordType: 66,
  schema: CharacterDeviceSchema,

  claims({ descriptor: { stats } }) {
    const { major, minor } = deviceNumber(stats.rdev);
    return stats.isCharacterDevice() && major === MEMORY_MAJOR && STATELESS_MINORS.includes(minor);
  },
  refuse: refuseLostPath,

  checkpoint: ({ descriptor: { link, info, stats } }) => ({
    path: link,
    flags: reopenFlags(info.flags),
    ...deviceNumber(stats.rdev),
  }),

  describe: ({ path }) => path,

  verify({ path, major, minor }) {
    const stats = statSync(path, { bigint: true, throwIfNoEntry: false });
    const found = stats === undefined ? undefined : deviceNumber(stats.rdev);
    if (found?.major === major && found.minor === minor) return [];
    return [
      {
        where: 'open device',
        what: `${path} is missing or another device than ${major}:${minor}`,
        advice: 'make the device node again',
      },
    ];
  },

  restart: ({ path, flags }, { calls }) =>
    calls.call('openat', [fcntl.AT_FDCWD, cString(path), flags, 0], { purpose: `opening ${path}` }),
});

/** Splits a device number as makedev(3) packs it. */
export function deviceNumber(device: bigint): { major: number; minor: number } {
  return {
    major: Number(((device >> 8n) & 0xfffn) | ((device >> 32n) & 0xffff_f000n)),
    minor: Number((device & 0xffn) | ((device >> 12n) & 0xffff_ff00n)),
  };
}
