//! The GraphQL face: one file per module with its inputs, payloads and parts of Query, Mutation and Subscription.
//!
//! No rule stands here: an input is parsed and becomes a command, a query asks the reader. Permissions are declared
//! on the fields and checked in `access.rs`. Nothing here knows a transport.

pub mod access;
mod contents;
pub mod endpoint;
mod payload;
pub mod projects;
pub mod services;
pub mod tokens;
pub mod uploads;

use async_graphql::{EmptySubscription, MergedObject, Schema, SchemaBuilder};

use crate::access::Operation;

macro_rules! modules {
    (queries: $($query:ty),+; mutations: $($mutation:ty),+ $(;)?) => {
        /// Everything that can be asked.
        #[derive(MergedObject, Default)]
        pub struct Query($($query),+);

        /// Everything that can be done. Each field is nullable: a failure of one never erases the answer of another
        /// that is already committed.
        #[derive(MergedObject, Default)]
        pub struct Mutation($($mutation),+);

        /// Every operation and who may call it.
        pub fn operations() -> Vec<&'static Operation> {
            [$(<$query>::OPERATIONS),+, $(<$mutation>::OPERATIONS),+].into_iter().flatten().collect()
        }
    };
}

modules! {
    queries: projects::ProjectQuery;
    mutations: projects::ProjectMutation;
}

/// The schema.
pub type OrielSchema = Schema<Query, Mutation, EmptySubscription>;

/// The schema, to be finished with its services.
pub fn schema() -> SchemaBuilder<Query, Mutation, EmptySubscription> {
    Schema::build(Query::default(), Mutation::default(), EmptySubscription)
}

/// The contract as SDL, as it stands in `graphql.schema`.
pub fn sdl() -> String {
    schema().finish().sdl_with_options(async_graphql::SDLExportOptions::new().sorted_fields().sorted_enum_items())
}
