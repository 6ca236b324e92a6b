"""gql, the client of Python: queries, uploads, and live queries over WebSocket.

Run by ../gql.test.js, which starts the server: ORIEL_ENDPOINT and ORIEL_TOKEN say where and as whom."""

import hashlib
import io
import os
import unittest
from pathlib import Path

from gql import Client, FileVar, GraphQLRequest, gql
from gql.transport.aiohttp import AIOHTTPTransport
from gql.transport.exceptions import TransportQueryError
from gql.transport.websockets import WebsocketsTransport

ENDPOINT = os.environ["ORIEL_ENDPOINT"]
HEADERS = {"Authorization": f"Bearer {os.environ['ORIEL_TOKEN']}"}
CONTRACT = (Path(__file__).parents[3] / "graphql.schema").read_text(encoding="utf-8")

CREATE = gql("mutation ($input: ProjectCreateInput!) { projectCreate(input: $input) { project { id } } }")
RENAME = gql("mutation ($input: ProjectUpdateInput!) { projectUpdate(input: $input) { project { name } } }")
UPLOAD = gql(
    """
    mutation ($input: DocumentUploadInput!) {
      documentUpload(input: $input) { document { title size sha256 } userErrors { message } }
    }
    """
)


def http(**headers: str) -> Client:
    """A client that checks its documents against the contract before it sends them."""
    return Client(schema=CONTRACT, transport=AIOHTTPTransport(url=ENDPOINT, headers={**HEADERS, **headers}))


async def create(session, key: str) -> str:
    request = GraphQLRequest(CREATE, variable_values={"input": {"key": key, "name": "One"}})
    return (await session.execute(request))["projectCreate"]["project"]["id"]


class GqlClient(unittest.IsolatedAsyncioTestCase):
    async def test_a_query_and_a_mutation(self):
        async with http() as session:
            project = await create(session, "PY")
            asked = await session.execute(gql("{ projects(filter: {key: {eq: \"PY\"}}) { nodes { id name } } }"))
        self.assertEqual(asked, {"projects": {"nodes": [{"id": project, "name": "One"}]}})

    async def test_the_schema_that_is_introspected_is_the_contract(self):
        transport = AIOHTTPTransport(url=ENDPOINT, headers=HEADERS)
        async with Client(transport=transport, fetch_schema_from_transport=True) as session:
            introspected = session.client.schema
        self.assertEqual(set(introspected.type_map), set(http().schema.type_map))

    async def test_an_error_has_a_code(self):
        async with Client(transport=AIOHTTPTransport(url=ENDPOINT)) as session:
            with self.assertRaises(TransportQueryError) as refused:
                await session.execute(gql("{ projects { totalCount } }"))
        self.assertEqual(refused.exception.errors[0]["extensions"]["code"], "UNAUTHENTICATED")

    async def test_a_file_is_uploaded(self):
        content = b"# A snake\n\nIt bites its own tail.\n"
        async with http(**{"GraphQL-Require-Preflight": "1"}) as session:
            project = await create(session, "FILES")
            file = FileVar(io.BytesIO(content), filename="snake.md", content_type="text/markdown")
            request = GraphQLRequest(UPLOAD, variable_values={"input": {"projectId": project, "file": file}})
            uploaded = (await session.execute(request, upload_files=True))["documentUpload"]
        self.assertEqual(uploaded["userErrors"], [])
        self.assertEqual(
            uploaded["document"],
            {"title": "snake", "size": len(content), "sha256": hashlib.sha256(content).hexdigest()},
        )

    async def test_a_live_query_over_websocket(self):
        live = gql("subscription ($id: ID!) { live { project(id: $id) { name } } }")
        socket = WebsocketsTransport(
            url=ENDPOINT.replace("http", "ws", 1),
            init_payload=HEADERS,
            subprotocols=[WebsocketsTransport.GRAPHQLWS_SUBPROTOCOL],
        )
        names = []
        async with http() as session, Client(transport=socket) as following:
            project = await create(session, "SOCKET")
            async for answer in following.subscribe(GraphQLRequest(live, variable_values={"id": project})):
                names.append(answer["live"]["project"]["name"])
                if len(names) == 2:
                    break
                change = {"input": {"id": project, "name": "Two"}}
                await session.execute(GraphQLRequest(RENAME, variable_values=change))
        self.assertEqual(names, ["One", "Two"])


if __name__ == "__main__":
    unittest.main()
