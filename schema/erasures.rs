//! Erasing a person, and the certificates of what was erased.
//!
//! Invariants: a person erases themselves with their password; else only the operator does it. Who owns an organisation
//! hands it over first, or deletes it.

use std::sync::Arc;

use async_graphql::{Context, ID, InputObject};
use oriel_domain::roles::RoleName;
use oriel_domain::users::erasure::EraseUser;
use oriel_engine::Transaction;
use oriel_kernel::{OrganizationId, Permission, RawId, Rejection, UserId, operations};
use oriel_read_models::erasures::Model as Erasure;
use oriel_read_models::members::leaving;
use oriel_read_models::sign_in;

use crate::access::{after_write, reader, unavailable};
use crate::payload::payloads;
use crate::services::Services;
use crate::sessions::{password_is_right, repetition, secret_command, wrong_credentials};
use crate::users::end_sessions;

/// What can be asked about erasures.
#[derive(Default)]
pub struct ErasureQuery;

/// What can be erased.
#[derive(Default)]
pub struct ErasureMutation;

payloads! {
    /// What became of erasing a person.
    UserErasePayload {
        /// The erasure, as it has begun, for the operator of the installation; null for anybody else.
        erasure: Arc<Erasure>,
    }
}

#[operations(query)]
impl ErasureQuery {
    /// The erasure of this person or organization, and its certificate when everything is clean; null when there was
    /// none. For the installation's operator.
    #[permission("system:manage")]
    async fn erasure(
        &self,
        cx: &Context<'_>,
        #[graphql(desc = "The id of the person or the organization.")] id: ID,
    ) -> Result<Option<Arc<Erasure>>> {
        match RawId::parse(&id) {
            Some(RawId { prefix: "usr" | "org", uuid }) => Ok(reader(cx)?.get(uuid).await?),
            _ => Ok(None),
        }
    }
}

#[operations(mutation)]
impl ErasureMutation {
    /// Erases a person for good: you, or, for the operator of the installation, whom `id` names. At once nothing can be
    /// read any more that the log says about them, their sessions end, and their e-mail address is free. Their
    /// memberships end, and what was made of what they had said (rows, caches, the search index) is cleaned right after;
    /// `erasure` tells the operator when that is complete. What they uploaded stays with its organization, without the
    /// names that its files had. There is no way back.
    #[signed_in]
    async fn user_erase(&self, cx: &Context<'_>, input: UserEraseInput) -> Result<UserErasePayload> {
        let services = Services::of(cx)?;
        let mut context = secret_command(&granted, cx, &input)?;
        let viewer = granted.viewer()?;
        let user = input.id.unwrap_or(viewer.user);
        let by = Some(viewer.user).filter(|by| *by == user);
        if by.is_none() && viewer.grant(Permission::new("system", "manage")).is_none() {
            return Err(Rejection::not_found("user").at("id").into());
        }
        let done = match repetition(cx, &context).await? {
            Some(done) => done,
            None => {
                let connection = services.engine.database().reader();
                if by.is_some() {
                    let row = sign_in::user(connection, user).await.map_err(unavailable)?;
                    let name = row.as_ref().and_then(|row| row.email_hash.clone()).unwrap_or_default();
                    let typed = input.password.as_deref().unwrap_or_default();
                    if !password_is_right(cx, &name, row.as_ref(), typed).await? {
                        return Err(wrong_credentials("This is not your password.").at("password").into());
                    }
                }
                let memberships = leaving::memberships(connection, user).await.map_err(unavailable)?;
                let owner = RoleName::Owner.as_str();
                if memberships.iter().any(|(_, _, roles)| roles.0.iter().any(|role| role == owner)) {
                    let message = "Who owns an organization cannot be erased: hand it over with \
                                   `memberTransferOwnership`, or delete it with `organizationDelete`, first.";
                    return Err(Rejection::conflict(message).into());
                }
                // A person belongs to the installation.
                let mut context = context.clone();
                context.organization = OrganizationId::ABSENT;
                services.engine.transact(&context, Transaction::new().and(user, EraseUser { by })).await?
            }
        };
        context.scope = oriel_engine::Scope::unlimited();
        context.authority = None;
        end_sessions(cx, &context, user, None, |_| true).await?;
        let erasure = match by {
            Some(_) => None,
            None => after_write::<Erasure>(cx, done.subject).await?,
        };
        Ok(UserErasePayload { erasure, user_errors: Vec::new(), position: Some(done.position) })
    }
}

/// Who is to be erased.
#[derive(InputObject)]
struct UserEraseInput {
    /// Which person, for the operator of the installation. Left out: you.
    id: Option<UserId>,
    /// Your password, when it is you.
    #[graphql(secret)]
    password: Option<String>,
    /// Makes a retry safe: the same key gives the same answer and one write. Kept for 7 days.
    idempotency_key: Option<String>,
}
