import { collectFromTasks, type SharedKind } from '../../objects/sharedObjects.js';

const CREDENTIALS_COUNT = 'their count has open files and sockets in it';
const KEYRING_COUNT = 'its count has credentials of open files in it';

/** User and group ids and capabilities, which tasks share after a fork. Source: credentials(7). */
export const credentials: SharedKind = {
  kind: 'credentials',
  refUsers: { unknown: CREDENTIALS_COUNT },
  collect: (table) =>
    collectFromTasks(table, 'credentials', ({ credentials: identity }) =>
      identity === undefined ? undefined : { identity, count: undefined },
    ),
  judge: ({ inside }) => ({
    name: `of ${inside[0]?.pid ?? '?'}`,
    harmless: true,
    meaning:
      'the same set of ids and capabilities: it never changes, a task that changes its own gets a new one',
    advice: 'nothing needs to be done',
  }),
};

/** Session keyrings that tasks were given. Source: keyrings(7). */
export const keyring: SharedKind = {
  kind: 'keyring',
  refUsers: { unknown: KEYRING_COUNT },
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
