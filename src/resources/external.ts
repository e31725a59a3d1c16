import { ExternalSchema } from '../image/generated/external_pb.js';
import { fileKind, type OpenFile } from '../objects/slice.js';
import { open } from '../sys/uapi.js';
import { deviceNumber } from './characterDevice.js';
import { isPipe } from './pipe.js';
import { accessText } from './regularFile.js';

/** Documentation/admin-guide/devices.txt: consoles and serial lines, /dev/tty, Unix98 terminals, others. */
const TERMINAL_MAJORS = [4, 5, 136, 137, 138, 139, 140, 141, 142, 143, 188, 204, 229];
const LAST_STANDARD_STREAM = 2;

/**
 * Descriptors that lead outside of the tree: a terminal, a pipe whose other end somebody else has, and
 * whatever leaks and was accepted. They are recorded by a key and given anew at restart. Comes after `pipe`
 * in the registry.
 */
export const external = fileKind({
  kind: 'external',
  recordType: 68,
  schema: ExternalSchema,

  claims: (file, context) => context.isAcceptedLeak(file) || isPipe(file) || isTerminal(file),

  checkpoint: ({ descriptor: { link, info } }) => ({
    key: link,
    flags: info.flags & (open.O_ACCMODE | open.O_APPEND | open.O_NONBLOCK),
  }),

  describe: ({ key, flags }) => `${key}, outside${accessText(flags)}`,

  verify({ key }, context, objref) {
    const slots = context.slotsOf(objref);
    if (context.isAttached(key, slots)) return [];
    return [
      {
        where: `descriptor ${slots.join(', ')}`,
        what: `${key} leads outside and has no new end`,
        advice: `give it one with --attach '${key}=TARGET', where TARGET is fd:N, a path, or null`,
      },
    ];
  },

  restart:
    ({ key }, context) =>
    (slot) =>
      context.external(key, slot),
});

/** The standard streams, which a restart has itself. */
export function isStandardStream(slot: number): boolean {
  return slot <= LAST_STANDARD_STREAM;
}

function isTerminal({ descriptor: { stats, link } }: OpenFile): boolean {
  return (
    stats.isCharacterDevice() &&
    TERMINAL_MAJORS.includes(deviceNumber(stats.rdev).major) &&
    link !== '/dev/ptmx' &&
    link !== '/dev/pts/ptmx'
  );
}
