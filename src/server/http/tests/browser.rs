//! What a browser is told, and what a page of another site cannot do.

use super::*;

const SAFE: [(&str, &str); 4] = [
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("content-security-policy", "default-src 'self'"),
    ("referrer-policy", "no-referrer"),
];
const HSTS: &str = "max-age=31536000; includeSubDomains";

/// One request for each route, with what it is answered and how long the answer may be kept.
const ROUTES: [(&str, &str, u16, &str); 13] = [
    ("GET", "/", 200, "no-cache"),
    ("GET", "/console/console.js", 200, "no-cache"),
    ("GET", "/console/nothing.js", 404, "no-store"),
    ("GET", "/graphql?query=%7B__typename%7D", 200, "private, no-cache"),
    ("GET", "/graphql", 400, "no-store"),
    ("POST", "/graphql", 415, "no-store"),
    ("DELETE", "/graphql", 404, "no-store"),
    ("GET", "/graphql.schema", 200, "private, no-cache"),
    ("GET", "/blobs/none", 403, "no-store"),
    ("GET", "/health/live", 200, "no-store"),
    ("GET", "/health/ready", 200, "no-store"),
    ("GET", "/metrics", 404, "no-store"),
    ("GET", "/nothing", 404, "no-store"),
];

#[tokio::test]
async fn every_route_tells_a_browser_to_be_careful() {
    let (plain, secure) = (Bed::new().await, Bed::set(&[("base_url", "https://oriel.example")]).await);
    for (method, path, status, kept) in ROUTES {
        for (bed, hsts) in [(&plain, ""), (&secure, HSTS)] {
            let request = Request::builder().method(method).uri(path);
            let heard = bed.send(with(request, &[], Body::empty())).await;
            assert_eq!(heard.status.as_u16(), status, "{method} {path}: {}", heard.text());
            for (name, value) in SAFE {
                assert_eq!(heard.header(name), value, "{method} {path}: {name}");
                assert_eq!(heard.headers.get_all(name).iter().count(), 1, "{method} {path}: {name}");
            }
            assert_eq!(heard.header("strict-transport-security"), hsts, "{method} {path}");
            assert_eq!(heard.header("cache-control"), kept, "{method} {path}");
            for name in ["x-request-id", "traceresponse", "content-type"] {
                assert!(!heard.header(name).is_empty(), "{method} {path} has no {name}");
            }
            for name in ["access-control-allow-origin", "access-control-allow-credentials", "server", "set-cookie"] {
                assert_eq!(heard.header(name), "", "{method} {path}: {name}");
            }
        }
    }
}

#[tokio::test]
async fn an_application_of_another_origin_sends_and_reads_what_it_needs() {
    let bed = Bed::set(&[("cors_origins", "https://app.example"), ("rate_limit", "1000")]).await;
    let origin = ("origin", "https://app.example");
    for (method, header) in [
        ("POST", "authorization,content-type,oriel-at-least,traceparent,tracestate,x-request-id"),
        ("POST", "graphql-require-preflight,apollo-require-preflight,x-requested-with"),
        ("GET", "if-none-match,authorization,x-graphql-event-stream-token"),
        ("PUT", "content-type"),
        ("DELETE", "x-graphql-event-stream-token"),
    ] {
        let asks = [origin, ("access-control-request-method", method), ("access-control-request-headers", header)];
        let heard = bed.send(with(Request::options("/graphql"), &asks, Body::empty())).await;
        assert_eq!((heard.status.as_u16(), heard.header("access-control-allow-origin")), (200, "https://app.example"));
        assert!(heard.header("access-control-allow-methods").split(',').any(|m| m.trim() == method), "{method}");
        let allowed: Vec<&str> = heard.header("access-control-allow-headers").split(',').map(str::trim).collect();
        assert!(header.split(',').all(|name| allowed.contains(&name)), "{header}: {allowed:?}");
        assert_eq!(heard.header("access-control-max-age"), "3600");
        // The token is sent by hand: a cookie of the user's never goes with it.
        assert_eq!(heard.header("access-control-allow-credentials"), "");
    }

    let read = bed.get("/graphql?query=%7B__typename%7D", &[origin]).await;
    assert_eq!(read.header("access-control-allow-origin"), "https://app.example");
    let varies = |name: &str| read.headers.get_all("vary").iter().any(|value| value.to_str().unwrap().contains(name));
    assert!(varies("origin") && varies("accept") && varies("authorization"), "{:?}", read.headers);
    let exposed: Vec<&str> = read.header("access-control-expose-headers").split(',').map(str::trim).collect();
    for name in ["etag", "ratelimit", "ratelimit-policy", "retry-after", "x-request-id", "traceresponse"] {
        assert!(exposed.contains(&name), "{name}: {exposed:?}");
    }

    let other = ("origin", "https://app.example.evil");
    let asks = [other, ("access-control-request-method", "POST"), ("access-control-request-headers", "authorization")];
    for heard in [
        bed.send(with(Request::options("/graphql"), &asks, Body::empty())).await,
        bed.get("/graphql?query=%7B__typename%7D", &[other]).await,
    ] {
        assert_eq!(heard.header("access-control-allow-origin"), "");
    }
}

