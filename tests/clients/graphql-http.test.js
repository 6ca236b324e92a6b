// GraphQL over HTTP: the audits of the specification, https://graphql.github.io/graphql-over-http/draft/.
// They are run as somebody who is not signed in: `__typename` and introspection are for everyone.

import { serverAudits } from 'graphql-http';
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';

import { Server } from './support/server.js';

let server;
before(async () => {
  server = await Server.start();
});
after(() => server?.stop());

for (const { id, name, fn } of serverAudits({ url: () => server.endpoint, fetchFn: fetch })) {
  test(`${id} ${name}`, async () => {
    const { status, reason } = await fn();
    assert.equal(status, 'ok', reason);
  });
}
