// A page of a React application: the projects of an organisation, a page at a time, and one of them fetched again.

import { useCallback } from 'react';
import { graphql, useFragment, useLazyLoadQuery, usePaginationFragment, useRefetchableFragment } from 'react-relay';

export default function Projects() {
  const query = useLazyLoadQuery(
    graphql`
      query ProjectsQuery($count: Int!, $cursor: String) {
        ...Projects_list @arguments(count: $count, cursor: $cursor)
      }
    `,
    { count: 2 },
  );
  const { data, loadNext, hasNext } = usePaginationFragment(
    graphql`
      fragment Projects_list on Query
      @argumentDefinitions(count: { type: "Int", defaultValue: 2 }, cursor: { type: "String" })
      @refetchable(queryName: "ProjectsPaginationQuery") {
        projects(first: $count, after: $cursor) @connection(key: "Projects_projects") {
          edges {
            node {
              id
              ...Projects_project
            }
          }
        }
      }
    `,
    query,
  );
  const more = useCallback(() => loadNext(2), [loadNext]);
  const lines = data.projects?.edges.map(({ node }) => <Project key={node.id} project={node} />);
  return [lines, hasNext && <button onClick={more}>More</button>];
}

function Project({ project }) {
  const [data, refetch] = useRefetchableFragment(
    graphql`
      fragment Projects_project on Project @refetchable(queryName: "ProjectsProjectRefetchQuery") {
        key
        name
        version
        owner {
          ...Projects_owner
        }
      }
    `,
    project,
  );
  return (
    <li onClick={() => refetch({}, { fetchPolicy: 'network-only' })}>
      {data.key}: {data.name} {data.owner && <Owner member={data.owner} />}
    </li>
  );
}

function Owner({ member }) {
  const data = useFragment(
    graphql`
      fragment Projects_owner on Member {
        user {
          name
        }
      }
    `,
    member,
  );
  return data.user.name;
}

export const rename = graphql`
  mutation ProjectsRenameMutation($input: ProjectUpdateInput!) {
    projectUpdate(input: $input) {
      project {
        ...Projects_project
      }
      userErrors {
        code
        message
      }
    }
  }
`;

export const live = graphql`
  subscription ProjectsLiveSubscription($id: ID!) {
    live {
      project(id: $id) {
        ...Projects_project
      }
    }
  }
`;
