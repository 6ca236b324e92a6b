//! A small GraphQL client for the command line: one request at a time, and one file as multipart.
//!
//! Invariants: the token is sent only to the server that was named and never printed; a body is streamed; waiting
//! and repeating are bounded. Only what carries an idempotency key, or changes nothing, may be asked again.
//! Nothing here knows a field of the schema.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, HeaderValue, RETRY_AFTER};
use reqwest::multipart::{Form, Part};
use reqwest::{Body, RequestBuilder, Response, StatusCode, Url};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// What the server may at most ask us to wait.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// An answer of the API is small; more than this is not read.
const LARGEST_ANSWER: usize = 16 << 20;

/// Why there is no answer. Each text says how to mend it.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The URL cannot be used.
    #[error("{0:?} is not an http:// or https:// URL")]
    Url(String),
    /// The token cannot stand in a header.
    #[error("the token has characters that no token has; check ORIEL_TOKEN")]
    TokenText,
    /// Nobody answers, or the answer broke off.
    #[error("{url} cannot be reached: {reason}; is `oriel serve` running there?")]
    Unreachable {
        /// Where.
        url: String,
        /// Why, in the words of the network.
        reason: String,
        /// There was a connection; it broke, or the body could not be read to its end.
        connected: bool,
    },
    /// The token is unknown, expired or revoked.
    #[error("the server does not accept the token (it may have expired); make an API key and set ORIEL_TOKEN to it")]
    Unauthenticated,
    /// The server asks to come later.
    #[error("the server is busy ({code})")]
    Busy {
        /// RATE_LIMITED, OVERLOADED, or the HTTP status.
        code: String,
        /// What it asked for.
        retry_after: Option<Duration>,
    },
    /// A GraphQL error.
    #[error("{code}: {message}")]
    Refused {
        /// `extensions.code`.
        code: String,
        /// What the server says.
        message: String,
    },
    /// Another server, or another version.
    #[error("{url} does not answer as Oriel does: {what}")]
    NotOriel {
        /// Where.
        url: String,
        /// What is odd.
        what: String,
    },
}

impl ClientError {
    /// Whether the same request may succeed later.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Busy { .. })
    }
}

/// How often and how patiently something is asked again.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Attempts, the first included.
    pub attempts: u32,
    /// The pause after the first one; each later pause is twice as long.
    pub first_pause: Duration,
    /// No pause that we choose is longer.
    pub longest_pause: Duration,
}

impl Default for Patience {
    /// About a minute: a server that restarts is back by then.
    fn default() -> Self {
        Self { attempts: 10, first_pause: Duration::from_millis(250), longest_pause: Duration::from_secs(15) }
    }
}

impl Patience {
    /// The pause after the given attempt (from 1). `chance` in 0..1 spreads those who wait for the same thing.
    fn pause(&self, attempt: u32, asked: Option<Duration>, chance: f64) -> Duration {
        let doubled = self.first_pause.saturating_mul(1 << (attempt - 1).min(16)).min(self.longest_pause);
        match asked {
            Some(asked) => asked.min(LONGEST_WAIT) + doubled.mul_f64(chance),
            None => doubled.mul_f64(0.5 + chance / 2.0),
        }
    }
}

/// Where a page of a list ends, as every list of the API says.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PageInfo {
    has_next_page: bool,
    end_cursor: Option<String>,
}

impl PageInfo {
    /// The cursor after which the next page begins; `None` behind the last one. `after`: where this page began. A server
    /// that names that again is not followed in a circle.
    pub fn next(self, after: Option<&str>) -> Option<String> {
        self.end_cursor.filter(|cursor| self.has_next_page && after != Some(cursor))
    }
}

/// A connection to a running server.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
    endpoint: Url,
    authorization: Option<HeaderValue>,
    patience: Patience,
    waiting: fn(&ClientError),
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("endpoint", &self.endpoint.as_str()).finish_non_exhaustive()
    }
}

