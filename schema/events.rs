//! What happened: the log as a list, and as a stream; and every query kept true.
//!
//! Invariants of the stream: every event of the organisation after the place asked for that fits the filter, in
//! order, each once; what was committed while the past was being sent follows it without a gap. It is pulled: who
//! reads slowly costs a connection and a page, nothing else. Who loses the session or the permission learns nothing
//! that happened later.

use std::borrow::Cow;
use std::sync::Arc;

use async_graphql::parser::types::Field;
use async_graphql::registry::Registry;
use async_graphql::{
    ComplexObject, Context, ContextSelectionSet, Data, OutputType, Positioned, ServerResult, SimpleObject,
    Subscription, Value,
};
use data_encoding::HEXLOWER;
use futures::Stream;
use oriel_engine::feed::Applied;
use oriel_engine::live::Tick;
use oriel_engine::read::{Connection, PageArgs, Reader};
use oriel_kernel::{Credential, OrganizationId, Position, Timestamp, operations};
use oriel_read_models::events::{Column, EventFilter, EventOrder, Model as Event, VIEW, by_position, newest_first};
use oriel_read_models::viewer::{ViewerRow, resolve};
use oriel_read_models::{Readers, access_log};
use sea_orm::ColumnTrait;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use crate::Query;
use crate::access::{Access, Operation, Refusal, Root, authorize, error, reader, unavailable};
use crate::endpoint::{TOKEN_ENDED, ended, signed_in_until};
use crate::services::{Meta, Services};

#[cfg(test)]
mod tests;

/// What can be asked about events.
#[derive(Default)]
pub struct EventQuery;

/// Every query, kept true.
#[derive(Default)]
pub struct LiveSubscription;

/// The log as a stream.
#[derive(Default)]
pub struct EventSubscription;

#[operations(query)]
impl EventQuery {
    /// What happened in the organization, newest first unless another order is asked for.
    #[permission("events:view")]
    #[allow(clippy::too_many_arguments)]
    async fn events(
        &self,
        cx: &Context<'_>,
        #[graphql(desc = "How many, from the beginning; at most 100.")] first: Option<i32>,
        #[graphql(desc = "Only what comes after this cursor.")] after: Option<String>,
        #[graphql(desc = "How many, from the end; at most 100.")] last: Option<i32>,
        #[graphql(desc = "Only what comes before this cursor.")] before: Option<String>,
        #[graphql(desc = "Only those for which this holds.")] filter: Option<EventFilter>,
        #[graphql(desc = "In which order.")] order_by: Option<Vec<EventOrder>>,
    ) -> Result<Connection<Event>> {
        let reader = reader(cx)?;
        let all = Event::in_org(reader.organization());
        let order = order_by.unwrap_or_else(newest_first);
        Ok(reader.page(all, PageArgs::new(first, after, last, before), filter, Some(order))?)
    }

    /// Checks the hash chain of the organization's log, from its first event to its last: that none is missing, and
    /// that each says what it said when it was written; and, asked for `readings`, the same of who has read what is
    /// sensitive. Reads all of it each time.
    #[permission("events:view")]
    async fn audit_verify(&self, cx: &Context<'_>) -> Result<AuditVerification> {
        let reader = reader(cx)?;
        // What the database holds is asked for, not what was true.
        reader.recorder().volatile();
        let log = Services::of(cx)?.engine.log();
        let chain = log.verify_organization(reader.organization()).await.map_err(unavailable)?;
        Ok(AuditVerification {
            whole: chain.broken_at.is_none(),
            events: chain.events,
            hash: HEXLOWER.encode(&chain.link),
            broken_at: chain.broken_at,
            organization: reader.organization(),
        })
    }
}

/// What checking the hash chain of an organization has found.
#[derive(SimpleObject)]
#[graphql(complex)]
pub struct AuditVerification {
    /// Whether all events are as they were written.
    pub whole: bool,
    /// How many events follow on each other, from the first one on.
    pub events: i64,
    /// The `hash` of the last of these. Kept somewhere else, it shows later that nothing before it was changed.
    pub hash: String,
    /// Where the first event is that does not follow on the one before it; null when all do.
    pub broken_at: Option<Position>,
    /// Whose log was checked.
    #[graphql(skip)]
    organization: OrganizationId,
}

#[ComplexObject]
impl AuditVerification {
    /// What checking the access log has found, which has a hash chain of its own.
    async fn readings(&self, cx: &Context<'_>) -> async_graphql::Result<AccessVerification> {
        let database = Services::of(cx)?.engine.database();
        let checked = access_log::chain::check(database, self.organization).await.map_err(unavailable)?;
        Ok(AccessVerification {
            whole: checked.broken_at.is_none(),
            readings: checked.readings,
            removed: checked.removed,
            hash: HEXLOWER.encode(&checked.hash),
            broken_at: checked.broken_at,
        })
    }
}

