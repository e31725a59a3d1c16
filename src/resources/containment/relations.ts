import type { SharedKind } from '../../objects/sharedObjects.js';
import { isPidNamespaceInit } from '../../objects/target.js';

/** Tasks inside that are traced from outside, and those inside that trace others. Source: ptrace(2). */
export const tracer: SharedKind = {
  kind: 'tracer',
  refUsers: { unknown: 'a relation between two tasks, which the kernel does not count' },

  collect(table) {
    for (const task of table.census.tasks) {
      if (task.tracer === 0) continue;
      const sides = [table.sideOf(task.pid), table.sideOf(task.tracer)];
      if (!sides.includes('inside') || sides[0] === sides[1] || sides.includes('own')) continue;
      const object = table.object('tracer', `${task.tracer} of ${task.tid}`, undefined);
      table.use(object, task.pid, { how: 'is traced' });
      table.use(object, task.tracer, { how: 'traces it' });
    }
  },

  judge: (object) => ({
    name: String(object.identity),
    harmless: false,
    meaning: 'a debugger or strace across the border sees and changes what the task does',
    advice: 'detach it',
  }),
};

/**
 * Processes in the pid namespace of the container's init that are no descendants of it: they were brought
 * in by nsenter or exec, and their parents are outside. Source: pid_namespaces(7).
 */
export const parent: SharedKind = {
  kind: 'parent',
  refUsers: { unknown: 'a relation between two tasks, which the kernel does not count' },

  collect(table) {
    const { tasks, root } = table.census;
    const leaders = new Map(tasks.filter(({ tid, pid }) => tid === pid).map((task) => [task.pid, task]));
    const init = leaders.get(root);
    const space = init?.namespaces.pid?.identity;
    if (init === undefined || space === undefined || !isPidNamespaceInit(root)) return;
    for (const task of leaders.values()) {
      if (table.sideOf(task.pid) !== 'outside' || task.namespaces.pid?.identity !== space) continue;
      const object = table.object('parent', task.pid, undefined);
      object.crosses = true;
      table.addHolder(object, root, { how: 'is the init of its pid namespace' });
      table.addHolder(object, task.pid, { how: `is a child of ${task.parent} outside` });
    }
  },

  judge: (object) => ({
    name: String(object.identity),
    harmless: false,
    meaning: 'the process lives in the container, but its parent is outside',
    advice: 'end it: it was brought in by nsenter, or by exec of the container runtime',
  }),
};
