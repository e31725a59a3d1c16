import { ProcFormatError } from '../errors.js';

/** Where a task is in one hierarchy of control groups. */
export interface CgroupMembership {
  /** 0 for that of version 2. */
  readonly hierarchy: number;
  /** Of version 1: its controllers, or `name=…`. Empty for version 2. */
  readonly controllers: readonly string[];
  readonly path: string;
}

/** Parses `/proc/PID/cgroup`. Source: cgroups(7). Throws ProcFormatError. */
export function parseCgroups(text: string): CgroupMembership[] {
  return text
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => {
      const match = /^(\d+):([^:]*):(\/.*)$/.exec(line);
      if (match === null) throw new ProcFormatError('cgroup', `'${line}' is no membership`);
      const [, hierarchy, controllers = '', path = ''] = match;
      return {
        hierarchy: Number(hierarchy),
        controllers: controllers === '' ? [] : controllers.split(','),
        path,
      };
    });
}
