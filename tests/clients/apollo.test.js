// Apollo Client 4: queries, mutations, GET, persisted queries, uploads, its normalised cache, and subscriptions over
// its multipart protocol.

import { ApolloClient, ApolloLink, gql, HttpLink, InMemoryCache } from '@apollo/client';
import { createPersistedQueryLink } from '@apollo/client/link/persisted-queries';
import { GraphQLWsLink } from '@apollo/client/link/subscriptions';
import UploadHttpLink from 'apollo-upload-client/UploadHttpLink.mjs';
import { buildSchema, isAbstractType } from 'graphql';
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { after, before, test } from 'node:test';
import { createClient as webSocket } from 'graphql-ws';
import WebSocket from 'ws';

import { answers } from './support/answers.js';
import { Server } from './support/server.js';

let server;
let ada;
let project;
before(async () => {
  server = await Server.start();
  ada = await server.register('Apollo');
  project = await ada.createProject('MOON', 'Moon');
});
after(() => server?.stop());

const contract = buildSchema(readFileSync(new URL('../../graphql.schema', import.meta.url), 'utf8'));
/** Which objects an interface or a union stands for: what Apollo's cache has to be told. */
const possibleTypes = Object.fromEntries(
  Object.values(contract.getTypeMap())
    .filter(isAbstractType)
    .map((type) => [type.name, contract.getPossibleTypes(type).map(({ name }) => name)]),
);

const clientOf = (link) => new ApolloClient({ link, cache: new InMemoryCache({ possibleTypes }) });

/** A `fetch` that notes what goes out. */
function noting(sent) {
  return (url, options) => {
    sent.push({ method: options.method, body: options.body && JSON.parse(options.body), url: new URL(url) });
    return fetch(url, options);
  };
}

const http = (options = {}) => new HttpLink({ uri: server.endpoint, headers: ada.headers, ...options });

const PROJECT = gql`
  query Project($id: ID!) {
    project(id: $id) {
      id
      key
      name
    }
  }
`;

test('a query and a mutation meet in the normalised cache', async () => {
  const client = clientOf(http());
  const asked = await client.query({ query: PROJECT, variables: { id: project } });
  assert.equal(asked.data.project.name, 'Moon');

  const renamed = await client.mutate({
    mutation: gql`
      mutation Rename($input: ProjectUpdateInput!) {
        projectUpdate(input: $input) {
          project {
            id
            name
          }
          userErrors {
            message
          }
        }
      }
    `,
    variables: { input: { id: project, name: 'Full Moon' } },
  });
  assert.deepEqual(renamed.data.projectUpdate.userErrors, []);
  // The payload holds the object with its id: the cache is right without asking again.
  assert.equal(client.readQuery({ query: PROJECT, variables: { id: project } }).project.name, 'Full Moon');
});

test('a field that fails is an error with a code and a path, and its neighbours are there', async () => {
  const client = clientOf(http({ headers: {} }));
  const { data, error } = await client.query({
    query: gql`
      query Beside {
        __typename
        viewer {
          user {
            id
          }
        }
        projects {
          totalCount
        }
      }
    `,
    errorPolicy: 'all',
  });
  assert.equal(data.__typename, 'Query');
  assert.equal(data.projects, null);
  assert.equal(error.errors[0].extensions.code, 'UNAUTHENTICATED');
  assert.deepEqual(error.errors[0].path, ['projects']);
});

test('queries travel by GET', async () => {
  const sent = [];
  const client = clientOf(http({ useGETForQueries: true, fetch: noting(sent) }));
  const { data } = await client.query({ query: PROJECT, variables: { id: project } });
  assert.equal(data.project.id, project);
  assert.deepEqual([sent.length, sent[0].method], [1, 'GET']);
});

