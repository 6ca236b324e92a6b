//! Identity providers: servers of somebody else that say who a person is, by OpenID Connect (the authorization code
//! flow with PKCE).
//!
//! Invariants: nothing that a provider says is believed that its signature does not cover, or that it did not say
//! itself over TLS: a token is one that *this* issuer signed, with a key that it publishes and an algorithm of three,
//! for *this* client and *this* attempt, and it has not ended. What an organisation types as an address leads into no
//! network that is not public, whatever a name resolves to at that moment, unless the installation says so; nobody is
//! followed elsewhere (no redirects), and no answer is longer than a megabyte. What is known of a provider is
//! kept for a bounded time, of a bounded number of them; a key that is not known is looked for anew, a bounded number
//! of times. Secrets and tokens are in no error.
//!
//! It is our own, on `jsonwebtoken` and `reqwest`, which are in the house: the crate `openidconnect` brings a second
//! cryptography (RustCrypto's `rsa`, `p256` and others) beside aws-lc, has no place for the clock that is injected
//! here, and the rest of what it does is a dozen fields of JSON. Nothing here knows an organisation or a person.

mod reach;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
mod token;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use chrono::TimeDelta;
use data_encoding::{BASE64, BASE64URL_NOPAD};
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use jsonwebtoken::jwk::Jwk;
use oriel_kernel::Timestamp;
use reqwest::redirect;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::sync::Mutex;
use url::form_urlencoded::{Serializer, byte_serialize};

use crate::resilience::{Fault, Guard, Health, Limits, Policy, Unanswered};

pub use reach::Private;
pub use token::Claims;

use reach::Reach;
use token::{Expected, Verdict};

/// How many providers are known at once.
const KNOWN: u64 = 1_000;
/// How long what a provider says about itself, and its keys, are good.
const FRESH: TimeDelta = TimeDelta::hours(1);
/// How often keys are looked for anew, because one was not among them, within [`LOOKED_WITHIN`].
const LOOKS: usize = 5;
const LOOKED_WITHIN: TimeDelta = TimeDelta::minutes(1);
/// The longest answer.
const MAX_BODY: usize = 1 << 20;

/// Why it is not known who somebody is.
#[derive(Clone, Debug, thiserror::Error)]
pub enum IdentityError {
    /// The address is none that may be asked.
    #[error("the address {0}")]
    Address(&'static str),
    /// The server is not there, or not able to answer.
    #[error("the identity provider does not answer: {0}")]
    Unreachable(String),
    /// It was not asked.
    #[error("the identity provider was not asked: {0}")]
    Unanswered(#[from] Unanswered),
    /// It does not speak OpenID Connect, or not as it is set up here.
    #[error("the identity provider is not as it is set up: {0}")]
    Odd(String),
    /// It does not know the code, or not any more.
    #[error("the identity provider refuses the code")]
    Refused,
    /// What it says is not to be believed.
    #[error("what the identity provider says is not to be believed: {0}")]
    Untrusted(&'static str),
}

impl Fault for IdentityError {
    fn is_outage(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::Unanswered(_))
    }
}

impl IdentityError {
    fn unreachable(error: &reqwest::Error) -> Self {
        // Without the URL: what is asked for may be in it.
        let mut text = if error.is_timeout() { "it takes too long".to_owned() } else { "no connection".to_owned() };
        let mut cause = std::error::Error::source(error);
        while let Some(error) = cause {
            text = error.to_string();
            cause = error.source();
        }
        Self::Unreachable(text)
    }
}

/// Nobody can be asked: TLS is not to be had.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct SetUpError(#[from] reqwest::Error);

/// What an installation is to a provider.
#[derive(Clone, Copy)]
pub struct Client<'a> {
    /// Who the provider says that it is.
    pub issuer: &'a str,
    /// What it calls us.
    pub id: &'a str,
    /// What we show to be that; a public client has none.
    pub secret: Option<&'a str>,
}

impl fmt::Debug for Client<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("issuer", &self.issuer).field("id", &self.id).finish_non_exhaustive()
    }
}

