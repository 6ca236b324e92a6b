"""What schemathesis is told about Oriel: values for its scalars, and what no answer may be.

Run by ../schemathesis.test.js; ORIEL_IDS has ids of things that exist, for requests that find something."""

import os
import re

import schemathesis
from hypothesis import strategies as st
from schemathesis.graphql import nodes, scalar

text = st.text(max_size=40)
ids = st.one_of(st.sampled_from(os.environ["ORIEL_IDS"].split(",")), text)

scalar("ID", ids.map(nodes.String))
scalar("Position", st.one_of(st.integers(0, 2**64).map(str), text).map(nodes.String))
scalar("ByteSize", st.integers(-1, 2**53).map(nodes.Int))
scalar("DateTime", st.one_of(st.datetimes().map(lambda moment: moment.isoformat() + "Z"), text).map(nodes.String))
# As text: objects need names that GraphQL allows.
scalar("JSON", st.one_of(text, ids).map(nodes.String))
scalar("Upload", text.map(nodes.String))

# A name of ours or of what we stand on, a place in a source file, a statement: nothing that a client can use.
INTERNAL = re.compile(
    r"panicked|\.rs:\d|oriel_[a-z]|sea_orm|sqlx|rusqlite|tantivy|tokio|SQLITE_|no such (table|column)"
    r"|\b(SELECT|INSERT INTO|UPDATE|DELETE FROM) |database is locked|RUST_BACKTRACE|/tmp/|::[a-z_]+::",
    re.IGNORECASE,
)


@schemathesis.check
def an_answer_that_a_client_can_use(ctx, response, case):
    """Whatever was sent, the answer is GraphQL, has codes, and says nothing of the inside."""
    assert response.status_code < 500, f"status {response.status_code}: {response.text}"
    answer = response.json()
    assert isinstance(answer, dict) and ("data" in answer or "errors" in answer), response.text
    for error in answer.get("errors", []):
        code = error["extensions"]["code"]
        assert code != "INTERNAL", error
        # What was sent may be repeated: only words of our own count.
        said = INTERNAL.search(error["message"])
        assert not said or said.group() in case.body, error