impl Client {
    /// A client of the server at `url`, with or without a token.
    pub fn new(url: &str, token: Option<&str>, patience: Patience) -> Result<Self, ClientError> {
        let wrong = || ClientError::Url(crate::settings::mask_url(url));
        let text = url.trim_end_matches('/').trim_end_matches("/graphql");
        let base = Url::parse(&format!("{text}/")).map_err(|_| wrong())?;
        if !matches!(base.scheme(), "http" | "https") || !base.has_host() || base.query().is_some() {
            return Err(wrong());
        }
        let authorization = token.map(|token| {
            let mut value = HeaderValue::from_str(&format!("Bearer {}", token.trim())).ok()?;
            value.set_sensitive(true);
            Some(value)
        });
        let authorization = match authorization {
            Some(None) => return Err(ClientError::TokenText),
            Some(value) => value,
            None => None,
        };
        // No limit on the whole request: a large file takes its time. A silent connection is given up.
        let http = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(10))
            .read_timeout(Duration::from_secs(120))
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("oriel/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| ClientError::Unreachable {
                url: base.to_string(),
                reason: reason(&error),
                connected: false,
            })?;
        let endpoint = base.join("graphql").map_err(|_| wrong())?;
        Ok(Self { http, base, endpoint, authorization, patience, waiting: |_| () })
    }

    /// Calls `notice` when something will be asked again, once per question.
    pub fn on_waiting(self, notice: fn(&ClientError)) -> Self {
        Self { waiting: notice, ..self }
    }

    /// Executes one operation and reads its `data`.
    pub async fn execute<T: DeserializeOwned>(&self, query: &str, variables: &Value) -> Result<T, ClientError> {
        let request = self.http.post(self.endpoint.clone()).json(&json!({ "query": query, "variables": variables }));
        self.send(request).await
    }

    /// Executes one operation whose variable `input.file` is a file of known size (graphql-multipart-request-spec).
    pub async fn upload<T: DeserializeOwned>(
        &self,
        query: &str,
        variables: &Value,
        file_name: &str,
        body: Body,
        size: u64,
    ) -> Result<T, ClientError> {
        let operations = json!({ "query": query, "variables": variables }).to_string();
        let form = Form::new()
            .text("operations", operations)
            .text("map", r#"{"0":["variables.input.file"]}"#)
            .part("0", Part::stream_with_length(body, size).file_name(file_name.to_owned()));
        self.send(self.http.post(self.endpoint.clone()).header("graphql-require-preflight", "1").multipart(form)).await
    }

    /// Whether the server says that it is ready (`/health/ready`); the text is its own.
    pub async fn ready(&self) -> Result<(bool, String), ClientError> {
        let url = self.base.join("health/ready").map_err(|_| ClientError::Url(self.base.to_string()))?;
        let request = self.http.get(url).timeout(Duration::from_secs(10));
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        let ready = response.status().is_success();
        let text = String::from_utf8_lossy(&self.body(response).await?).into_owned();
        Ok((ready, text))
    }

    /// Asks until there is an answer, an error that will not pass, no patience left, or `stop`.
    pub async fn patiently<T, F>(&self, stop: &CancellationToken, mut ask: impl FnMut() -> F) -> Result<T, ClientError>
    where
        F: Future<Output = Result<T, ClientError>>,
    {
        let mut attempt = 1;
        loop {
            let error = match ask().await {
                Err(error) if error.is_passing() && attempt < self.patience.attempts => error,
                done => return done,
            };
            let asked = match &error {
                ClientError::Busy { retry_after, .. } => *retry_after,
                _ => None,
            };
            let pause = self.patience.pause(attempt, asked, chance());
            if attempt == 1 {
                (self.waiting)(&error);
            }
            attempt += 1;
            tokio::select! {
                () = stop.cancelled() => return Err(error),
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn send<T: DeserializeOwned>(&self, mut request: RequestBuilder) -> Result<T, ClientError> {
        if let Some(value) = &self.authorization {
            request = request.header(AUTHORIZATION, value.clone());
        }
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        let status = response.status();
        let header = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        let bytes = self.body(response).await?;
        let answer: Option<Value> = serde_json::from_slice(&bytes).ok();

        if let Some(error) = answer.as_ref().and_then(|answer| answer["errors"].get(0)) {
            return Err(graphql_error(error, header));
        }
        let odd = |what: String| ClientError::NotOriel { url: self.endpoint.to_string(), what };
        match status {
            StatusCode::UNAUTHORIZED => Err(ClientError::Unauthenticated),
            StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => {
                Err(ClientError::Busy { code: status.as_u16().to_string(), retry_after: seconds(header) })
            }
            StatusCode::PAYLOAD_TOO_LARGE => Err(ClientError::Refused {
                code: "LIMIT_EXCEEDED".to_owned(),
                message: "the file is larger than the server allows".to_owned(),
            }),
            status if !status.is_success() => Err(odd(format!("HTTP {status}"))),
            _ => {
                let data = answer.and_then(|mut answer| answer.get_mut("data").map(Value::take));
                let data = data.ok_or_else(|| odd("the answer is not GraphQL".to_owned()))?;
                serde_json::from_value(data).map_err(|error| odd(error.to_string()))
            }
        }
    }

    async fn body(&self, mut response: Response) -> Result<Vec<u8>, ClientError> {
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.unreachable(&error))? {
            if bytes.len() + chunk.len() > LARGEST_ANSWER {
                let what = format!("the answer has more than {LARGEST_ANSWER} bytes");
                return Err(ClientError::NotOriel { url: self.endpoint.to_string(), what });
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }

    fn unreachable(&self, error: &reqwest::Error) -> ClientError {
        ClientError::Unreachable { url: self.base.to_string(), reason: reason(error), connected: !error.is_connect() }
    }
}

fn graphql_error(error: &Value, header: Option<f64>) -> ClientError {
    let code = error["extensions"]["code"].as_str().unwrap_or("INTERNAL").to_owned();
    match code.as_str() {
        "UNAUTHENTICATED" => ClientError::Unauthenticated,
        "RATE_LIMITED" | "OVERLOADED" | "UNAVAILABLE" | "BEHIND" => {
            let asked = &error["extensions"]["retryAfter"];
            let asked = asked.as_f64().or_else(|| asked.as_str()?.trim_end_matches('s').parse().ok());
            ClientError::Busy { code, retry_after: seconds(asked.or(header)) }
        }
        _ => ClientError::Refused { code, message: error["message"].as_str().unwrap_or_default().to_owned() },
    }
}

fn seconds(number: Option<f64>) -> Option<Duration> {
    Duration::try_from_secs_f64(number?).ok()
}

/// The innermost cause: "connection refused" and not "error sending request".
fn reason(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// A number in 0..1 that differs from process to process and from call to call.
fn chance() -> f64 {
    let bits = uuid::Uuid::new_v4().as_u128() as u32;
    f64::from(bits) / (f64::from(u32::MAX) + 1.0)
}

#[cfg(test)]
mod tests;
