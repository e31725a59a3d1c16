import type { KernelTypes } from './btf.js';
import { RowLayout, RowProgram } from './rows.js';
import { fileCountMember } from './taskProgram.js';

/** How many messages of a queue, and descriptors of a message, are looked at. */
export const IN_FLIGHT_LIMITS = { messages: 16, descriptors: 8 } as const;

const fileColumns = Array.from(
  { length: IN_FLIGHT_LIMITS.descriptors },
  (_, index) => [`file${index}`, `count${index}`] as const,
).flat();

/** One row for each message with descriptors in the queue of a unix socket. */
export const inFlightLayout = new RowLayout(['sock', 'message', 'descriptors', 'pointer', ...fileColumns]);
export type InFlightColumn = (typeof inFlightLayout.columns)[number];

/** The structures whose members the program reads. */
export const IN_FLIGHT_STRUCTURES = [
  'socket',
  'sock',
  'unix_sock',
  'sk_buff',
  'unix_skb_parms',
  'scm_fp_list',
];

const CONTEXT_FILE = 24;
const POINTER_SIZE = 8;
const SOCKFS_MAGIC = 0x534f_434b;
const AF_UNIX = 1;

/**
 * For `bpf_iter_task_file`: what waits in the queues of unix sockets. Sockets that several slots refer to
 * are shown several times. Undefined where this kernel's structures are not as expected.
 *
 * Source: `UNIXCB` of net/af_unix.h, `struct scm_fp_list` of net/scm.h.
 */
export function inFlightProgram(types: KernelTypes): RowProgram<InFlightColumn> | undefined {
  const queue = types.findMember('sock', 'sk_receive_queue');
  const next = types.findMember('sk_buff', 'next');
  const control = types.findMember('sk_buff', 'cb');
  const list = types.findMember('unix_skb_parms', 'fp');
  const files = types.findMember('scm_fp_list', 'fp');
  const count = types.findMember('scm_fp_list', 'count');
  const waiting = types.findMember('unix_sock', 'scm_stat.nr_fds');
  if (!queue || !next || !control || !list || !files || !count || !waiting) return undefined;

  const program = new RowProgram(types, inFlightLayout);
  const { assembler } = program;
  program.context('r7', CONTEXT_FILE);
  program.probe('pointer', 'r7', 'file', 'f_inode');
  program.get('r8', 'pointer');
  program.probe('pointer', 'r8', 'inode', 'i_sb');
  program.get('r8', 'pointer');
  program.probe('pointer', 'r8', 'super_block', 's_magic');
  program.get('r1', 'pointer');
  assembler.addImmediate('r1', -SOCKFS_MAGIC);
  program.skipRowUnlessZero('r1');
  program.probe('pointer', 'r7', 'file', 'private_data');
  program.get('r8', 'pointer');
  program.probe('sock', 'r8', 'socket', 'sk');
  program.get('r7', 'sock');
  program.skipRowIfZero('r7');
  program.probe('descriptors', 'r7', 'sock', '__sk_common.skc_family');
  program.get('r1', 'descriptors');
  assembler.addImmediate('r1', -AF_UNIX);
  program.skipRowUnlessZero('r1');
  program.probeAt('descriptors', 'r7', waiting.offset, 4);
  program.get('r1', 'descriptors');
  program.skipRowIfZero('r1');

  // r7: the head of the queue; r8: a message.
  const done = assembler.newLabel();
  assembler.addImmediate('r7', queue.offset);
  program.probeAt('pointer', 'r7', next.offset, POINTER_SIZE);
  for (let message = 0; message < IN_FLIGHT_LIMITS.messages; message++) {
    program.get('r8', 'pointer');
    assembler.jumpIfEqual('r8', 0, done).jumpIfSame('r8', 'r7', done);
    const without = assembler.newLabel();
    assembler.moveImmediate('r1', message);
    program.put('message', 'r1');
    program.probeAt('pointer', 'r8', control.offset + list.offset, POINTER_SIZE);
    program.get('r9', 'pointer');
    assembler.jumpIfEqual('r9', 0, without);
    assembler.moveImmediate('r1', 0);
    program.put('descriptors', 'r1');
    program.probeAt('descriptors', 'r9', count.offset, 2);
    copyFiles(program, files.offset);
    program.write();
    assembler.label(without);
    program.probeAt('pointer', 'r8', next.offset, POINTER_SIZE);
  }
  assembler.label(done);
  return program;
}

/** Of the list in r9. What is behind its end is not read: it may be of an earlier message. */
function copyFiles(program: RowProgram<InFlightColumn>, offset: number): void {
  const { assembler } = program;
  const all = assembler.newLabel();
  for (let index = 0; index < IN_FLIGHT_LIMITS.descriptors; index++) {
    const file = `file${index}` as const;
    const count = `count${index}` as const;
    program.get('r1', 'descriptors');
    assembler.jumpIfEqual('r1', index, all);
    program.probeAt(file, 'r9', offset + index * POINTER_SIZE, POINTER_SIZE);
    program.get('r3', file);
    program.probe(count, 'r3', 'file', fileCountMember(program.types));
  }
  assembler.label(all);
}
