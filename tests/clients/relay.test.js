// Relay: its compiler over an application with pages and refetching, and its runtime with what the compiler wrote.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { copyFile, mkdir, rm } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { after, before, test } from 'node:test';
import { promisify } from 'node:util';
import { createClient as webSocket } from 'graphql-ws';
import compiler from 'relay-compiler';
import {
  commitMutation,
  createOperationDescriptor,
  Environment,
  fetchQuery,
  getSingularSelector,
  Network,
  Observable,
  RecordSource,
  requestSubscription,
  Store,
} from 'relay-runtime';
import WebSocket from 'ws';

import { answers } from './support/answers.js';
import { Server } from './support/server.js';

const APP = new URL('./relay/', import.meta.url);
const artifact = (name) => createRequire(APP)(`./__generated__/${name}.graphql.js`);

let server;
let ada;
before(async () => {
  const written = new URL('__generated__/', APP);
  await rm(written, { recursive: true, force: true });
  await mkdir(written);
  // The compiler reads only what lies in the folder of the application.
  await copyFile(new URL('../../graphql.schema', import.meta.url), new URL('schema.graphql', APP));
  await promisify(execFile)(compiler, ['relay.config.json'], { cwd: APP });
  server = await Server.start();
  ada = await server.register('Relay');
});
after(() => server?.stop());

/** An environment of Relay, as an application has one. */
function environmentOf(t) {
  const socket = webSocket({ url: server.socket, webSocketImpl: WebSocket, connectionParams: () => ada.headers });
  t.after(() => socket.dispose());
  const ask = ({ text }, variables) => ada.ask(text, variables).then((data) => ({ data }));
  const subscribe = ({ text }, variables) =>
    Observable.create((sink) => socket.subscribe({ query: text, variables }, sink));
  return new Environment({ network: Network.create(ask, subscribe), store: new Store(new RecordSource()) });
}

/** Asks the application's query, keeps its answer, and gives the fragments that are rendered. */
async function open(environment, count) {
  const query = artifact('ProjectsQuery');
  const operation = createOperationDescriptor(query, { count });
  environment.retain(operation);
  await fetchQuery(environment, query, { count }).toPromise();
  const read = (fragment, ref) => environment.lookup(getSingularSelector(artifact(fragment), ref)).data;
  const list = () => read('Projects_list', environment.lookup(operation.fragment).data).projects;
  const projects = () => list().edges.map(({ node }) => read('Projects_project', node));
  return { list, projects, read };
}

test('pages are fetched one after the other and read as one list', async (t) => {
  for (const key of ['AA', 'BB', 'CC', 'DD', 'EE']) await ada.createProject(key);
  const environment = environmentOf(t);
  const { list, projects } = await open(environment, 2);
  const keys = [projects().map(({ key }) => key)];
  while (list().pageInfo.hasNextPage) {
    const page = { count: 2, cursor: list().pageInfo.endCursor };
    await fetchQuery(environment, artifact('ProjectsPaginationQuery'), page).toPromise();
    keys.push(projects().map(({ key }) => key));
  }
  assert.deepEqual(keys, [
    ['AA', 'BB'],
    ['AA', 'BB', 'CC', 'DD'],
    ['AA', 'BB', 'CC', 'DD', 'EE'],
  ]);
});

test('one object is fetched again by its global id', async (t) => {
  const environment = environmentOf(t);
  const { list, projects, read } = await open(environment, 1);
  const [{ node }] = list().edges;
  await ada.renameProject(node.id, 'Another name');
  assert.equal(projects()[0].name, 'Project AA');
  await fetchQuery(environment, artifact('ProjectsProjectRefetchQuery'), { id: node.id }).toPromise();
  assert.equal(projects()[0].name, 'Another name');
  assert.equal(read('Projects_owner', projects()[0].owner).user.name, 'Relay Owner');
});

test('a mutation and a live query change what is rendered', async (t) => {
  const environment = environmentOf(t);
  const { list, projects } = await open(environment, 1);
  const [{ node }] = list().edges;
  const live = answers({
    subscribe: ({ next, error, complete }) => {
      const config = { subscription: artifact('ProjectsLiveSubscription'), variables: { id: node.id } };
      const heard = { onNext: next, onError: error, onCompleted: complete };
      const { dispose } = requestSubscription(environment, { ...config, ...heard });
      return { unsubscribe: dispose };
    },
  });
  await live.next();
  await new Promise((onCompleted, onError) => {
    const variables = { input: { id: node.id, name: 'By mutation' } };
    commitMutation(environment, { mutation: artifact('ProjectsRenameMutation'), variables, onCompleted, onError });
  });
  assert.equal(projects()[0].name, 'By mutation');
  await live.next();
  await ada.renameProject(node.id, 'By somebody else');
  await live.next();
  assert.equal(projects()[0].name, 'By somebody else');
  live.end();
});
