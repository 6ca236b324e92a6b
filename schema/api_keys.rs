//! API keys: making one, giving it another secret, ending it.
//!
//! Invariants: a secret is in the one answer that it was made for and nowhere else: not in the log, not in a
//! repetition. Making and rotating are for a person; what a key may be given is decided in the domain.

use std::sync::Arc;
use std::time::Duration;

use async_graphql::{Context, InputObject, MaybeUndefined};
use oriel_domain::api_keys::{ApiKeyId, ApiKeyName, CreateApiKey, RevokeApiKey, RotateApiKey, UpdateApiKey};
use oriel_engine::Committed;
use oriel_engine::read::{Connection, PageArgs};
use oriel_kernel::{ErrorCode, Rejection, Timestamp, operations};
use oriel_read_models::api_keys::{ApiKeyFilter, ApiKeyOrder, Column, Model as ApiKey, OperationsMode};
use sea_orm::ColumnTrait;

use crate::access::{Problems, Result, after_write, internal, reader};
use crate::payload::payloads;
use crate::roles::patterns;
use crate::services::Services;

pub mod secret;

use secret::Secret;

/// The most keys of one member that were not revoked.
pub const MAX_KEYS: u64 = 100;
/// How long an old secret is good beside the new one, unless it is said.
const OVERLAP_SECONDS: i32 = 24 * 3_600;

/// What can be asked about API keys.
#[derive(Default)]
pub struct ApiKeyQuery;

/// What can be done with API keys.
#[derive(Default)]
pub struct ApiKeyMutation;

payloads! {
    /// What became of making a key.
    ApiKeyCreatePayload {
        /// The key.
        api_key: Arc<ApiKey>,
        /// What the program sends, as `Authorization: Bearer orl_…`. It is shown this once; when the answer was lost,
        /// rotate the key. Null in a repetition.
        secret: String,
    }

    /// What became of a change of a key.
    ApiKeyUpdatePayload {
        /// The key as it is now.
        api_key: Arc<ApiKey>,
    }

    /// What became of giving a key another secret.
    ApiKeyRotatePayload {
        /// The key.
        api_key: Arc<ApiKey>,
        /// What the program sends from now on. It is shown this once. Null in a repetition.
        secret: String,
    }

    /// What became of ending a key.
    ApiKeyRevokePayload {
        /// The key, which is good for nothing any more.
        api_key: Arc<ApiKey>,
    }
}

#[operations(query)]
impl ApiKeyQuery {
    /// The API key with this id; null when there is none that you may see.
    #[permission("keys:view")]
    async fn api_key(&self, cx: &Context<'_>, id: ApiKeyId) -> Result<Option<Arc<ApiKey>>> {
        Ok(reader(cx)?.get(id).await?)
    }

    /// The API keys of your organization, or your own, those that were revoked included; the oldest first unless another
    /// order is asked for.
    #[permission("keys:view")]
    #[allow(clippy::too_many_arguments)]
    async fn api_keys(
        &self,
        cx: &Context<'_>,
        #[graphql(desc = "How many, from the beginning; at most 100.")] first: Option<i32>,
        #[graphql(desc = "Only what comes after this cursor.")] after: Option<String>,
        #[graphql(desc = "How many, from the end; at most 100.")] last: Option<i32>,
        #[graphql(desc = "Only what comes before this cursor.")] before: Option<String>,
        #[graphql(desc = "Only those for which this holds.")] filter: Option<ApiKeyFilter>,
        #[graphql(desc = "In which order.")] order_by: Option<Vec<ApiKeyOrder>>,
    ) -> Result<Connection<ApiKey>> {
        let reader = reader(cx)?;
        let all = ApiKey::in_org(reader.organization());
        Ok(reader.page(all, PageArgs::new(first, after, last, before), filter, order_by)?)
    }
}

