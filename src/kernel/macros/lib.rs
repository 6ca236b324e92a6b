//! What nobody should have to write for an aggregate: the plumbing of events, of read models and of operations.
//!
//! The macros write only what follows from the declaration; there is no decision in them.

mod event;
mod operations;
mod read_model;

use proc_macro::TokenStream;

/// Derives [`oriel_kernel::Event`] for an enum of named-field (or unit) variants.
///
/// `#[event(stream = "project")]` on the enum names the stream. `#[event("project_renamed")]` on a variant names its
/// type; `#[event("project_renamed", version = 2, upcast = rename_v1_to_v2)]` says that version 2 is written, and
/// that `fn(serde_json::Value) -> serde_json::Value` lifts version 1. Further versions repeat `upcast`, oldest first.
/// Fields of type `Personal<…>` and `Option<Personal<…>>` are sealed in the log.
#[proc_macro_derive(Event, attributes(event))]
pub fn derive_event(input: TokenStream) -> TokenStream {
    event::derive(syn::parse_macro_input!(input)).unwrap_or_else(syn::Error::into_compile_error).into()
}

/// Turns an `impl` block into a part of the Query or Mutation root: `#[operations(query)]`, `#[operations(mutation)]`.
///
/// Every method declares who may call it: `#[permission("projects:create")]`, `#[signed_in]` or `#[public]`; one that
/// does not is a compile error. The declaration is checked before the body runs, stands in the last line of the
/// field's description, and is listed in `OPERATIONS`. Methods answer `Result`; the field becomes nullable, so that
/// one failure never erases another's answer.
#[proc_macro_attribute]
pub fn operations(args: TokenStream, input: TokenStream) -> TokenStream {
    operations::expand(args.into(), syn::parse_macro_input!(input))
        .unwrap_or_else(syn::Error::into_compile_error)
        .into()
}

/// Derives the engine's `ReadModel` for a SeaORM entity model that is also a GraphQL object. See
/// `oriel_engine::read` for what the attributes mean.
#[proc_macro_derive(ReadModel, attributes(read_model))]
pub fn derive_read_model(input: TokenStream) -> TokenStream {
    read_model::derive(syn::parse_macro_input!(input)).unwrap_or_else(syn::Error::into_compile_error).into()
}