/// What checking the hash chain of an organization's readings has found.
#[derive(SimpleObject)]
pub struct AccessVerification {
    /// Whether all that are left are as they were written, and only those were removed of which the log says so.
    pub whole: bool,
    /// How many records follow on each other, from the first one that is left.
    pub readings: i64,
    /// How many were removed before it after their time.
    pub removed: i64,
    /// The `hash` of the last of these. Kept somewhere else, it shows later that nothing before it was changed.
    pub hash: String,
    /// The `sequence` of the first one that does not follow on the one before it or is missing; null when all do.
    pub broken_at: Option<i64>,
}

impl LiveSubscription {
    /// Every operation here, with who may call it.
    pub const OPERATIONS: &'static [Operation] =
        &[Operation { name: "live", root: Root::Subscription, access: Access::Public }];
}

#[Subscription]
impl LiveSubscription {
    /// Any query, kept true: its answer now, and its whole answer again after each change that makes it another one.
    /// Nothing is sent while it stays the same, and a burst of changes gives one answer. Each answer says in
    /// `extensions.position` what it has seen; after a reconnection, ask for an answer that is at least as fresh with
    /// the request extension `atLeast`.
    ///
    /// `live` has to be the only field of the subscription. What is inside needs what it always needs.
    ///
    /// For everyone.
    async fn live(&self) -> impl Stream<Item = Query> {
        // The endpoint executes `live` itself, again and again. Here it is a query with one answer.
        futures::stream::iter([Query::default()])
    }
}

impl EventSubscription {
    const EVENTS: Operation = Operation { name: "events", root: Root::Subscription, access: Access::Permission(VIEW) };

    /// Every operation here, with who may call it.
    pub const OPERATIONS: &'static [Operation] = &[Self::EVENTS];
}

#[Subscription]
impl EventSubscription {
    /// The log of your organization as a stream: first what happened after a position, then what happens from now on,
    /// in order and without a gap. Keep the `position` of the last event that you dealt with, and give it as `after`
    /// when you connect again. Without a filter, `sequence` counts up by one, so that you can check.
    ///
    /// A position that the log does not know (it was restored from an older backup) is refused with the code
    /// `POSITION_UNKNOWN`. The stream ends with `UNAUTHENTICATED` when the session ends, and with `FORBIDDEN` when the
    /// permission is withdrawn.
    ///
    /// Requires the permission `events:view`.
    async fn events(
        &self,
        cx: &Context<'_>,
        #[graphql(
            desc = "Only what happened after this position; without it, only what happens from now on. `\"0\"` \
                          is the beginning."
        )]
        after: Option<Position>,
        #[graphql(desc = "Only those for which this holds.")] filter: Option<EventFilter>,
    ) -> async_graphql::Result<impl Stream<Item = async_graphql::Result<Happened>>> {
        authorize(cx, Self::EVENTS)?;
        let services = Arc::clone(Services::of(cx)?);
        let (meta, refused) = (Meta::of(cx)?, Refusal::Unauthenticated);
        let (credential, token_ends) = (meta.credential.ok_or(refused)?, meta.token_ends);
        // Before anything is read: what is committed meanwhile waits in here, or is said to be too much.
        let batches = services.engine.feed().subscribe();
        let at = match after {
            Some(after) => known(&services, after).await?,
            None => services.engine.feed().head(),
        };
        let organization = reader(cx).map_err(|_| Refusal::Unauthenticated)?.viewer().organization;
        let since = services.engine.tracker().tick();
        let behind = true;
        let mut follower = Follower {
            services,
            batches,
            credential,
            token_ends,
            organization,
            filter,
            at,
            behind,
            since,
            viewer: None,
        };
        Ok(async_stream::stream! {
            loop {
                match follower.next_page().await {
                    Ok((events, reader)) => {
                        for event in events {
                            yield Ok(Happened { event, reader: reader.clone() });
                        }
                    }
                    Err(error) => {
                        yield Err(error);
                        return;
                    }
                }
            }
        })
    }
}

/// The position, once this node has seen it; or that there is none.
pub(crate) async fn known(services: &Services, position: Position) -> async_graphql::Result<Position> {
    let engine = &services.engine;
    if position <= engine.feed().head() {
        return Ok(position);
    }
    let (head, _) = engine.log().head().await.map_err(unavailable)?;
    if position > head {
        let message = format!(
            "The log knows no position {position}; it ends at {head}. Was it restored from a backup, or went a server on without it?"
        );
        return Err(error("POSITION_UNKNOWN", message));
    }
    let wait = services.policy.at_least_wait;
    tokio::time::timeout(wait, engine.feed().reached(position)).await.map_err(|_| {
        let at = engine.feed().head();
        let message =
            format!("This server has not seen position {position} within {wait:?}; it is at {at}. Try again.");
        error("BEHIND", message)
    })?;
    Ok(position)
}

