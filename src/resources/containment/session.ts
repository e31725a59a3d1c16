import type { CensusTask } from '../../objects/census.js';
import type { SharedKind } from '../../objects/sharedObjects.js';

/** Sessions and process groups, by their members. Source: setsid(2), setpgid(2). */
export function membership(kind: 'session' | 'processGroup'): SharedKind {
  const idOf = (task: CensusTask): number => (kind === 'session' ? task.session : task.processGroup);
  const title = kind === 'session' ? 'session' : 'process group';
  return {
    kind,
    refUsers: 'exact',

    collect(table) {
      const { leaders } = table;
      const { inside } = table.census;
      const sizes = new Map<number, number>();
      for (const task of leaders) sizes.set(idOf(task), (sizes.get(idOf(task)) ?? 0) + 1);
      for (const task of leaders) {
        if (inside.has(task.pid)) table.object(kind, idOf(task), sizes.get(idOf(task)));
      }
      for (const task of leaders) {
        const object = table.find(kind, idOf(task));
        if (object !== undefined) table.use(object, task.pid);
      }
    },

    judge(object, table) {
      const ledInside = table.census.inside.has(Number(object.identity));
      return ledInside
        ? {
            name: String(object.identity),
            harmless: false,
            meaning: `processes outside belong to the ${title} that is led inside`,
            advice: `end them, or have them enter a ${title} of their own`,
          }
        : {
            name: String(object.identity),
            harmless: true,
            meaning: `the ${title} is led from outside: a restart takes that of where it runs`,
            advice: 'start the program with setsid where that matters',
          };
    },
  };
}
