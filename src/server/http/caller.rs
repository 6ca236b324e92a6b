//! Who calls: token, address, the position that the client has seen, and what the rate limit says.
//!
//! Invariant: a token that is not good, or whose session has ended, refuses the request.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_graphql::{Extensions, Value};
use axum::http::header::{AUTHORIZATION, COOKIE, USER_AGENT};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use oriel_engine::live::Watch;
use oriel_kernel::{Credential, Position, Timestamp};
use oriel_read_models::viewer::ViewerRow;
use oriel_schema::endpoint::Caller;

use super::HttpState;
use super::access::Exchange;
use super::answer::{Refusal, refuse_with};
use super::rate::{Left, Payer, Spent};

/// The header that asks for an answer at least this fresh.
pub const AT_LEAST: HeaderName = HeaderName::from_static("oriel-at-least");
/// The cookie that does the same by itself: the position of the browser's last change.
const AT_LEAST_COOKIE: &str = "oriel_at_least";
/// How long a browser sends it. Every node is far beyond it by then.
const COOKIE_SECONDS: u32 = 30;
/// Characters of a user agent that are kept.
const USER_AGENT_LENGTH: usize = 300;

/// What an operation costs, and what is left after it.
#[derive(Clone, Copy, Debug)]
pub struct Paid {
    /// What it costs.
    pub cost: u64,
    /// What it might cost at most.
    pub most: u64,
    /// What is left of the rate limit, if there is one.
    pub left: Option<Left>,
}

/// Who calls.
#[derive(Clone)]
pub struct Who {
    exchange: Exchange,
    caller: Caller,
    payer: Payer,
    /// As they were found a moment ago.
    row: Option<Arc<ViewerRow>>,
}

/// The token in `Authorization`, if there is one.
pub fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Refusal> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let token = value.to_str().ok().and_then(token_of).filter(|_| values.next().is_none());
    token.map(Some).ok_or_else(|| Refusal::unauthenticated("Send one header `Authorization: Bearer <access token>`."))
}

/// The token in `Bearer <token>`.
pub fn token_of(text: &str) -> Option<&str> {
    let (scheme, token) = text.trim().split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim()).filter(|token| !token.is_empty())
}

impl HttpState {
    /// Who calls with this token and these headers.
    pub async fn identify(
        &self,
        exchange: &Exchange,
        headers: &HeaderMap,
        token: Option<&str>,
    ) -> Result<Who, Refusal> {
        let address = exchange.address();
        let mut who = Who {
            exchange: exchange.clone(),
            caller: Caller {
                request: exchange.correlation(),
                credential: None,
                ip: address.map(|address| address.to_canonical().to_string()),
                user_agent: user_agent(headers),
                at_least: at_least(headers)?,
                ..Caller::default()
            },
            payer: Payer::at(address),
            row: None,
        };
        if let Some(token) = token {
            match self.authenticated(exchange, token).await {
                Ok((credential, ends, row)) => {
                    (who.caller.credential, who.caller.token_ends) = (Some(credential), ends);
                    who.payer = match credential {
                        Credential::Session(_) => Payer::Person(row.viewer.user.uuid()),
                        Credential::ApiKey { key, .. } => Payer::Key(key, row.rate_limit),
                    };
                    who.row = Some(row);
                }
                Err(refusal) => {
                    // Guessing costs as much as asking.
                    if refusal.status == StatusCode::UNAUTHORIZED {
                        self.charge(&who, 1)?;
                    }
                    return Err(refusal);
                }
            }
        }
        Ok(who)
    }

    /// For how long they stay signed in if nothing happens, `None` if nobody is; and who hears when something does.
    pub async fn standing(&self, who: &Who) -> Result<(Option<Duration>, Option<Watch>), Refusal> {
        let standing = self.endpoint.standing(&who.caller).await;
        let standing = standing.map_err(|error| refuse_with(StatusCode::SERVICE_UNAVAILABLE, error))?;
        let now = self.endpoint.services().engine.now();
        Ok((standing.until.map(|until| (until - now).to_std().unwrap_or_default()), standing.watch))
    }

    /// Whether they may come back with another token: not when the session or the key itself has ended.
    pub async fn may_come_back(&self, who: &Who) -> bool {
        let Some(credential) = who.caller.credential else { return true };
        !matches!(self.endpoint.viewer(credential).await, Ok(None))
    }

    async fn authenticated(
        &self,
        exchange: &Exchange,
        token: &str,
    ) -> Result<(Credential, Option<Timestamp>, Arc<ViewerRow>), Refusal> {
        let ended =
            || Refusal::unauthenticated("The access token is not valid or has expired. Refresh it or sign in again.");
        let (credential, ends) = self.endpoint.authenticate(token).map_err(|_| ended())?;
        let row = self.endpoint.viewer(credential).await;
        let Some(row) = row.map_err(|error| refuse_with(StatusCode::SERVICE_UNAVAILABLE, error))? else {
            let refusal = refuse_with(StatusCode::UNAUTHORIZED, self.endpoint.refusal(credential).await);
            return Err(if refusal.code == "UNAUTHENTICATED" { ended() } else { refusal });
        };
        exchange.note_viewer(&row.viewer);
        Ok((credential, ends, row))
    }