/// One attempt to find out who somebody is. Its three secrets are new each time.
#[derive(Clone, Copy)]
pub struct Attempt<'a> {
    /// Where the provider sends the person back to.
    pub redirect_uri: &'a str,
    /// Comes back with them.
    pub state: &'a str,
    /// Comes back in the token.
    pub nonce: &'a str,
    /// Shown with the code; the provider has seen its hash (PKCE, S256).
    pub verifier: &'a str,
}

/// What the person brings back.
#[derive(Clone, Copy)]
pub struct Returned<'a> {
    /// What the provider exchanges for a token, once.
    pub code: &'a str,
    /// Who sent them back (RFC 9207), if it was said.
    pub issuer: Option<&'a str>,
}

/// What a provider says about itself.
#[derive(Clone, Debug, Deserialize)]
struct Discovery {
    issuer: String,
    authorization_endpoint: String,
    token_endpoint: String,
    jwks_uri: String,
    userinfo_endpoint: Option<String>,
    token_endpoint_auth_methods_supported: Option<Vec<String>>,
    code_challenge_methods_supported: Option<Vec<String>>,
    #[serde(default)]
    authorization_response_iss_parameter_supported: bool,
}

/// A provider that is known.
struct Known {
    guard: Guard,
    discovery: Mutex<Option<(Timestamp, Arc<Discovery>)>>,
    keys: Mutex<Keys>,
}

#[derive(Default)]
struct Keys {
    read: Option<Timestamp>,
    all: Arc<Vec<Jwk>>,
    /// When they were looked for because one was missing.
    looks: Vec<Timestamp>,
}

/// The identity providers of all organisations. Cheap to clone.
#[derive(Clone)]
pub struct IdentityProviders {
    http: reqwest::Client,
    reach: Reach,
    known: moka::sync::Cache<String, Arc<Known>>,
}

impl fmt::Debug for IdentityProviders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdentityProviders").field("known", &self.known.entry_count()).finish_non_exhaustive()
    }
}

impl IdentityProviders {
    /// `private`: which addresses may be asked that are not public.
    ///
    /// # Errors
    /// When TLS is not to be had.
    pub fn new(private: Private) -> Result<Self, SetUpError> {
        let reach = Reach::new(private);
        let http = reqwest::Client::builder()
            .redirect(redirect::Policy::none())
            .dns_resolver(Arc::new(reach.clone()))
            // A proxy would resolve names itself.
            .no_proxy()
            .connect_timeout(Duration::from_secs(5))
            .build()?;
        let known = moka::sync::Cache::builder().max_capacity(KNOWN).time_to_idle(Duration::from_secs(3_600)).build();
        Ok(Self { http, reach, known })
    }

    /// Where a person goes to say who they are.
    ///
    /// # Errors
    /// When the provider is away, or is not one.
    pub async fn authorization_url(
        &self,
        client: Client<'_>,
        scopes: &[String],
        attempt: Attempt<'_>,
        now: Timestamp,
    ) -> Result<String, IdentityError> {
        let known = self.known(client.issuer);
        let discovery = self.discovery(&known, client.issuer, now).await?;
        let mut url = self.reach.url(&discovery.authorization_endpoint)?;
        let challenge = BASE64URL_NOPAD.encode(digest(&SHA256, attempt.verifier.as_bytes()).as_ref());
        url.query_pairs_mut()
            .append_pair("response_type", "code")
            .append_pair("client_id", client.id)
            .append_pair("redirect_uri", attempt.redirect_uri)
            .append_pair("scope", &scopes.join(" "))
            .append_pair("state", attempt.state)
            .append_pair("nonce", attempt.nonce)
            .append_pair("code_challenge", &challenge)
            .append_pair("code_challenge_method", "S256");
        Ok(url.into())
    }

