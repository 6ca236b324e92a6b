// graphql-ws: subscriptions over `graphql-transport-ws`, a restart in between, and every code that closes a socket.
// https://github.com/enisdenjo/graphql-ws/blob/master/PROTOCOL.md

import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { after, before, describe, test } from 'node:test';
import { createClient } from 'graphql-ws';
import WebSocket from 'ws';

import { answers } from './support/answers.js';
import { Server } from './support/server.js';

let server;
let ada;
before(async () => {
  server = await Server.start();
  ada = await server.register('Socket');
});
after(() => server?.stop());

const clientOf = (t, options = {}) => {
  const usual = { url: server.socket, webSocketImpl: WebSocket, connectionParams: () => ada.headers };
  const client = createClient({ ...usual, ...options });
  t.after(() => client.dispose());
  return client;
};

/** A subscription of this client as a queue of answers. */
const subscribe = (client, query, variables) =>
  answers({
    subscribe: (sink) => ({ unsubscribe: client.subscribe({ query, variables }, sink) }),
  });

const LIVE = 'subscription ($id: ID!) { live { project(id: $id) { name } } }';

test('what the README shows for partners follows a live query', async () => {
  const readme = await readFile(new URL('../../README.md', import.meta.url), 'utf8');
  const snippet = readme.match(/graphql-ws\]\(.*?```js\n(.*?)```/s)[1];
  const said = new Promise((resolve, reject) => {
    const heard = (live, errors) => {
      resolve({ live, errors });
      throw new Error('enough was heard');
    };
    const AsyncFunction = (async () => {}).constructor;
    const code = snippet.replace('ws://127.0.0.1:8080/graphql', server.socket);
    assert.notEqual(code, snippet);
    const run = new AsyncFunction('createClient', 'token', 'console', code);
    const create = (options) => createClient({ ...options, webSocketImpl: WebSocket });
    run(create, ada.token, { log: heard }).catch(reject);
  });
  const { live, errors } = await said;
  assert.deepEqual([live.projects.totalCount, errors], [0, undefined]);
});

test('queries, mutations and subscriptions share a socket', async (t) => {
  const client = clientOf(t);
  const created = subscribe(
    client,
    'mutation { projectCreate(input: { key: "WS", name: "One" }) { project { id } userErrors { message } } }',
  );
  const { id } = (await created.next()).data.projectCreate.project;
  assert.deepEqual(await created.next(), { over: true });

  const live = subscribe(client, LIVE, { id });
  const events = subscribe(client, 'subscription { events { type subjectId } }');
  assert.equal((await live.next()).data.live.project.name, 'One');
  const asked = subscribe(client, 'query ($id: ID!) { project(id: $id) { key } }', { id });
  assert.equal((await asked.next()).data.project.key, 'WS');

  await ada.renameProject(id, 'Two');
  assert.equal((await live.next()).data.live.project.name, 'Two');
  const event = (await events.next()).data.events;
  assert.deepEqual(event, { type: 'project_renamed', subjectId: id });
  live.end();
  events.end();
});

test('an operation that is wrong ends with its errors, and the socket goes on', async (t) => {
  const client = clientOf(t);
  const wrong = await subscribe(client, 'subscription { live { nothingOfThisName } }').next();
  assert.equal(wrong.error[0].extensions.code, 'BAD_REQUEST');
  const right = await subscribe(client, '{ viewer { user { name } } }').next();
  assert.equal(right.data.viewer.user.name, 'Socket Owner');
});

test('a client that has no more to ask closes its socket, and the server answers that', async (t) => {
  const closed = new Promise((resolve) => {
    const asked = subscribe(clientOf(t, { on: { closed: resolve } }), '{ __typename }');
    asked.next();
  });
  const { code, wasClean } = await closed;
  assert.deepEqual({ code, wasClean }, { code: 1000, wasClean: true });
});

test('a restart closes with 1012, and the client comes back by itself with what happened meanwhile', async (t) => {
  const id = await ada.createProject('AGAIN', 'Before');
  const closed = [];
  const client = clientOf(t, { on: { closed: ({ code }) => closed.push(code) } });
  const live = subscribe(client, LIVE, { id });
  assert.equal((await live.next()).data.live.project.name, 'Before');
  await server.restart();
  await ada.renameProject(id, 'After');
  let name;
  do {
    name = (await live.next()).data.live.project.name;
  } while (name === 'Before');
  assert.equal(name, 'After');
  assert.deepEqual(closed, [1012]);
  live.end();
});

describe('each mistake closes the socket with its own code', { concurrency: true }, () => {
  const send = (socket, message) => socket.send(JSON.stringify(message));
  const subscription = { id: 'one', type: 'subscribe', payload: { query: 'subscription { events { id } }' } };
  const mistakes = {
    4400: { what: 'a message that is none', on: { connected: (socket) => socket.send('{"type":"hello"}') } },
    4401: { what: 'an operation before the initialisation', on: { opened: (socket) => send(socket, subscription) } },
    4403: { what: 'a token that is not good', connectionParams: { authorization: 'Bearer not-a-token' } },
    4408: { what: 'no initialisation within ten seconds', connectionParams: () => new Promise(() => {}) },
    4409: {
      what: 'two operations of one id',
      on: { connected: (socket) => [subscription, subscription].forEach((message) => send(socket, message)) },
    },
    4429: { what: 'a second initialisation', on: { connected: (socket) => send(socket, { type: 'connection_init' }) } },
  };
  for (const [code, { what, on, ...options }] of Object.entries(mistakes)) {
    test(`${code}: ${what}`, async (t) => {
      const closed = await new Promise((resolve) => {
        const patience = { lazy: false, retryAttempts: 0, onNonLazyError: () => {} };
        clientOf(t, { ...patience, on: { ...on, closed: resolve }, ...options });
      });
      assert.equal(closed.code, Number(code));
      assert.notEqual(closed.reason, '');
    });
  }
});