#[operations(mutation)]
impl ApiKeyMutation {
    /// Makes a key with which a program acts on your behalf in this organization. It may do what its scopes and you
    /// yourself may at that moment, and what it does has the key as its author. Its secret is in this answer and
    /// nowhere else. Only a person makes keys, and keeps at most 100 that were not revoked.
    #[permission("keys:create")]
    async fn api_key_create(&self, cx: &Context<'_>, input: ApiKeyCreateInput) -> Result<ApiKeyCreatePayload> {
        let context = granted.command(cx, &input)?;
        let services = Services::of(cx)?;
        let mut problems = Problems::default();
        let name = problems.take("name", ApiKeyName::parse(&input.name));
        let scopes = problems.take("scopes", patterns(&input.scopes));
        let rate_limit = problems.take("rateLimit", positive(input.rate_limit));
        let (Some(name), Some(scopes), Some(rate_limit)) = (name, scopes, rate_limit) else {
            return Err(problems.failure());
        };
        let reader = reader(cx)?;
        let mine = ApiKey::in_org(reader.organization()).and(Column::OwnerId.eq(reader.viewer().member.uuid()));
        if reader.count(mine.and(Column::Revoked.eq(false))).await? >= MAX_KEYS {
            let message = format!("You have {MAX_KEYS} API keys, and that is the most. Revoke one first.");
            return Err(Rejection::new(ErrorCode::LimitExceeded, message).into());
        }
        let id: ApiKeyId = services.engine.new_id();
        let secret = Secret::draw(id).map_err(internal)?;
        let create = CreateApiKey {
            name,
            scopes,
            secret_hash: secret.hash(),
            hint: secret.hint(),
            expires_at: input.expires_at,
            operations: input.operations.map(Into::into),
            rate_limit,
        };
        let done = services.engine.execute(&context, id, create).await?;
        let (api_key, secret, position) = (after(cx, &done).await?, once(&done, secret), Some(done.position));
        Ok(ApiKeyCreatePayload { api_key, secret, user_errors: Vec::new(), position })
    }

    /// Calls a key otherwise, takes permissions from it, or has it end at another time. It is never given more than it has,
    /// and only who made it lets it go on for longer. What is left out stays as it is; what it may do changes at once.
    #[permission("keys:edit")]
    async fn api_key_update(&self, cx: &Context<'_>, input: ApiKeyUpdateInput) -> Result<ApiKeyUpdatePayload> {
        let context = granted.command(cx, &input)?;
        let mut problems = Problems::default();
        let name = problems.take("name", input.name.as_deref().map(ApiKeyName::parse).transpose());
        let scopes = problems.take("scopes", input.scopes.as_deref().map(patterns).transpose());
        let (Some(name), Some(scopes)) = (name, scopes) else { return Err(problems.failure()) };
        let expires_at = match input.expires_at {
            MaybeUndefined::Undefined => None,
            MaybeUndefined::Null => Some(None),
            MaybeUndefined::Value(end) => Some(Some(end)),
        };
        let update = UpdateApiKey { name, scopes, expires_at };
        let done = Services::of(cx)?.engine.execute(&context, input.id, update).await?;
        let (api_key, position) = (after(cx, &done).await?, Some(done.position));
        Ok(ApiKeyUpdatePayload { api_key, user_errors: Vec::new(), position })
    }

    /// Gives one of your keys another secret. The one before is good for a while longer, so that programs can change
    /// over one by one; then, and at once when `overlapSeconds` is 0, it is not. One that was replaced earlier ends now.
    #[permission("keys:edit")]
    async fn api_key_rotate(&self, cx: &Context<'_>, input: ApiKeyRotateInput) -> Result<ApiKeyRotatePayload> {
        let context = granted.command(cx, &input)?;
        let overlap = u64::try_from(input.overlap_seconds.unwrap_or(OVERLAP_SECONDS)).map_err(|_| {
            Rejection::new(ErrorCode::Invalid, "A time is not negative; at once is 0.").at("overlapSeconds")
        })?;
        let secret = Secret::draw(input.id).map_err(internal)?;
        let (secret_hash, hint) = (secret.hash(), secret.hint());
        let rotate = RotateApiKey { secret_hash, hint, overlap: Duration::from_secs(overlap) };
        let done = Services::of(cx)?.engine.execute(&context, input.id, rotate).await?;
        let (api_key, secret, position) = (after(cx, &done).await?, once(&done, secret), Some(done.position));
        Ok(ApiKeyRotatePayload { api_key, secret, user_errors: Vec::new(), position })
    }