    /// Who the person is that was sent back. `wanted`: claims that are looked for with the provider itself if the token
    /// does not have them.
    ///
    /// # Errors
    /// See [`IdentityError`].
    pub async fn claims(
        &self,
        client: Client<'_>,
        attempt: Attempt<'_>,
        returned: Returned<'_>,
        wanted: &[&str],
        now: Timestamp,
    ) -> Result<Claims, IdentityError> {
        let known = self.known(client.issuer);
        let discovery = self.discovery(&known, client.issuer, now).await?;
        match returned.issuer {
            // Somebody else's code must not be brought here, nor ours to somebody else (a mix-up).
            Some(issuer) if issuer != client.issuer => {
                return Err(IdentityError::Untrusted("the person comes back from another provider"));
            }
            None if discovery.authorization_response_iss_parameter_supported => {
                return Err(IdentityError::Untrusted("it is not said from which provider the person comes back"));
            }
            _ => {}
        }
        let tokens = self.exchange(&known, &discovery, client, attempt, returned.code).await?;
        let expected = Expected { issuer: client.issuer, client: client.id, nonce: attempt.nonce, now };
        let keys = self.keys(&known, &discovery, now, false).await?;
        let mut claims = match token::verify(&tokens.id_token, &keys, expected) {
            Err(Verdict::UnknownKey) => {
                let keys = self.keys(&known, &discovery, now, true).await?;
                token::verify(&tokens.id_token, &keys, expected)
            }
            verdict => verdict,
        }
        .map_err(|verdict| IdentityError::Untrusted(verdict.why()))?;
        if let (Some(endpoint), Some(access)) = (&discovery.userinfo_endpoint, &tokens.access_token)
            && wanted.iter().any(|name| !claims.has(name))
        {
            let url = self.reach.url(endpoint)?;
            let ask = || self.json(self.http.get(url.clone()).header(AUTHORIZATION, format!("Bearer {access}")));
            let more: serde_json::Map<String, serde_json::Value> = known.guard.repeat(ask).await?;
            claims.add(more).map_err(IdentityError::Untrusted)?;
        }
        Ok(claims)
    }

    /// Whether the provider of this address is there, and is one.
    ///
    /// # Errors
    /// See [`IdentityError`].
    pub async fn check(&self, issuer: &str, now: Timestamp) -> Result<(), IdentityError> {
        self.discovery(&self.known(issuer), issuer, now).await.map(|_| ())
    }

    /// How the providers are: the one that is worst off; `None` when none was asked lately.
    pub fn health(&self) -> Option<Health> {
        let healths = self.known.iter().map(|(_, known)| known.guard.health());
        healths.max_by_key(|health| (health.outages, health.last_error.is_some()))
    }

    fn known(&self, issuer: &str) -> Arc<Known> {
        self.known.get_with_by_ref(issuer, || {
            // One for each: a provider that is away costs its own organisation alone.
            // Nobody looks whether it is back but who wants to sign in: an address that an organization has typed is not
            // asked on and on. So they may ask again soon.
            let breaker = Limits { open_for: Duration::from_secs(10), ..Limits::default() };
            let policy = Policy { attempts: 2, running: 16, waiting: 64, breaker, ..Policy::default() };
            Arc::new(Known {
                guard: Guard::new("identity", policy),
                discovery: Mutex::default(),
                keys: Mutex::default(),
            })
        })
    }

