//! What other servers are told of the trace in which they are asked: the header `traceparent` (W3C Trace Context).

use async_trait::async_trait;
use aws_sdk_s3::config::interceptors::BeforeTransmitInterceptorContextMut;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;
use futures::{AsyncRead, AsyncReadExt};
use http::header::CONTENT_TYPE;
use meilisearch_sdk::errors::Error;
use meilisearch_sdk::request::{HttpClient, Method, parse_response};
use oriel_kernel::trace::current;
use serde::Serialize;
use serde::de::DeserializeOwned;

const TRACEPARENT: &str = "traceparent";

/// Tells a server of AWS, or one that speaks its protocols. The header is no part of the signature: who stands between
/// may write another.
#[derive(Debug)]
pub(crate) struct ToAws;

impl Intercept for ToAws {
    fn name(&self) -> &'static str {
        "traceparent"
    }

    fn modify_before_transmit(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if let Some(place) = current() {
            context.request_mut().headers_mut().insert(TRACEPARENT, place.to_string());
        }
        Ok(())
    }
}

/// Asks a Meilisearch server, and tells it. The SDK's own client has no way to say something with one request.
#[derive(Clone)]
pub(crate) struct ToMeilisearch {
    http: reqwest::Client,
    key: Option<String>,
}

impl ToMeilisearch {
    /// With this key.
    ///
    /// # Errors
    /// When TLS is not to be had.
    pub(crate) fn new(key: Option<&str>) -> Result<Self, reqwest::Error> {
        Ok(Self { http: reqwest::Client::builder().build()?, key: key.map(str::to_owned) })
    }
}

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Other(Box::new(error))
}

#[async_trait]
impl HttpClient for ToMeilisearch {
    async fn stream_request<
        Query: Serialize + Send + Sync,
        Body: AsyncRead + Send + Sync + 'static,
        Output: DeserializeOwned + 'static,
    >(
        &self,
        url: &str,
        method: Method<Query, Body>,
        content_type: &str,
        expected_status_code: u16,
    ) -> Result<Output, Error> {
        let url = format!("{url}{}", yaup::to_string(method.query())?);
        let verb = match &method {
            Method::Get { .. } => http::Method::GET,
            Method::Post { .. } => http::Method::POST,
            Method::Patch { .. } => http::Method::PATCH,
            Method::Put { .. } => http::Method::PUT,
            Method::Delete { .. } => http::Method::DELETE,
        };
        let mut request = self.http.request(verb, &url);
        if let Some(key) = &self.key {
            request = request.bearer_auth(key);
        }
        if let Some(place) = current() {
            request = request.header(TRACEPARENT, place.to_string());
        }
        if let Some(body) = method.into_body() {
            // What is sent is in memory already: batches are bounded.
            let mut bytes = Vec::new();
            std::pin::pin!(body).read_to_end(&mut bytes).await.map_err(failed)?;
            request = request.header(CONTENT_TYPE, content_type).body(bytes);
        }
        let response = request.send().await.map_err(failed)?;
        let status = response.status().as_u16();
        let body = response.text().await.map_err(failed)?;
        let body = if body.is_empty() { "null" } else { &body };
        parse_response(status, expected_status_code, body, url)
    }

    fn is_tokio(&self) -> bool {
        true
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::net::SocketAddr;

    use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
    use axum::Router;
    use axum::http::HeaderMap;
    use meilisearch_sdk::client::Client;
    use oriel_kernel::EventId;
    use oriel_kernel::trace::{Place, Tracer, install};
    use tokio::net::TcpListener;
    use tokio::sync::mpsc;
    use tracing::Span;
    use uuid::Uuid;

    use super::*;

    /// Everything of this process happens here.
    const HERE: Place = Place { trace: Uuid::from_u128(0x4bf9_2f35), span: 7, flags: 1 };

    struct Always;

    impl Tracer for Always {
        fn follow(&self, _: &Span, _: Place) {}
        fn link(&self, _: &Span, _: Place) {}
        fn identify(&self, _: &Span, _: EventId) {}
        fn current(&self) -> Option<Place> {
            Some(HERE)
        }
    }

    /// A server that answers nothing and keeps what it was told.
    async fn server() -> (SocketAddr, mpsc::UnboundedReceiver<HeaderMap>) {
        let (told, heard) = mpsc::unbounded_channel();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().fallback(move |headers: HeaderMap| async move {
            told.send(headers).unwrap();
            http::StatusCode::NOT_FOUND
        });
        tokio::spawn(async move { axum::serve(listener, router).await });
        (address, heard)
    }

    #[tokio::test]
    async fn other_servers_are_told_the_trace() {
        install(Box::new(Always));
        let (address, mut heard) = server().await;
        let s3 = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("x"))
            .credentials_provider(Credentials::new("k", "s", None, None, "test"))
            .force_path_style(true)
            .endpoint_url(format!("http://{address}"))
            .interceptor(ToAws);
        let asked = aws_sdk_s3::Client::from_conf(s3.build()).head_object().bucket("b").key("k").send().await;
        assert!(asked.is_err());
        let headers = heard.recv().await.unwrap();
        assert_eq!(headers[TRACEPARENT], HERE.to_string());
        assert!(!headers["authorization"].to_str().unwrap().contains("traceparent"), "it is not signed: {headers:?}");

        let client = ToMeilisearch::new(Some("key")).unwrap();
        let client = Client::new_with_client(format!("http://{address}"), Some("key"), client);
        assert!(client.get_stats().await.is_err());
        let headers = heard.recv().await.unwrap();
        assert_eq!(headers[TRACEPARENT], HERE.to_string());
        assert_eq!(headers["authorization"], "Bearer key");
    }
}
