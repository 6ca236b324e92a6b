//! The read side: how read models are asked, the same for all of them.
//!
//! A read model is one struct, a table's row and a GraphQL object, with `#[derive(ReadModel)]`. From its declaration
//! come its filter, its order, its collections and its scope:
//!
//! ```ignore
//! /// A place for documents and people inside an organisation.
//! #[derive(Clone, Debug, PartialEq, DeriveEntityModel, SimpleObject, ReadModel)]
//! #[sea_orm(table_name = "projects")]
//! #[graphql(name = "Project")]
//! #[read_model(kind = "project", tenant = "organization_id", visible_by = "id", collections(org = "organization_id"))]
//! pub struct Model {
//!     #[sea_orm(primary_key, auto_increment = false)] pub id: ProjectId,
//!     #[graphql(skip)]              pub organization_id: OrganizationId,
//!     #[read_model(filter, order)]  pub name: String,
//! }
//! ```
//!
//! On the struct: `kind` names its rows in dependencies. Who sees a row is one of
//! `tenant = "column"` (the members of that organisation; with `visible_by = "column"` only those who see the part of
//! it that the column names), `owner = "column"` (that person alone), `scope = path` (a function of the viewer
//! and the dialect, for what is neither). `collections(project = "project_id")` says what it belongs to, and gives
//! `Model::in_project(id)`. `name` overrides `#[graphql(name = …)]`.
//!
//! On a field: `filter` and `order`. A type that is not one of the usual ones (text, numbers, ids, moments, sizes,
//! words) is taken for an enum; `filter, scalar` says that it has a [`Filterable`] of its own.
//!
//! Invariants: nothing is read without a viewer ([`Reader`]); what is not theirs looks absent; what an answer depends
//! on is recorded ([`Recorder`]); work is bounded ([`Limits`]).
//! Nothing here knows a product module, and nothing here writes.

mod dependency;
mod error;
mod filter;
mod keyset;
mod loader;
mod model;
mod page;
mod reader;
mod recorder;
mod scalar_filter;
#[cfg(test)]
mod tests;
mod values;

pub use dependency::Dependency;
pub use error::ReadError;
pub use filter::{Filter, Limits, Unfiltered, Within};
pub use keyset::{Sorting, Unordered};
pub use model::{Collection, Column, Declared, Key, ReadModel};
pub use oriel_macros::ReadModel;
pub use page::{Connection, Edge, PageArgs, PageInfo};
pub use reader::{Reader, Source};
pub use recorder::{PathPart, Recorder, Stability};
pub use scalar_filter::{
    BooleanFilter, ByteSizeFilter, DateTimeFilter, EnumColumn, EnumFilter, Filterable, IdFilter, IntFilter, On,
    OrderDirection, StringFilter, TagsFilter,
};
pub use values::{ByteSize, Tags, among};
