//! The GraphQL face: one file per module with its inputs, payloads and parts of Query, Mutation and Subscription.
//!
//! No rule stands here: an input is parsed and becomes a command, a query asks the reader. Permissions are declared
//! on the fields and checked in `access.rs`. Nothing here knows a transport.

pub mod access;
mod access_log;
pub mod api_keys;
mod contents;
#[cfg(test)]
mod contract;
pub mod cost;
pub mod data_exports;
pub mod documents;
pub mod endpoint;
pub mod erasures;
pub mod events;
pub mod identities;
pub mod identity_providers;
pub mod installation;
pub mod members;
pub mod nodes;
pub mod organizations;
pub mod passwords;
pub mod past;
mod payload;
#[cfg(test)]
mod permissions;
pub mod persisted_operations;
pub mod policies;
pub mod projects;
pub mod retention;
pub mod roles;
pub mod search;
pub mod security_events;
pub mod services;
pub mod sessions;
#[cfg(test)]
mod statements;
pub mod system;
#[cfg(test)]
mod testing;
pub mod tokens;
mod types;
pub mod uploads;
pub mod users;
pub mod validation;

use async_graphql::{MergedObject, MergedSubscription, Schema, SchemaBuilder};

use crate::access::Operation;

macro_rules! modules {
    (queries: $($query:ty),+; mutations: $($mutation:ty),+; subscriptions: $($subscription:ty),+ $(;)?) => {
        /// Everything that can be asked.
        #[derive(MergedObject, Default)]
        pub struct Query($($query),+);

        /// Everything that can be done. Each field is nullable: a failure of one never erases the answer of another
        /// that is already committed.
        #[derive(MergedObject, Default)]
        pub struct Mutation($($mutation),+);

        /// Everything that can be followed, over WebSocket (`graphql-transport-ws`) or server-sent events.
        #[derive(MergedSubscription, Default)]
        pub struct Subscription($($subscription),+);

        /// Every operation and who may call it.
        pub fn operations() -> Vec<&'static Operation> {
            [$(<$query>::OPERATIONS),+, $(<$mutation>::OPERATIONS),+, $(<$subscription>::OPERATIONS),+]
                .into_iter()
                .flatten()
                .collect()
        }
    };
}

modules! {
    queries:
        sessions::SessionQuery,
        organizations::OrganizationQuery,
        members::MemberQuery,
        projects::ProjectQuery,
        documents::DocumentQuery,
        persisted_operations::PersistedOperationQuery,
        roles::RoleQuery,
        api_keys::ApiKeyQuery,
        identity_providers::IdentityProviderQuery,
        events::EventQuery,
        past::PastQuery,
        system::SystemQuery,
        erasures::ErasureQuery,
        data_exports::DataExportQuery,
        access_log::AccessLogQuery,
        policies::PolicyQuery,
        installation::InstallationQuery,
        security_events::SecurityEventQuery,
        retention::RetentionQuery,
        nodes::NodeQuery,
        search::SearchQuery;
    mutations:
        users::UserMutation,
        users::addresses::AddressMutation,
        users::second_factor::SecondFactorMutation,
        users::passkeys::PasskeyMutation,
        users::preferences::PreferencesMutation,
        sessions::SessionMutation,
        tokens::TokenMutation,
        organizations::OrganizationMutation,
        members::MemberMutation,
        projects::ProjectMutation,
        documents::DocumentMutation,
        persisted_operations::PersistedOperationMutation,
        roles::RoleMutation,
        api_keys::ApiKeyMutation,
        identity_providers::IdentityProviderMutation,
        identities::IdentityMutation,
        system::SystemMutation,
        erasures::ErasureMutation,
        data_exports::DataExportMutation,
        policies::PolicyMutation,
        installation::InstallationMutation,
        security_events::SecurityEventMutation,
        retention::RetentionMutation,
        system::keys::MasterKeyMutation,
        system::cache::CacheMutation;
    subscriptions:
        events::LiveSubscription,
        events::EventSubscription;
}

/// The schema.
pub type OrielSchema = Schema<Query, Mutation, Subscription>;

/// The schema, to be finished with its services.
pub fn schema() -> SchemaBuilder<Query, Mutation, Subscription> {
    let moment = "A moment as RFC 3339 writes it, such as `2026-02-03T04:05:06.789012Z`, to the microsecond. Answers are \
                  in UTC;\ninputs may have an offset.";
    Schema::build(Query::default(), Mutation::default(), Subscription::default())
        .override_output_type_description::<chrono::DateTime<chrono::Utc>>(moment)
}

/// The contract as SDL, as it stands in `graphql.schema`.
pub fn sdl() -> String {
    schema().finish().sdl_with_options(
        async_graphql::SDLExportOptions::new().sorted_fields().sorted_enum_items().include_specified_by(),
    )
}
