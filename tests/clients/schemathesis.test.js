// schemathesis: whatever fits the contract is answered, in words for a client, by a server that goes on.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';

import { run, withoutPython } from './support/python.js';
import { Server } from './support/server.js';

/** Requests for each field of the root: enough to try its arguments, few enough for every run. */
const EXAMPLES = process.env.ORIEL_SCHEMATHESIS_EXAMPLES ?? '15';

let server;
before(async () => {
  if (!withoutPython) server = await Server.start();
});
after(() => server?.stop());

test('queries and mutations from the contract', { skip: withoutPython }, async () => {
  const ada = await server.register('Fuzzed');
  const project = await ada.createProject('FUZZ');
  const { viewer } = await ada.ask('{ viewer { user { id } member { id } organization { id } } }');
  const ids = [project, viewer.user.id, viewer.member.id, viewer.organization.id];
  await run(
    'schemathesis',
    [
      ...['run', server.endpoint, '--header', `Authorization: Bearer ${ada.token}`],
      ...['--checks', 'an_answer_that_a_client_can_use', '--mode', 'positive'],
      ...['--max-examples', EXAMPLES, '--seed', '1', '--continue-on-failure', '--suppress-health-check', 'all'],
      // They end the session that everything is asked in.
      ...['logout', 'sessionRevoke', 'sessionSwitch'].flatMap((name) => ['--exclude-name', `Mutation.${name}`]),
    ],
    { SCHEMATHESIS_HOOKS: 'hooks', ORIEL_IDS: ids.join() },
  );
  // It was asked as somebody until the end, and nothing went wrong behind the answers.
  assert.equal((await ada.ask('{ viewer { user { id } } }')).viewer.user.id, viewer.user.id);
  const wrong = server.log.filter((line) => /"level":"ERROR"|panicked/.test(line));
  assert.deepEqual(wrong, []);
});