/// Where a stream of events stands.
struct Follower {
    services: Arc<Services>,
    batches: Receiver<Arc<Applied>>,
    credential: Credential,
    token_ends: Option<Timestamp>,
    organization: OrganizationId,
    filter: Option<EventFilter>,
    /// Everything up to here was sent, or does not fit the filter.
    at: Position,
    /// Whether there may be more in the log.
    behind: bool,
    /// Who follows.
    viewer: Option<Arc<ViewerRow>>,
    /// Since when that is known.
    since: Tick,
}

/// Events of one page.
const PAGE: i32 = 100;

impl Follower {
    /// The next events, at least one, with a reader of this moment for what belongs to them.
    async fn next_page(&mut self) -> async_graphql::Result<(Vec<Event>, Reader)> {
        loop {
            let viewer = self.viewer().await?;
            if self.behind {
                let (events, reader) = self.read(&viewer).await?;
                if !events.is_empty() {
                    return Ok((events, reader));
                }
            } else {
                self.wait(&viewer).await?;
            }
        }
    }

    /// A page of what is in the log by now.
    async fn read(&mut self, viewer: &ViewerRow) -> async_graphql::Result<(Vec<Event>, Reader)> {
        let engine = &self.services.engine;
        // What is committed after this is announced by a batch that `wait` has not received yet.
        let head = engine.feed().head();
        let reader = Reader::new(engine.database().reader().clone(), Arc::clone(&viewer.viewer), Arc::default());
        let new = Event::in_org(self.organization);
        let new = new.and(Column::Position.gt(self.at.number())).and(Column::Position.lte(head.number()));
        let page = PageArgs { first: Some(PAGE), ..PageArgs::default() };
        let page = reader.page(new, page, self.filter.clone(), Some(by_position()))?;
        self.behind = page.page_info().await?.has_next_page;
        let events = page.rows().await?.to_vec();
        self.at = match events.last() {
            Some(last) if self.behind => last.place(),
            _ => head.max(self.at),
        };
        Ok((events, reader))
    }

    /// Until something happened in the organisation, or to the right to follow.
    async fn wait(&mut self, viewer: &ViewerRow) -> async_graphql::Result<()> {
        let engine = &self.services.engine;
        let happened = Event::in_org(self.organization).dependency();
        let mut withdrawn = engine.tracker().watch(self.since, viewer.dependencies.clone());
        // Then the session is asked anew: it may have been prolonged.
        let left = (self.until(viewer) - engine.now()).to_std().unwrap_or_default();
        let ended = tokio::time::sleep(left);
        tokio::pin!(ended);
        loop {
            tokio::select! {
                batch = self.batches.recv() => match batch {
                    Ok(batch) if batch.last > self.at && batch.touched.contains(&happened) => {
                        self.behind = true;
                        return Ok(());
                    }
                    Ok(_) => {}
                    Err(RecvError::Lagged(_)) => {
                        self.behind = true;
                        return Ok(());
                    }
                    Err(RecvError::Closed) => return Err(unavailable("the feed has ended")),
                },
                () = withdrawn.changed() => return Ok(()),
                () = &mut ended => return Ok(()),
            }
        }
    }

    /// When they are signed out by time.
    fn until(&self, viewer: &ViewerRow) -> Timestamp {
        signed_in_until(viewer, self.token_ends, self.services.policy.access_token_ttl)
    }

    /// Who follows, while they may.
    async fn viewer(&mut self) -> async_graphql::Result<Arc<ViewerRow>> {
        let engine = &self.services.engine;
        let now = engine.now();
        if let Some(row) = &self.viewer
            && self.until(row) > now
            && engine.tracker().valid(self.since, &row.dependencies)
        {
            return Ok(Arc::clone(row));
        }
        let since = engine.tracker().tick();
        let row = resolve(engine.database().reader(), self.credential, now).await.map_err(unavailable)?;
        let Some(row) = row.map(Arc::new) else { return Err(ended(engine, self.credential).await) };
        if self.until(&row) <= now {
            return Err(error("UNAUTHENTICATED", TOKEN_ENDED));
        }
        if row.viewer.organization != self.organization {
            return Err(error("UNAUTHENTICATED", "This session is in another organization now. Connect again."));
        }
        EventSubscription::EVENTS.grant(Some(&row.viewer))?;
        self.since = since;
        self.viewer = Some(Arc::clone(&row));
        Ok(row)
    }
}

/// An event of the stream, resolved by a reader of its own moment: one that lives as long as the stream would show
/// what once was, and grow.
struct Happened {
    event: Event,
    reader: Reader,
}

impl OutputType for Happened {
    fn type_name() -> Cow<'static, str> {
        Event::type_name()
    }

    fn create_type_info(registry: &mut Registry) -> String {
        Event::create_type_info(registry)
    }

    async fn resolve(&self, cx: &ContextSelectionSet<'_>, field: &Positioned<Field>) -> ServerResult<Value> {
        let mut data = Data::default();
        data.insert(Readers::of(self.reader.clone()));
        let mut cx = cx.clone();
        cx.execute_data = Some(&data);
        self.event.resolve(&cx, field).await
    }
}