    /// What is known of them at this moment; `None`: nobody is signed in.
    pub async fn row(&self, who: &Who) -> Result<Option<Arc<ViewerRow>>, Refusal> {
        let (Some(credential), None) = (who.caller.credential, &who.row) else { return Ok(who.row.clone()) };
        let row = self.endpoint.viewer(credential).await;
        let row = row.map_err(|error| refuse_with(StatusCode::SERVICE_UNAVAILABLE, error))?;
        row.map(Some).ok_or_else(|| Refusal::unauthenticated("This session has ended. Sign in again."))
    }

    /// Takes what an operation costs from the caller's rate limit; 1 of it was taken when the operation came in.
    pub async fn pay(&self, who: &Who, cost: u64) -> Result<Paid, Refusal> {
        // What costs more than a whole budget takes a whole one: else it would never be served.
        let whole = cost.min(self.rates.whole(who.payer));
        let taken = self.rates.take(who.payer, whole, 1, Instant::now()).await;
        let left = taken_from(who, taken, cost)?;
        Ok(Paid { cost, most: self.prices.most(), left })
    }

    /// Takes a cost from the caller's rate limit, as far as this node knows it.
    pub fn charge(&self, who: &Who, cost: u64) -> Result<Option<Left>, Refusal> {
        taken_from(who, self.rates.charge(who.payer, cost, Instant::now()), cost)
    }
}

/// What is left of the rate limit is told in any case.
fn taken_from(who: &Who, taken: Result<Option<Left>, Spent>, cost: u64) -> Result<Option<Left>, Refusal> {
    let left = taken.as_ref().map_or_else(|spent| Some(spent.left), |left| *left);
    if let Some(left) = left {
        who.exchange.note_left(left);
    }
    taken.map_err(|Spent { left: Left { limit, remaining, .. }, wait }| {
        let message = format!(
            "This costs {cost}, and of rate_limit = {limit} a minute {remaining} is left. Try again after {} s, or \
                 ask for less: shorter pages, fewer fields of each item.",
            wait.as_secs() + 1
        );
        let mut refusal = Refusal::limit(StatusCode::TOO_MANY_REQUESTS, "rate_limit", limit.into(), message);
        refusal.code = "RATE_LIMITED";
        refusal.found(cost).after(wait)
    })
}

impl Who {
    /// The same one for longer than a request: what they may is asked anew each time.
    pub fn lasting(self) -> Self {
        Self { row: None, ..self }
    }

    /// Where they are.
    pub fn address(&self) -> Payer {
        Payer::at(self.exchange.address())
    }

    /// Whose budget pays: the person's, or that of the address.
    pub fn payer(&self) -> Payer {
        self.payer
    }

    /// By what they are known: a session or a key.
    pub fn credential(&self) -> Option<Credential> {
        self.caller.credential
    }

    /// Whether somebody is signed in, or a key asks.
    pub fn is_signed_in(&self) -> bool {
        self.caller.credential.is_some()
    }

    /// The same one, with these files.
    pub fn with_uploads(mut self, uploads: oriel_schema::uploads::Uploads) -> Self {
        self.caller.uploads = uploads;
        self
    }

    /// The caller of one operation: its own `atLeast` counts where it is further.
    pub fn caller(&self, extensions: &Extensions) -> Result<Caller, Refusal> {
        let mut caller = self.caller.clone();
        let own = match extensions.0.get("atLeast") {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) => Some(position(text)?),
            Some(_) => return Err(no_position()),
        };
        caller.at_least = caller.at_least.max(own);
        Ok(caller)
    }
}

fn position(text: &str) -> Result<Position, Refusal> {
    text.trim().parse().map_err(|_| no_position())
}

fn no_position() -> Refusal {
    Refusal::bad_request("atLeast is not a position: send the text that an earlier answer gave as `position`.")
}

/// What the header asks for, or the cookie, which nobody chose to send and which is never wrong enough to refuse.
fn at_least(headers: &HeaderMap) -> Result<Option<Position>, Refusal> {
    let asked = headers.get(AT_LEAST).map(|value| position(value.to_str().map_err(|_| no_position())?)).transpose()?;
    let cookies = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok()).flat_map(|v| v.split(';'));
    let known = cookies.filter_map(|cookie| cookie.trim().strip_prefix(AT_LEAST_COOKIE)?.strip_prefix('='));
    Ok(asked.max(known.filter_map(|text| text.parse().ok()).max()))
}

/// The cookie with the position of a change.
pub fn at_least_cookie(position: &str, https: bool) -> Option<HeaderValue> {
    let secure = if https { "; Secure" } else { "" };
    let value = format!(
        "{AT_LEAST_COOKIE}={position}; Path=/graphql; Max-Age={COOKIE_SECONDS}; HttpOnly; SameSite=Strict{secure}"
    );
    HeaderValue::from_str(&value).ok()
}

fn user_agent(headers: &HeaderMap) -> Option<String> {
    let text = headers.get(USER_AGENT)?.to_str().ok()?;
    Some(text.chars().take(USER_AGENT_LENGTH).collect())
}
