//! The page at `/`: a console for the endpoint, in plain HTML, CSS and JavaScript, part of the program; or another one,
//! such as GraphiQL, from a folder of the operator's.
//!
//! Invariant: the console needs nothing from anywhere else, nor an exception from the policy `default-src 'self'`.

use std::path::Path;

use axum::extract::Path as Captured;
use axum::http::HeaderValue;
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};
use tower_http::services::{ServeDir, ServeFile};

use super::HttpState;
use super::access::Exchange;
use super::health::nothing_here;

/// For a page of the operator's: the editor of GraphiQL writes its styles itself, with fonts and signs inside. Scripts
/// come from here alone, whatever the page.
const POLICY_OF_FOLDER: HeaderValue = HeaderValue::from_static(
    "default-src 'self'; style-src 'self' 'unsafe-inline'; font-src 'self' data:; img-src 'self' data:",
);

const PAGE: &str = include_str!("../console/index.html");

/// What the page loads: name, media type, contents.
const FILES: [(&str, &str, &str); 6] = [
    ("console.css", "text/css; charset=utf-8", include_str!("../console/console.css")),
    ("console.js", "text/javascript; charset=utf-8", include_str!("../console/console.js")),
    ("client.js", "text/javascript; charset=utf-8", include_str!("../console/client.js")),
    ("schema.js", "text/javascript; charset=utf-8", include_str!("../console/schema.js")),
    ("text.js", "text/javascript; charset=utf-8", include_str!("../console/text.js")),
    ("icon.svg", "image/svg+xml", include_str!("../console/icon.svg")),
];

/// The page and what it loads: of the program, or of a folder with `index.html` and `console/`.
pub fn routes(folder: Option<&Path>) -> Router<HttpState> {
    let Some(folder) = folder else {
        return Router::new().route("/", get(page)).route("/console/{name}", get(file));
    };
    Router::new()
        .route_service("/", ServeFile::new(folder.join("index.html")))
        .nest_service("/console", ServeDir::new(folder.join("console")))
        .layer(map_response(of_folder))
}

/// A file of the operator's: its date says whether a browser has it already.
async fn of_folder(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, POLICY_OF_FOLDER);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

async fn page() -> Response {
    serve("text/html; charset=utf-8", PAGE)
}

async fn file(Captured(name): Captured<String>, exchange: Extension<Exchange>) -> Response {
    match FILES.iter().find(|(known, ..)| *known == name) {
        Some((_, media_type, text)) => serve(media_type, text),
        None => nothing_here(exchange).await,
    }
}

/// A browser asks each time: another release may be there.
fn serve(media_type: &'static str, text: &'static str) -> Response {
    ([(CONTENT_TYPE, media_type), (CACHE_CONTROL, "no-cache")], text).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_names_nothing_of_elsewhere_and_loads_only_what_is_there() {
        for (name, _, text) in FILES.into_iter().chain([("index.html", "", PAGE)]) {
            let addresses = text.replace("http://www.w3.org/2000/svg", "");
            assert!(!addresses.contains("://") && !addresses.contains("\"//"), "{name} names another host");
            for inline in ["<style", " style=", " onclick=", "javascript:", "eval(", "innerHTML", "data:"] {
                assert!(!text.contains(inline), "{name} has `{inline}`");
            }
        }
        for (at, _) in PAGE.match_indices("console/") {
            let rest = PAGE[at + "console/".len()..].split('"').next().unwrap_or_default();
            assert!(FILES.iter().any(|(name, ..)| *name == rest), "the page loads {rest}");
        }
    }
}
