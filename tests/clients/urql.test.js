// urql: queries, mutations, and subscriptions over server-sent events and over WebSocket.

import { cacheExchange, Client, fetchExchange, gql, subscriptionExchange } from '@urql/core';
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { createClient as webSocket } from 'graphql-ws';
import WebSocket from 'ws';

import { answers } from './support/answers.js';
import { Server } from './support/server.js';

let server;
let ada;
before(async () => {
  server = await Server.start();
  ada = await server.register('Urql');
});
after(() => server?.stop());

const clientOf = (options = {}) =>
  new Client({
    url: server.endpoint,
    fetchOptions: () => ({ headers: ada.headers }),
    preferGetMethod: false,
    exchanges: [cacheExchange, fetchExchange],
    ...options,
  });

const PROJECTS = gql`
  query Projects {
    projects(first: 10) {
      nodes {
        id
        key
        name
      }
    }
  }
`;
const CREATE = gql`
  mutation Create($input: ProjectCreateInput!) {
    projectCreate(input: $input) {
      project {
        id
        key
      }
      userErrors {
        code
        path
      }
    }
  }
`;
const LIVE = gql`
  subscription Live($id: ID!) {
    live {
      project(id: $id) {
        id
        name
      }
    }
  }
`;

test('a mutation refreshes the queries of the same types', async () => {
  const client = clientOf();
  await ada.createProject('FIRST');
  const lists = answers({
    subscribe: (sink) => client.query(PROJECTS, {}).subscribe(sink.next),
  });
  assert.deepEqual((await lists.next()).data.projects.nodes.map(({ key }) => key), ['FIRST']);
  const created = await client.mutation(CREATE, { input: { key: 'SECOND', name: 'Second' } }).toPromise();
  assert.deepEqual(created.data.projectCreate.userErrors, []);
  let keys;
  do {
    keys = (await lists.next()).data.projects.nodes.map(({ key }) => key);
  } while (keys.length < 2);
  assert.deepEqual(keys, ['FIRST', 'SECOND']);
  lists.end();
});

test('what a person can mend comes as data', async () => {
  const { data, error } = await clientOf().mutation(CREATE, { input: { key: 'no good', name: '' } }).toPromise();
  assert.equal(error, undefined);
  assert.deepEqual(data.projectCreate.userErrors, [
    { code: 'INVALID', path: ['input', 'key'], __typename: 'UserError' },
    { code: 'REQUIRED', path: ['input', 'name'], __typename: 'UserError' },
  ]);
});

test('queries travel by GET', async () => {
  const sent = [];
  const noting = (url, options) => {
    sent.push(options.method);
    return fetch(url, options);
  };
  const { data } = await clientOf({ preferGetMethod: 'force', fetch: noting }).query(PROJECTS, {}).toPromise();
  assert.ok(data.projects);
  assert.deepEqual(sent, ['GET']);
});

const transports = {
  'server-sent events': () => clientOf({ fetchSubscriptions: true }),
  WebSocket: () => {
    const socket = webSocket({ url: server.socket, webSocketImpl: WebSocket, connectionParams: ada.headers });
    const forwardSubscription = (request) => ({
      subscribe: (sink) => ({ unsubscribe: socket.subscribe({ ...request, query: request.query ?? '' }, sink) }),
    });
    return clientOf({ exchanges: [cacheExchange, fetchExchange, subscriptionExchange({ forwardSubscription })] });
  },
};
for (const [transport, client] of Object.entries(transports)) {
  test(`a live query over ${transport}`, async () => {
    const id = await ada.createProject(transport.slice(0, 3).toUpperCase(), 'One');
    const live = answers({
      subscribe: (sink) => client().subscription(LIVE, { id }).subscribe(sink.next),
    });
    assert.equal((await live.next()).data?.live.project.name, 'One');
    await ada.renameProject(id, 'Two');
    assert.equal((await live.next()).data?.live.project.name, 'Two');
    live.end();
  });
}
