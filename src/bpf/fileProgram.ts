import type { KernelTypes } from './btf.js';
import { RowLayout, RowProgram } from './rows.js';
import { fileCountMember } from './taskProgram.js';

/** The columns that slots and mappings have in common. */
export const sharedColumns = [
  'file',
  'count',
  'mode',
  'flags',
  'inode',
  'ino',
  'inodeMode',
  'magic',
  'links',
  'dentry',
  'dentryCount',
  'pointer',
] as const;
type SharedColumn = (typeof sharedColumns)[number];

/** One row for each slot of each task's table of descriptors. */
export const fileLayout = new RowLayout([
  'tgid',
  'files',
  'fd',
  ...sharedColumns,
  'rdev',
  'lockContext',
  'pipe',
  'pipeFiles',
  'tty',
  'ttyCount',
  'ttyLink',
  'ttyIndex',
  'sock',
  'sockFamily',
  'sockReferences',
  'peer',
  'peerListener',
  'fdsInFlight',
]);
export type FileColumn = (typeof fileLayout.columns)[number];

/** The structures whose members the program reads. */
export const FILE_STRUCTURES = [
  'file',
  'inode',
  'super_block',
  'dentry',
  'pipe_inode_info',
  'tty_file_private',
  'tty_struct',
  'socket',
  'sock',
  'unix_sock',
];

const CONTEXT_TASK = 8;
const CONTEXT_FD = 16;
const CONTEXT_FILE = 24;
/** Of linux/magic.h. */
const SOCKFS_MAGIC = 0x534f_434b;
/** Of linux/stat.h. */
const S_IFMT = 0o17_0000;
const S_IFSOCK = 0o14_0000;
const S_IFIFO = 0o1_0000;
const S_IFCHR = 0o2_0000;
const AF_UNIX = 1;

/** For `bpf_iter_task_file`, which itself holds one reference to the file that it shows. */
export function fileProgram(types: KernelTypes): RowProgram<FileColumn> {
  const program = new RowProgram(types, fileLayout);
  const { assembler } = program;
  program.context('r7', CONTEXT_FILE);
  program.context('r8', CONTEXT_TASK);
  program.column('tgid', 'r8', 'task_struct', 'tgid');
  program.column('files', 'r8', 'task_struct', 'files');
  assembler.load(4, 'r1', 'r6', CONTEXT_FD);
  program.put('fd', 'r1');
  describeFile(program, 'r7');
  // r8: the inode.
  program.get('r8', 'inode');
  program.probe('rdev', 'r8', 'inode', 'i_rdev');
  program.probe('lockContext', 'r8', 'inode', 'i_flctx');

  const other = assembler.newLabel();
  const notSocket = assembler.newLabel();
  const done = assembler.newLabel();
  program.get('r9', 'inodeMode');
  assembler.andImmediate('r9', S_IFMT).jumpIfNotEqual('r9', S_IFSOCK, notSocket);
  program.get('r1', 'magic');
  assembler.jumpIfNotEqual('r1', SOCKFS_MAGIC, done);
  describeSocket(program);
  assembler.jump(done).label(notSocket).jumpIfNotEqual('r9', S_IFCHR, other);
  describeTerminal(program);
  assembler.jump(done).label(other).jumpIfNotEqual('r9', S_IFIFO, done);
  describePipe(program);
  assembler.label(done);
  return program;
}

/** Fills {@link SharedColumn}s from the file in a register. r9 is lost. */
export function describeFile<Column extends string>(
  program: RowProgram<Column | SharedColumn>,
  file: 'r7' | 'r8',
): void {
  program.put('file', file);
  program.probe('count', file, 'file', fileCountMember(program.types));
  program.probe('mode', file, 'file', 'f_mode');
  program.probe('flags', file, 'file', 'f_flags');
  program.probe('inode', file, 'file', 'f_inode');
  program.probe('dentry', file, 'file', 'f_path.dentry');
  program.get('r9', 'inode');
  program.probe('ino', 'r9', 'inode', 'i_ino');
  program.probe('inodeMode', 'r9', 'inode', 'i_mode');
  program.probe('links', 'r9', 'inode', 'i_nlink');
  program.probe('pointer', 'r9', 'inode', 'i_sb');
  program.get('r9', 'pointer');
  program.probe('magic', 'r9', 'super_block', 's_magic');
  program.get('r9', 'dentry');
  program.probe('dentryCount', 'r9', 'dentry', 'd_lockref.count');
}

function describePipe(program: RowProgram<FileColumn>): void {
  program.probe('pipe', 'r8', 'inode', 'i_pipe');
  program.get('r9', 'pipe');
  program.unlessZero('r9', () => {
    program.probe('pipeFiles', 'r9', 'pipe_inode_info', 'files');
  });
}

/** Source: `struct tty_file_private` of linux/tty.h, which points back to its file. */
function describeTerminal(program: RowProgram<FileColumn>): void {
  const { assembler } = program;
  const no = assembler.newLabel();
  program.probe('pointer', 'r7', 'file', 'private_data');
  program.get('r9', 'pointer');
  assembler.jumpIfEqual('r9', 0, no);
  program.probe('pointer', 'r9', 'tty_file_private', 'file');
  program.get('r1', 'pointer');
  program.get('r2', 'file');
  const yes = assembler.newLabel();
  assembler.jumpIfSame('r1', 'r2', yes).jump(no).label(yes);
  program.probe('tty', 'r9', 'tty_file_private', 'tty');
  program.get('r9', 'tty');
  program.probe('ttyCount', 'r9', 'tty_struct', 'count');
  program.probe('ttyLink', 'r9', 'tty_struct', 'link');
  program.probe('ttyIndex', 'r9', 'tty_struct', 'index');
  assembler.label(no);
}

function describeSocket(program: RowProgram<FileColumn>): void {
  const { assembler } = program;
  program.probe('pointer', 'r7', 'file', 'private_data');
  program.get('r9', 'pointer');
  program.probe('sock', 'r9', 'socket', 'sk');
  program.get('r9', 'sock');
  const done = assembler.newLabel();
  assembler.jumpIfEqual('r9', 0, done);
  program.probe('sockFamily', 'r9', 'sock', '__sk_common.skc_family');
  program.probe('sockReferences', 'r9', 'sock', '__sk_common.skc_refcnt');
  program.get('r1', 'sockFamily');
  assembler.jumpIfNotEqual('r1', AF_UNIX, done);
  program.probe('fdsInFlight', 'r9', 'unix_sock', 'scm_stat.nr_fds');
  program.probe('peer', 'r9', 'unix_sock', 'peer');
  program.get('r9', 'peer');
  assembler.jumpIfEqual('r9', 0, done);
  program.probe('peerListener', 'r9', 'unix_sock', 'listener');
  assembler.label(done);
}