    /// Ends a key: from now on neither of its secrets is good, and what it follows ends.
    #[permission("keys:delete")]
    async fn api_key_revoke(&self, cx: &Context<'_>, input: ApiKeyRevokeInput) -> Result<ApiKeyRevokePayload> {
        let context = granted.command(cx, &input)?;
        let done = Services::of(cx)?.engine.execute(&context, input.id, RevokeApiKey).await?;
        Ok(ApiKeyRevokePayload {
            api_key: after(cx, &done).await?,
            user_errors: Vec::new(),
            position: Some(done.position),
        })
    }
}

async fn after(cx: &Context<'_>, done: &Committed) -> Result<Option<Arc<ApiKey>>> {
    after_write::<ApiKey>(cx, done.subject).await
}

/// The secret, unless another one was given out when the command was carried out first.
fn once(done: &Committed, secret: Secret) -> Option<String> {
    (!done.repeated).then(|| secret.reveal())
}

fn positive(limit: Option<i32>) -> Result<Option<u32>, Rejection> {
    let limit = limit.map(|limit| u32::try_from(limit).ok().filter(|limit| *limit > 0));
    match limit {
        Some(None) => Err(Rejection::new(ErrorCode::Invalid, "A limit is at least 1.")),
        Some(limit) => Ok(limit),
        None => Ok(None),
    }
}

/// A key that is to be made.
#[derive(InputObject)]
struct ApiKeyCreateInput {
    /// What you call it: 1 to 120 characters.
    name: String,
    /// What it may do, such as `documents:view` or `operations:edit`: at most 50 of those that `permissionCatalog` lists,
    /// or `*` for all. You give nothing that you do not have yourself.
    scopes: Vec<String>,
    /// When it ends by itself, within ten years; without it, it is good until it is revoked.
    expires_at: Option<Timestamp>,
    /// Which documents it may have executed. It can be stricter than what holds for everyone here, and not milder.
    operations: Option<OperationsMode>,
    /// How much cost it may cause in a minute. It can be less than what holds for everyone here, and not more.
    rate_limit: Option<i32>,
    /// Makes a retry safe: the same key gives the same API key and one write, and no secret. Kept for 7 days.
    idempotency_key: Option<String>,
}

/// A change of a key.
#[derive(InputObject)]
struct ApiKeyUpdateInput {
    /// Which key.
    id: ApiKeyId,
    /// What you call it: 1 to 120 characters.
    name: Option<String>,
    /// What it may do: of what it may now. In place of all that it has.
    scopes: Option<Vec<String>>,
    /// When it ends by itself, within ten years; null for never.
    expires_at: MaybeUndefined<Timestamp>,
    /// Refuse the change unless this is the version now.
    expected_version: Option<i32>,
    /// Makes a retry safe: the same key gives the same answer and one write. Kept for 7 days.
    idempotency_key: Option<String>,
}

/// The key that is to have another secret.
#[derive(InputObject)]
struct ApiKeyRotateInput {
    /// Which key.
    id: ApiKeyId,
    /// How long the secret before is good: a day without it, at most 7 days (604 800).
    overlap_seconds: Option<i32>,
    /// Refuse the change unless this is the version now.
    expected_version: Option<i32>,
    /// Makes a retry safe: the same key gives one write, and no secret. Kept for 7 days.
    idempotency_key: Option<String>,
}

/// The key that is to end.
#[derive(InputObject)]
struct ApiKeyRevokeInput {
    /// Which key.
    id: ApiKeyId,
    /// Refuse the change unless this is the version now.
    expected_version: Option<i32>,
    /// Makes a retry safe: the same key gives the same answer and one write. Kept for 7 days.
    idempotency_key: Option<String>,
}

#[cfg(test)]
mod tests;
