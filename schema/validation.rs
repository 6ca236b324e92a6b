//! Whether a document fits the schema, found out without executing anything of it.

use std::sync::{Arc, LazyLock};

use async_graphql::extensions::{Extension, ExtensionContext, ExtensionFactory, NextExecute};
use async_graphql::parser::types::ExecutableDocument;
use async_graphql::{Request, Response, ServerError, Value};

use crate::OrielSchema;

/// A copy of the schema that ends before the execution begins: there is no other way to its validation.
static CHECKED_ONLY: LazyLock<OrielSchema> = LazyLock::new(|| crate::schema().extension(NotExecuted).finish());

/// What begins a suggestion, in the words of the validation.
const SUGGESTION: &str = " Did you mean \"";

/// Stands in a request of somebody who may not see the schema.
#[derive(Clone, Copy, Debug)]
pub struct SchemaIsHidden;

/// What is wrong, without what it suggests: that is a name of the schema which was not sent.
pub fn without_suggestion(mut message: String) -> String {
    message.truncate(message.find(SUGGESTION).unwrap_or(message.len()));
    message
}

struct NotExecuted;

impl ExtensionFactory for NotExecuted {
    fn create(&self) -> Arc<dyn Extension> {
        Arc::new(Self)
    }
}

#[async_trait::async_trait]
impl Extension for NotExecuted {
    async fn execute(&self, _: &ExtensionContext<'_>, _: Option<&str>, _: NextExecute<'_>) -> Response {
        Response::new(Value::Null)
    }
}

/// Validates a document.
///
/// # Errors
/// Everything in it that does not fit.
pub async fn validate(document: ExecutableDocument) -> Result<(), Vec<ServerError>> {
    let mut request = Request::new(String::new());
    // One of several has to be chosen; the whole document is validated whichever it is.
    request.operation_name = document.operations.iter().find_map(|(name, _)| name.map(ToString::to_string));
    request.set_parsed_query(document);
    let errors = CHECKED_ONLY.execute(request).await.errors;
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use async_graphql::parser::parse_query;

    use super::*;

    #[tokio::test]
    async fn what_fits_is_not_executed_and_what_does_not_is_named() {
        for fits in [
            "{ __typename }",
            "query P($id: ID!) { project(id: $id) { ...F } } fragment F on Project { name }",
            "mutation M($input: LoginInput!) { login(input: $input) { accessToken } }",
            "mutation { logout { position } }",
            "subscription { live { projects { totalCount } } }",
            "query A { __typename } query B { viewer { permissions } }",
        ] {
            validate(parse_query(fits).unwrap()).await.unwrap_or_else(|errors| panic!("{fits}: {errors:?}"));
        }
        for (wrong, names) in [
            ("{ nothingLikeThis }", "nothingLikeThis"),
            ("{ projects { nodes } }", "nodes"),
            ("query($id: ID!) { __typename }", "id"),
            ("mutation { projectCreate(input: {key: \"A\"}) { position } }", "name"),
            ("subscription { live { projects { what } } }", "what"),
            ("query A { __typename } query B { nothingLikeThis }", "nothingLikeThis"),
        ] {
            let errors = validate(parse_query(wrong).unwrap()).await.unwrap_err();
            assert!(errors.iter().any(|error| error.message.contains(names)), "{wrong}: {errors:?}");
        }
    }
}