for (const useGETForHashedQueries of [false, true]) {
  test(`a persisted query is sent as its hash, by ${useGETForHashedQueries ? 'GET' : 'POST'}`, async () => {
    const sent = [];
    const sha256 = (text) => createHash('sha256').update(text).digest('hex');
    const link = createPersistedQueryLink({ sha256, useGETForHashedQueries });
    const client = clientOf(ApolloLink.from([link, http({ fetch: noting(sent) })]));
    // Each run has a document of its own, which the server does not know yet.
    const name = useGETForHashedQueries ? 'PersistedGet' : 'PersistedPost';
    const query = gql(`query ${name}($id: ID!) { project(id: $id) { id key } }`);
    const ask = () => client.query({ query, variables: { id: project }, fetchPolicy: 'network-only' });

    assert.equal((await ask()).data.project.key, 'MOON');
    assert.equal((await ask()).data.project.key, 'MOON');
    const withQuery = sent.map(({ body, url }) => Boolean(body?.query ?? url.searchParams.get('query')));
    assert.deepEqual(withQuery, [false, true, false], 'the hash, the document once, and the hash from then on');
    assert.equal(sent.at(-1).method, useGETForHashedQueries ? 'GET' : 'POST');
  });
}

test('a file is uploaded', async () => {
  const link = new UploadHttpLink({
    uri: server.endpoint,
    headers: { ...ada.headers, 'GraphQL-Require-Preflight': '1' },
  });
  const content = '# Sea of Tranquillity\n\nMagnificent desolation.\n';
  const { data } = await clientOf(link).mutate({
    mutation: gql`
      mutation Upload($input: DocumentUploadInput!) {
        documentUpload(input: $input) {
          document {
            id
            title
            size
            sha256
          }
          userErrors {
            message
          }
        }
      }
    `,
    variables: { input: { projectId: project, file: new File([content], 'tranquillity.md') } },
  });
  const { document, userErrors } = data.documentUpload;
  assert.deepEqual(userErrors, []);
  assert.equal(document.title, 'tranquillity');
  assert.equal(document.size, content.length);
  assert.equal(document.sha256, createHash('sha256').update(content).digest('hex'));
});

test('an upload without the header is refused, and says which header', async () => {
  const link = new UploadHttpLink({ uri: server.endpoint, headers: ada.headers });
  const refused = clientOf(link).mutate({
    mutation: gql`
      mutation Upload($input: DocumentUploadInput!) {
        documentUpload(input: $input) {
          position
        }
      }
    `,
    variables: { input: { projectId: project, file: new File(['x'], 'x.txt') } },
  });
  const says = ({ statusCode, bodyText }) => statusCode === 400 && /GraphQL-Require-Preflight/.test(bodyText);
  await assert.rejects(refused, says);
});

const links = {
  WebSocket: () => {
    const options = { url: server.socket, connectionParams: ada.headers, webSocketImpl: WebSocket };
    return new GraphQLWsLink(webSocket(options));
  },
  multipart: () => http(),
};
for (const [transport, link] of Object.entries(links)) {
  test(`a live query over ${transport} keeps the normalised cache true`, async () => {
    const client = clientOf(link());
    const live = gql`
      subscription Live($id: ID!) {
        live {
          project(id: $id) {
            id
            key
            name
          }
        }
      }
    `;
    const moon = await ada.createProject(transport.toUpperCase(), 'New Moon');
    // `live` returns the root of queries, so that what it says answers every query for the same, without a request.
    const cached = () => client.readQuery({ query: PROJECT, variables: { id: moon } })?.project.name;
    const stream = answers(client.subscribe({ query: live, variables: { id: moon } }));
    assert.equal((await stream.next()).data?.live.project.name, 'New Moon');
    assert.equal(cached(), 'New Moon');

    await ada.renameProject(moon, 'Half Moon');
    assert.equal((await stream.next()).data?.live.project.name, 'Half Moon');
    assert.equal(cached(), 'Half Moon');
    stream.end();
    client.stop();
  });
}

test('a subscription that is refused over multipart says why', async () => {
  const client = clientOf(http({ headers: {} }));
  const stream = answers(client.subscribe({ query: gql`subscription { events { position } }` }));
  const { error } = await stream.next();
  assert.match(JSON.stringify(error), /UNAUTHENTICATED/);
  stream.end();
});