    async fn discovery(&self, known: &Known, issuer: &str, now: Timestamp) -> Result<Arc<Discovery>, IdentityError> {
        // Held while it is read, so that many ask once.
        let mut kept = known.discovery.lock().await;
        if let Some((read, discovery)) = &*kept
            && is_fresh(*read, now)
        {
            return Ok(Arc::clone(discovery));
        }
        let url = self.reach.url(&format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/')))?;
        let discovery: Discovery = known.guard.repeat(|| self.json(self.http.get(url.clone()))).await?;
        if discovery.issuer != issuer {
            return Err(IdentityError::Odd(format!("it calls itself {:.200}", discovery.issuer)));
        }
        let challenges = discovery.code_challenge_methods_supported.as_ref();
        if challenges.is_some_and(|methods| !methods.iter().any(|method| method == "S256")) {
            return Err(IdentityError::Odd("it does not know PKCE with S256".to_owned()));
        }
        let discovery = Arc::new(discovery);
        *kept = Some((now, Arc::clone(&discovery)));
        Ok(discovery)
    }

    /// The keys that it publishes; `missing`: one was not among those that are known.
    async fn keys(
        &self,
        known: &Known,
        discovery: &Discovery,
        now: Timestamp,
        missing: bool,
    ) -> Result<Arc<Vec<Jwk>>, IdentityError> {
        #[derive(Deserialize)]
        struct Set {
            keys: Vec<serde_json::Value>,
        }
        let mut kept = known.keys.lock().await;
        if kept.read.is_some_and(|read| is_fresh(read, now)) {
            if !missing {
                return Ok(Arc::clone(&kept.all));
            }
            kept.looks.retain(|look| now - *look < LOOKED_WITHIN);
            if kept.looks.len() >= LOOKS {
                return Ok(Arc::clone(&kept.all));
            }
            kept.looks.push(now);
        }
        let url = self.reach.url(&discovery.jwks_uri)?;
        let set: Set = known.guard.repeat(|| self.json(self.http.get(url.clone()))).await?;
        // A key of a kind that nobody here knows is no reason not to use the others.
        let keys = set.keys.into_iter().take(100).filter_map(|key| serde_json::from_value(key).ok());
        (kept.read, kept.all) = (Some(now), Arc::new(keys.collect()));
        Ok(Arc::clone(&kept.all))
    }

    async fn exchange(
        &self,
        known: &Known,
        discovery: &Discovery,
        client: Client<'_>,
        attempt: Attempt<'_>,
        code: &str,
    ) -> Result<Tokens, IdentityError> {
        let url = self.reach.url(&discovery.token_endpoint)?;
        let mut form = vec![
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", attempt.redirect_uri),
            ("code_verifier", attempt.verifier),
        ];
        let mut request = self.http.post(url).header(CONTENT_TYPE, "application/x-www-form-urlencoded");
        let methods = discovery.token_endpoint_auth_methods_supported.as_deref();
        let knows = |method: &str| methods.is_some_and(|methods| methods.iter().any(|known| known == method));
        match client.secret {
            None => form.push(("client_id", client.id)),
            // RFC 6749, 2.3.1: this is what everybody has to know, so it is what is meant when nothing is said.
            Some(secret) if methods.is_none() || knows("client_secret_basic") => {
                let encoded = |text: &str| byte_serialize(text.as_bytes()).collect::<String>();
                let both = format!("{}:{}", encoded(client.id), encoded(secret));
                request = request.header(AUTHORIZATION, format!("Basic {}", BASE64.encode(both.as_bytes())));
            }
            Some(secret) if knows("client_secret_post") => {
                form.extend([("client_id", client.id), ("client_secret", secret)]);
            }
            Some(_) => {
                let why = "it takes a client's secret neither by client_secret_basic nor by client_secret_post";
                return Err(IdentityError::Odd(why.to_owned()));
            }
        }
        // A code is good once: this is not repeated.
        let body = Serializer::new(String::new()).extend_pairs(form).finish();
        known.guard.once(self.json(request.body(body))).await
    }

    /// What it answers, within the bounds.
    async fn json<T: DeserializeOwned>(&self, request: reqwest::RequestBuilder) -> Result<T, IdentityError> {
        #[derive(Deserialize)]
        struct Said {
            error: String,
        }
        let request = request.header(ACCEPT, "application/json");
        let mut response = request.send().await.map_err(|error| IdentityError::unreachable(&error))?;
        let status = response.status();
        let mut body = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(|error| IdentityError::unreachable(&error))? {
            if body.len() + piece.len() > MAX_BODY {
                return Err(IdentityError::Odd("its answer is longer than a megabyte".to_owned()));
            }
            body.extend_from_slice(&piece);
        }
        if status.is_server_error() || status.as_u16() == 429 {
            return Err(IdentityError::Unreachable(format!("status {}", status.as_u16())));
        }
        if !status.is_success() {
            let said = serde_json::from_slice::<Said>(&body).map(|said| said.error).unwrap_or_default();
            if said == "invalid_grant" {
                return Err(IdentityError::Refused);
            }
            // Of what it says the code alone: the rest may be anything.
            let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
            let said: String = said.chars().filter(|c| is_word(*c)).take(60).collect();
            return Err(IdentityError::Odd(format!("status {} {said}", status.as_u16())));
        }
        serde_json::from_slice(&body).map_err(|_| IdentityError::Odd("its answer is not as expected".to_owned()))
    }
}

/// What a code is exchanged for.
#[derive(Deserialize)]
struct Tokens {
    id_token: String,
    access_token: Option<String>,
}

fn is_fresh(read: Timestamp, now: Timestamp) -> bool {
    read <= now && now - read < FRESH
}
