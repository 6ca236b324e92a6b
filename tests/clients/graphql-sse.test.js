// graphql-sse: subscriptions over server-sent events, each on a connection of its own, and all on one.
// https://github.com/enisdenjo/graphql-sse/blob/master/PROTOCOL.md

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { createClient } from 'graphql-sse';

import { answers } from './support/answers.js';
import { Server } from './support/server.js';

let server;
let ada;
before(async () => {
  server = await Server.start();
  ada = await server.register('Events');
});
after(() => server?.stop());

const LIVE = 'subscription ($id: ID!) { live { project(id: $id) { name } } }';

for (const singleConnection of [false, true]) {
  const mode = singleConnection ? 'on a single connection' : 'on distinct connections';
  const clientOf = (t, options = {}) => {
    const usual = { url: server.endpoint, headers: () => ada.headers, singleConnection, retryAttempts: 0 };
    const client = createClient({ ...usual, ...options });
    t.after(() => client.dispose());
    return client;
  };
  const subscribe = (client, query, variables) =>
    answers({ subscribe: (sink) => ({ unsubscribe: client.subscribe({ query, variables }, sink) }) });

  test(`${mode}: queries and mutations have one answer and are complete`, async (t) => {
    const client = clientOf(t);
    const key = singleConnection ? 'SINGLE' : 'DISTINCT';
    const created = subscribe(
      client,
      'mutation ($key: String!) { projectCreate(input: { key: $key, name: "One" }) { project { key } } }',
      { key },
    );
    assert.equal((await created.next()).data.projectCreate.project.key, key);
    assert.deepEqual(await created.next(), { over: true });
    const asked = subscribe(client, '{ viewer { organization { name } } }');
    assert.equal((await asked.next()).data.viewer.organization.name, 'Events');
    assert.deepEqual(await asked.next(), { over: true });
  });

  test(`${mode}: two subscriptions at once, and one ends alone`, async (t) => {
    const client = clientOf(t);
    const id = await ada.createProject(singleConnection ? 'BOTH' : 'EACH', 'One');
    const live = subscribe(client, LIVE, { id });
    const events = subscribe(client, 'subscription { events { type } }');
    assert.equal((await live.next()).data.live.project.name, 'One');
    await ada.renameProject(id, 'Two');
    assert.equal((await live.next()).data.live.project.name, 'Two');
    assert.equal((await events.next()).data.events.type, 'project_renamed');
    live.end();
    await ada.renameProject(id, 'Three');
    assert.equal((await events.next()).data.events.type, 'project_renamed');
    events.end();
  });

  test(`${mode}: what is wrong is said`, async (t) => {
    const client = clientOf(t);
    const wrong = await subscribe(client, 'subscription { live { nothingOfThisName } }').next();
    assert.match(wrong.errors[0].message, /nothingOfThisName/);
  });

  test(`${mode}: a token that is not good is refused`, async (t) => {
    const client = clientOf(t, { headers: { authorization: 'Bearer not-a-token' } });
    const { error } = await subscribe(client, '{ __typename }').next();
    assert.equal(error.response.status, 401);
  });

  test(`${mode}: after a restart the client comes back with what happened meanwhile`, async (t) => {
    const id = await ada.createProject(singleConnection ? 'BACKS' : 'BACKD', 'Before');
    const client = clientOf(t, { retryAttempts: 10 });
    const live = subscribe(client, LIVE, { id });
    assert.equal((await live.next()).data.live.project.name, 'Before');
    await server.restart();
    await ada.renameProject(id, 'After');
    let name;
    do {
      name = (await live.next()).data.live.project.name;
    } while (name === 'Before');
    assert.equal(name, 'After');
    live.end();
  });
}

test('a browser’s EventSource, which shows nothing but events, hears why a document is refused', async () => {
  const url = `${server.endpoint}?query=${encodeURIComponent('{ this is no document')}`;
  const response = await fetch(url, { headers: { accept: 'text/event-stream' } });
  assert.equal(response.status, 200);
  assert.match(await response.text(), /^event: next\ndata: {"errors":.*\n\nevent: complete\ndata:/);
});

test('a stream belongs to who reserved it, has one connection, and each id once', async (t) => {
  const eve = await server.register('Eve');
  const ask = (session, method, token, options = {}) => {
    const headers = { ...session.headers, 'content-type': 'application/json', 'x-graphql-event-stream-token': token };
    return fetch(server.endpoint, { method, ...options, headers: { ...headers, ...options.headers } });
  };
  const operation = { query: 'subscription { events { id } }', extensions: { operationId: 'one' } };
  const body = { body: JSON.stringify(operation) };
  const reserved = await fetch(server.endpoint, { method: 'PUT', headers: ada.headers });
  assert.equal(reserved.status, 201);
  const token = await reserved.text();

  assert.equal((await ask(eve, 'POST', token, body)).status, 404);
  assert.equal((await ask(ada, 'POST', 'another', body)).status, 404);
  assert.equal((await ask(ada, 'POST', token, { body: JSON.stringify({ query: operation.query }) })).status, 400);
  assert.equal((await ask(ada, 'POST', token, body)).status, 202);
  assert.equal((await ask(ada, 'POST', token, body)).status, 409);

  const connect = { headers: { accept: 'text/event-stream' } };
  const closing = new AbortController();
  t.after(() => closing.abort());
  assert.equal((await ask(eve, 'GET', token, connect)).status, 404);
  // As EventSource does: with the token in the URL, and no headers.
  const connected = await fetch(`${server.endpoint}?token=${token}`, { ...connect, signal: closing.signal });
  assert.equal(connected.headers.get('content-type'), 'text/event-stream');
  assert.equal((await ask(ada, 'GET', token, connect)).status, 409);
});
