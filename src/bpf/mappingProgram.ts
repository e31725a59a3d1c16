import type { KernelTypes } from './btf.js';
import { describeFile, sharedColumns } from './fileProgram.js';
import { RowLayout, RowProgram } from './rows.js';

/** One row for each mapping of a file, in each task's address space. */
export const mappingLayout = new RowLayout(['tgid', 'mm', 'start', 'end', 'vmFlags', ...sharedColumns]);
export type MappingColumn = (typeof mappingLayout.columns)[number];

/** The structures whose members the program reads. */
export const MAPPING_STRUCTURES = ['vm_area_struct', 'file', 'inode', 'super_block', 'dentry'];

const CONTEXT_TASK = 8;
const CONTEXT_VMA = 16;

/** For `bpf_iter_task_vma`. */
export function mappingProgram(types: KernelTypes): RowProgram<MappingColumn> {
  const program = new RowProgram(types, mappingLayout);
  program.context('r7', CONTEXT_VMA);
  program.context('r8', CONTEXT_TASK);
  program.column('tgid', 'r8', 'task_struct', 'tgid');
  program.probe('pointer', 'r7', 'vm_area_struct', 'vm_file');
  program.get('r8', 'pointer');
  program.skipRowIfZero('r8');
  program.column('start', 'r7', 'vm_area_struct', 'vm_start');
  program.column('end', 'r7', 'vm_area_struct', 'vm_end');
  program.column('vmFlags', 'r7', 'vm_area_struct', 'vm_flags');
  program.probe('mm', 'r7', 'vm_area_struct', 'vm_mm');
  describeFile(program, 'r8');
  return program;
}
