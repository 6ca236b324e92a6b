// A program of a partner, in types that were generated from the contract. It is compiled, not run: each line marked
// `@ts-expect-error` has to be wrong, which shows that the types say something.

import { Client } from '@urql/core';

import { graphql, useFragment } from './__generated__/index.js';

const line = graphql(`
  fragment Line on Document {
    id
    title
    size
    status
    tags
    pageCount
  }
`);

const documents = graphql(`
  query Documents($project: ID!, $after: String, $filter: DocumentFilter) {
    project(id: $project) {
      documents(first: 50, after: $after, filter: $filter, orderBy: [{ field: UPDATED_AT, direction: DESC }]) {
        totalCount
        pageInfo {
          hasNextPage
          endCursor
        }
        nodes {
          ...Line
        }
      }
    }
  }
`);

const upload = graphql(`
  mutation Upload($input: DocumentUploadInput!) {
    documentUpload(input: $input) {
      document {
        ...Line
      }
      position
      userErrors {
        code
        message
        path
      }
    }
  }
`);

const found = graphql(`
  query Found($query: String!) {
    search(query: $query) {
      edges {
        score
        node {
          __typename
          ... on Document {
            title
          }
          ... on Project {
            key
          }
        }
      }
    }
  }
`);

const events = graphql(`
  subscription Events($after: Position) {
    events(after: $after) {
      position
      sequence
      data
    }
  }
`);

/** The titles of a project's documents, in bytes and pages. */
export async function titles(client: Client, project: string): Promise<string[]> {
  const { data } = await client.query(documents, { project, filter: { status: { in: ['READY'] } } });
  // @ts-expect-error: the root can be null
  data?.project.documents;
  // @ts-expect-error: there is no such status
  await client.query(documents, { project, filter: { status: { eq: 'READ' } } });
  // @ts-expect-error: the project is needed
  await client.query(documents, {});
  const lines = useFragment(line, data?.project?.documents.nodes ?? []);
  const pages = (count?: number | null) => count?.toFixed() ?? 'no';
  return lines.map(({ title, size, pageCount }) => `${title}: ${size.toFixed()} bytes, ${pages(pageCount)} pages`);
}

/** Sends a file; what has to be mended, if anything. */
export async function send(client: Client, projectId: string, file: File): Promise<string | undefined> {
  const { data } = await client.mutation(upload, { input: { projectId, file, tags: ['new'] } });
  const [error] = data?.documentUpload?.userErrors ?? [];
  if (error?.code === 'TOO_LONG') return `shorten ${error.path?.join('.')}`;
  // @ts-expect-error: there is no such code
  if (error?.code === 'TOO_SHORT') return undefined;
  return error?.message;
}

/** What a search found, by its kind. */
export async function names(client: Client, query: string): Promise<string[]> {
  const { data } = await client.query(found, { query });
  return (data?.search?.edges ?? []).map(({ node }) => (node.__typename === 'Document' ? node.title : node.key));
}

/** Follows the log from a position. */
export function follow(client: Client, after: string, seen: (position: string, sequence: number) => void) {
  return client.subscription(events, { after }).subscribe(({ data }) => {
    // @ts-expect-error: what an event holds is its own affair
    data?.events.data.name;
    if (data) seen(data.events.position, data.events.sequence);
  });
}
