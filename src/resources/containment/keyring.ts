import { collectFromTasks, type SharedKind } from '../../objects/sharedObjects.js';

/** Session keyrings that tasks were given. Source: keyrings(7). */
export const keyring: SharedKind = {
  kind: 'keyring',
  refUsers: { unknown: 'its count has credentials of open files in it' },
  collect: (table) =>
    collectFromTasks(table, 'keyring', ({ keyring: identity }) =>
      identity === undefined ? undefined : { identity, count: undefined },
    ),
  judge: ({ inside }) => ({
    name: `of ${inside[0]?.pid ?? '?'}`,
    harmless: true,
    meaning:
      'the session keyring is shared; keys are not part of an image, a restart has those of its own session',
    advice: 'start the program with keyctl new_session where that matters',
  }),
};
