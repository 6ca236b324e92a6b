// gql, the client of Python: see python/gql_client.py.

import { after, before, test } from 'node:test';

import { run, withoutPython } from './support/python.js';
import { Server } from './support/server.js';

let server;
before(async () => {
  if (!withoutPython) server = await Server.start();
});
after(() => server?.stop());

test('gql asks, uploads and follows', { skip: withoutPython }, async () => {
  const { token } = await server.register('Python');
  await run('python', ['-m', 'unittest', '-v', 'gql_client'], { ORIEL_ENDPOINT: server.endpoint, ORIEL_TOKEN: token });
});
