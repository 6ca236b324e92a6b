//! Data exports: everything that is held about a person, for that person.
//!
//! Invariants: a person asks for themselves; an operator may ask for anybody, and sees nothing of it.

use std::sync::Arc;

use async_graphql::{Context, InputObject};
use oriel_domain::data_exports::{DataExportId, DiscardExport, RequestExport};
use oriel_engine::read::{Connection, PageArgs};
use oriel_kernel::{OrganizationId, Permission, Rejection, UserId, operations};
use oriel_read_models::data_exports::Model as DataExport;
use oriel_read_models::sign_in;

use crate::access::{after_write, reader, unavailable};
use crate::payload::payloads;
use crate::services::Services;

/// What can be asked about data exports.
#[derive(Default)]
pub struct DataExportQuery;

/// What can be done with data exports.
#[derive(Default)]
pub struct DataExportMutation;

payloads! {
    /// What became of a data export.
    DataExportPayload {
        /// The data export, if it is about you.
        data_export: Arc<DataExport>,
    }
}

#[operations(query)]
impl DataExportQuery {
    /// The data export with this id; null when there is none about you.
    #[signed_in]
    async fn data_export(&self, cx: &Context<'_>, id: DataExportId) -> crate::access::Result<Option<Arc<DataExport>>> {
        granted.in_person()?;
        Ok(reader(cx)?.get(id).await?)
    }

    /// Your data exports, the oldest first: what is held about you, as files.
    #[signed_in]
    async fn data_exports(
        &self,
        cx: &Context<'_>,
        #[graphql(desc = "How many, from the beginning; at most 100.")] first: Option<i32>,
        #[graphql(desc = "Only what comes after this cursor.")] after: Option<String>,
        #[graphql(desc = "How many, from the end; at most 100.")] last: Option<i32>,
        #[graphql(desc = "Only what comes before this cursor.")] before: Option<String>,
    ) -> crate::access::Result<Connection<DataExport>> {
        granted.in_person()?;
        let reader = reader(cx)?;
        let yours = DataExport::in_user(reader.viewer().user);
        Ok(reader.page(yours, PageArgs::new(first, after, last, before), None, None)?)
    }
}

#[operations(mutation)]
impl DataExportMutation {
    /// Has everything gathered that is held about you: your profile, memberships, sessions, keys, what you uploaded (as
    /// a list), and every event that you caused or that says something about you. Watch `dataExport` until it is ready;
    /// a letter says so too. It can be downloaded for 7 days, by you alone. One export at a time. The operator of the
    /// installation may ask for it for anybody, and does not see it.
    #[signed_in]
    async fn data_export_request(
        &self,
        cx: &Context<'_>,
        input: DataExportRequestInput,
    ) -> crate::access::Result<DataExportPayload> {
        let engine = &Services::of(cx)?.engine;
        let mut context = granted.command(cx, &input)?;
        let viewer = granted.viewer()?;
        let user = input.user_id.unwrap_or(viewer.user);
        if user == viewer.user {
            // It has what is held in every organisation.
            granted.in_person()?;
        } else {
            let row = sign_in::user(engine.database().reader(), user).await.map_err(unavailable)?;
            let is_there = row.is_some_and(|row| row.email.is_some());
            if !is_there || viewer.grant(Permission::new("system", "manage")).is_none() {
                return Err(Rejection::not_found("user").at("userId").into());
            }
        }
        // A person belongs to the installation.
        context.organization = OrganizationId::ABSENT;
        let done = engine.execute(&context, engine.new_id(), RequestExport { user }).await?;
        let data_export = after_write::<DataExport>(cx, done.subject).await?;
        Ok(DataExportPayload { data_export, user_errors: Vec::new(), position: Some(done.position) })
    }

    /// Ends a data export of yours: its file goes, and another can be asked for.
    #[signed_in]
    async fn data_export_discard(
        &self,
        cx: &Context<'_>,
        input: DataExportDiscardInput,
    ) -> crate::access::Result<DataExportPayload> {
        let engine = &Services::of(cx)?.engine;
        let mut context = granted.command(cx, &input)?;
        context.organization = OrganizationId::ABSENT;
        let by = granted.in_person()?.user;
        let done = engine.execute(&context, input.id, DiscardExport { by }).await?;
        let data_export = after_write::<DataExport>(cx, done.subject).await?;
        Ok(DataExportPayload { data_export, user_errors: Vec::new(), position: Some(done.position) })
    }
}

/// A data export that is wanted.
#[derive(InputObject)]
struct DataExportRequestInput {
    /// About whom, for the operator of the installation. Left out: you.
    user_id: Option<UserId>,
    /// Makes a retry safe: the same key gives the same answer and one write. Kept for 7 days.
    idempotency_key: Option<String>,
}

/// A data export that is not wanted any more.
#[derive(InputObject)]
struct DataExportDiscardInput {
    /// Which one.
    id: DataExportId,
    /// Refuse the change unless this is the version now.
    expected_version: Option<i32>,
    /// Makes a retry safe: the same key gives the same answer and one write. Kept for 7 days.
    idempotency_key: Option<String>,
}