/// A form, a link and a script of another site send without a preflight only what is listed here.
#[tokio::test]
async fn what_a_form_of_another_site_can_send_is_refused() {
    let bed = Bed::new().await;
    let register = "mutation { register(input: {organizationName: \"evil\", email: \"e@example.com\", name: \"E\", \
                    password: \"violet-otter-93-lamp\"}) { accessToken } }";
    let body = json!({ "query": register }).to_string();
    for simple in ["text/plain", "text/plain; charset=application/json", "application/x-www-form-urlencoded", ""] {
        let heard = bed.post(&[("content-type", simple)], body.clone()).await;
        assert_eq!(heard.refusal(), (415, "BAD_REQUEST".to_owned()), "{simple}");
    }
    let form = format!(
        "--b\r\ncontent-disposition: form-data; name=\"operations\"\r\n\r\n{body}\r\n\
         --b\r\ncontent-disposition: form-data; name=\"map\"\r\n\r\n{{}}\r\n--b--\r\n"
    );
    let heard = bed.post(&[("content-type", "multipart/form-data; boundary=b")], form).await;
    assert_eq!(heard.refusal(), (400, "BAD_REQUEST".to_owned()), "{}", heard.text());
    assert!(heard.text().contains("GraphQL-Require-Preflight"), "it says how to mend it: {}", heard.text());

    let link = register.bytes().map(|byte| format!("%{byte:02x}")).collect::<String>();
    for accept in ["*/*", "text/event-stream", "application/graphql-response+json"] {
        let heard = bed.get(&format!("/graphql?query={link}"), &[("accept", accept)]).await;
        assert_eq!((heard.status.as_u16(), heard.header("allow")), (405, "POST"), "{accept}");
    }
    assert_eq!(bed.installation.engine.feed().head(), Position::START, "nothing was changed");
}

/// A browser opens sockets to wherever a page wants, and shows it what is said: no preflight, no CORS.
#[tokio::test]
async fn a_page_of_another_site_opens_no_socket() {
    let bed = Bed::set(&[("cors_origins", "https://app.example"), ("base_url", "https://oriel.example/at")]).await;
    let open = async |origin: &str| {
        let headers = [
            ("host", "127.0.0.1:8080"),
            ("origin", origin),
            ("connection", "upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("sec-websocket-protocol", "graphql-transport-ws"),
        ];
        bed.get("/graphql", &headers).await
    };
    for other in
        ["https://evil.example", "null", "http://127.0.0.1:80801", "https://oriel.example.evil", "https://oriel"]
    {
        assert_eq!(open(other).await.refusal(), (403, "FORBIDDEN".to_owned()), "{other}");
    }
    for known in ["http://127.0.0.1:8080", "https://127.0.0.1:8080", "https://oriel.example", "https://app.example"] {
        // As far as a request without a connection comes.
        assert_eq!(open(known).await.status, 426, "{known}");
    }
}

#[tokio::test]
async fn an_operator_can_have_another_page() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("console")).unwrap();
    std::fs::write(folder.path().join("index.html"), "another page").unwrap();
    std::fs::write(folder.path().join("console/page.js"), "run()").unwrap();
    std::fs::write(folder.path().join("secret"), "secret").unwrap();
    let bed = Bed::set(&[("console_dir", folder.path().to_str().unwrap())]).await;
    for (path, media_type, text) in
        [("/", "text/html", "another page"), ("/console/page.js", "text/javascript", "run()")]
    {
        let heard = bed.get(path, &[]).await;
        assert_eq!(
            (heard.status.as_u16(), heard.header("content-type"), heard.text().as_str()),
            (200, media_type, text)
        );
        let policy = heard.header("content-security-policy");
        assert!(policy.starts_with("default-src 'self'; ") && !policy.contains("script") && !policy.contains("eval"));
        assert_eq!((heard.header("cache-control"), heard.header("x-content-type-options")), ("no-cache", "nosniff"));
        let since = bed.get(path, &[("if-modified-since", heard.header("last-modified"))]).await;
        assert_eq!(since.status, 304, "it is not sent again");
    }
    for outside in
        ["/console/../secret", "/console/%2e%2e/secret", "/console/..%2fsecret", "/console/console.js", "/secret"]
    {
        assert_eq!(bed.get(outside, &[]).await.status, 404, "{outside}");
    }
    assert_eq!(bed.post(&[], r#"{"query":"{ __typename }"}"#).await.status, 200);
}
