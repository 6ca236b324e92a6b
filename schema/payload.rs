//! Payloads of mutations: the object named by its aggregate, what a person can mend, and the position.

/// Declares payload types: `payloads! { /// What it says. ProjectPayload { /// The project. project: projects::Model } }`.
///
/// Each gets `userErrors` and `position`. All other fields are null when there are user errors.
macro_rules! payloads {
    ($($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty),* $(,)? })+) => {$(
        $(#[$doc])*
        #[derive(async_graphql::SimpleObject)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: Option<$type>,)*
            /// What has to be mended before this can be done; empty when it was done.
            pub user_errors: Vec<oriel_kernel::UserError>,
            /// Where in the log it is: a later request that sends it back (`Oriel-At-Least`) sees at least this.
            pub position: Option<oriel_kernel::Position>,
        }

        impl crate::access::Payload for $name {
            fn rejected(user_errors: Vec<oriel_kernel::UserError>) -> Self {
                Self { $($field: None,)* user_errors, position: None }
            }
        }
    )+};
}

pub(crate) use payloads;
