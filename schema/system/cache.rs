//! The answers that a node keeps, as the operator sees them.

use std::sync::Arc;

use async_graphql::{Context, InputObject, SimpleObject};
use oriel_engine::read::ByteSize;
use oriel_kernel::operations;

use crate::access::{Result, internal};
use crate::endpoint::{Cache, CacheReport};
use crate::payload::payloads;
use crate::services::Services;

/// What the operator does to the answers that are kept.
#[derive(Default)]
pub struct CacheMutation;

#[operations(mutation)]
impl CacheMutation {
    /// Forgets every answer that this node keeps. Nothing that it serves is ever old, so this is for measuring and for
    /// giving memory back.
    #[permission("system:manage")]
    async fn cache_clear(
        &self,
        cx: &Context<'_>,
        #[graphql(desc = "May be left out.")] input: Option<CacheClearInput>,
    ) -> Result<CacheClearPayload> {
        let CacheClearInput { idempotency_key: _ } = input.unwrap_or_default();
        answers(cx)?.clear();
        let position = Services::of(cx)?.engine.feed().head();
        Ok(CacheClearPayload { cache: Some(stats(cx)?), user_errors: Vec::new(), position: Some(position) })
    }
}

/// Input of `cacheClear`.
#[derive(InputObject, Default)]
pub struct CacheClearInput {
    /// Clearing twice is clearing once: it changes nothing here.
    idempotency_key: Option<String>,
}

payloads! {
    /// Answer of `cacheClear`.
    CacheClearPayload {
        /// What is kept after it.
        cache: CacheStats,
    }
}

/// The answers that this node keeps, and what became of the questions since it started. An answer is kept for as long
/// as nothing that it depends on was touched.
#[derive(SimpleObject)]
pub struct CacheStats {
    /// Questions that a kept answer served.
    hits: i32,
    /// Questions that were executed.
    misses: i32,
    /// Questions that an answer served which another node had executed.
    shared: i32,
    /// Questions that were served by the execution of an identical one.
    coalesced: i32,
    /// Answers that are kept.
    entries: i32,
    /// About how much memory they take.
    bytes: ByteSize,
    /// How many kept answers were found to be old, by what had been touched.
    invalidated: Vec<CacheInvalidation>,
}

/// Why kept answers were found to be old.
#[derive(SimpleObject)]
struct CacheInvalidation {
    /// What was touched: a kind of row (`document`), a collection (`documents@project`), an index (`search@org`);
    /// `time` when it held up to a moment only, `floor` when it was too old to be sure.
    by: String,
    /// How often.
    count: i32,
}

fn answers<'a>(cx: &Context<'a>) -> Result<&'a Arc<Cache>> {
    Ok(cx.data_opt::<Arc<Cache>>().ok_or_else(|| internal("the schema is executed without its cache"))?)
}

/// What the cache has done.
pub fn stats(cx: &Context<'_>) -> Result<CacheStats> {
    Ok(answers(cx)?.report().into())
}

impl From<CacheReport> for CacheStats {
    fn from(report: CacheReport) -> Self {
        let count = |n: u64| i32::try_from(n).unwrap_or(i32::MAX);
        let invalidated = report.invalidated.into_iter();
        Self {
            hits: count(report.hits),
            misses: count(report.misses),
            shared: count(report.shared),
            coalesced: count(report.coalesced),
            entries: count(report.entries),
            bytes: ByteSize::new(report.bytes),
            invalidated: invalidated.map(|(by, n)| CacheInvalidation { by, count: count(n) }).collect(),
        }
    }
}
