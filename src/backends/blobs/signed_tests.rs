#![allow(clippy::unwrap_used)]

use chrono::TimeDelta;
use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::blobs::BlobPrefix;

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000, 0).unwrap()
}

fn later(seconds: i64) -> DateTime<Utc> {
    now() + TimeDelta::seconds(seconds)
}

fn key(id: u128) -> BlobKey {
    BlobKey::fresh(BlobPrefix::new("files"), Uuid::from_u128(id))
}

fn keys() -> UrlKeys {
    UrlKeys::new("k1", &[7; 32])
}

fn put_url(size: PutSize) -> String {
    keys().presign_put(&key(1), &PutTerms::checked(later(60), size, Some("text/plain"), now()).unwrap()).url
}

fn get_url(name: &str) -> String {
    let disposition = Disposition::attachment(name);
    keys().presign_get(&key(1), &GetTerms::checked(later(60), &disposition, Some("a/b"), now()).unwrap()).url
}

#[test]
fn a_grant_is_what_was_signed() {
    let grant = keys().verify(&Method::PUT, &put_url(PutSize::AtMost(9)), now()).unwrap();
    let media_type = Some("text/plain".to_owned());
    assert_eq!(grant, Grant::Put { key: key(1), size: PutSize::AtMost(9), media_type, expires_at: later(60) });
    for method in [Method::GET, Method::HEAD] {
        let grant = keys().verify(&method, &get_url("ä & b=c?.txt"), now()).unwrap();
        let disposition = Disposition::attachment("ä & b=c?.txt");
        let media_type = Some("a/b".to_owned());
        assert_eq!(grant, Grant::Get { key: key(1), disposition, media_type, expires_at: later(60) });
    }
}

#[test]
fn it_expires_at_its_second() {
    let url = put_url(PutSize::Exactly(9));
    assert!(keys().verify(&Method::PUT, &url, later(60) - TimeDelta::microseconds(1)).is_ok());
    assert_eq!(keys().verify(&Method::PUT, &url, later(60)), Err(SignatureError::Expired));
    // Nobody learns from "expired" that a forged URL was otherwise right.
    let forged = url.replace("size=9", "size=90");
    assert_eq!(keys().verify(&Method::PUT, &forged, later(60)), Err(SignatureError::Invalid));
}

#[test]
fn another_method_key_or_parameter_is_refused() {
    let invalid = Err(SignatureError::Invalid);
    let put = put_url(PutSize::AtMost(9));
    for method in [Method::GET, Method::HEAD, Method::POST, Method::DELETE] {
        assert_eq!(keys().verify(&method, &put, now()), invalid, "{method}");
    }
    assert_eq!(keys().verify(&Method::PUT, &get_url("x"), now()), invalid);
    for (was, becomes) in [
        (key(1).to_string(), key(2).to_string()),
        ("max=9".to_owned(), "max=99".to_owned()),
        ("max=9".to_owned(), "size=9".to_owned()),
        ("max=9".to_owned(), "max=9&max=99".to_owned()),
        ("max=9".to_owned(), "max=9&more=1".to_owned()),
        ("max=9&".to_owned(), String::new()),
        (later(60).timestamp().to_string(), later(61).timestamp().to_string()),
        ("key=k1".to_owned(), "key=k2".to_owned()),
        ("text%2Fplain".to_owned(), "text%2Fhtml".to_owned()),
        ("signature=".to_owned(), "signature=A".to_owned()),
        ("/blobs/files/".to_owned(), "/blobs/../files/".to_owned()),
    ] {
        let forged = put.replace(&was, &becomes);
        assert_ne!(forged, put, "{was}");
        assert_eq!(keys().verify(&Method::PUT, &forged, now()), invalid, "{was} -> {becomes}");
    }
    for text in ["", "/", "/blobs/", "/blobs/files/x?", "?", "/blobs/%2e%2e/x?signature="] {
        assert_eq!(keys().verify(&Method::GET, text, now()), invalid, "{text}");
    }
    assert_eq!(UrlKeys::new("k1", &[8; 32]).verify(&Method::PUT, &put, now()), invalid);
}

#[test]
fn no_two_grants_have_the_same_signed_text() {
    let text = |method, key, parameters: &[(&'static str, &'static str)]| {
        signed_text(&method, &key, parameters.iter().copied())
    };
    let one = text(Method::GET, key(1), &[("a", "bc")]);
    assert_ne!(one, text(Method::PUT, key(1), &[("a", "bc")]));
    assert_ne!(one, text(Method::GET, key(2), &[("a", "bc")]));
    assert_ne!(one, text(Method::GET, key(1), &[("ab", "c")]));
    assert_ne!(one, text(Method::GET, key(1), &[("a", "b"), ("c", "")]));
}

#[test]
fn an_older_key_still_opens_and_the_new_one_signs() {
    let rotated = UrlKeys::new("k2", &[8; 32]).and_older("k1", &[7; 32]);
    assert!(rotated.verify(&Method::GET, &get_url("x"), now()).is_ok());
    let new =
        rotated.presign_get(&key(1), &GetTerms::checked(later(9), &Disposition::attachment("x"), None, now()).unwrap());
    assert!(rotated.verify(&Method::GET, &new.url, now()).is_ok());
    assert_eq!(keys().verify(&Method::GET, &new.url, now()), Err(SignatureError::Invalid));
}

#[test]
fn headers_are_held_to_the_grant() {
    let grant = keys().verify(&Method::PUT, &put_url(PutSize::AtMost(9)), now()).unwrap();
    let check = |grant: &Grant, headers: &[(http::HeaderName, &'static str)]| {
        grant.check_headers(
            &headers.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect(),
        )
    };
    let refused = Err(SignatureError::Headers);
    assert_eq!(check(&grant, &[(CONTENT_TYPE, "text/plain"), (CONTENT_LENGTH, "9")]), Ok(()));
    assert_eq!(check(&grant, &[(CONTENT_TYPE, "text/plain")]), Ok(()));
    assert_eq!(check(&grant, &[(CONTENT_TYPE, "text/plain"), (CONTENT_LENGTH, "10")]), refused);
    assert_eq!(check(&grant, &[(CONTENT_TYPE, "text/plain"), (CONTENT_LENGTH, "many")]), refused);
    assert_eq!(check(&grant, &[(CONTENT_TYPE, "text/html"), (CONTENT_LENGTH, "9")]), refused);
    assert_eq!(check(&grant, &[(CONTENT_LENGTH, "9")]), refused);
    let exact = keys().verify(&Method::PUT, &put_url(PutSize::Exactly(9)), now()).unwrap();
    assert_eq!(check(&exact, &[(CONTENT_TYPE, "text/plain"), (CONTENT_LENGTH, "8")]), refused);
}

#[test]
fn expiry_and_media_type_are_checked_before_signing() {
    let put = |expires_at, media_type| PutTerms::checked(expires_at, PutSize::AtMost(1), media_type, now());
    assert!(matches!(put(now(), None), Err(PresignError::Expiry)));
    assert!(matches!(put(later(7 * 86_400 + 1), None), Err(PresignError::Expiry)));
    assert!(put(later(7 * 86_400), None).is_ok());
    for media_type in ["", "text/plain\r\nx: y", "té/xt", &"x".repeat(256)] {
        assert!(matches!(put(later(1), Some(media_type)), Err(PresignError::MediaType)), "{media_type:?}");
    }
}

#[test]
fn a_disposition_is_safe_in_a_header() {
    let value = |name: &str| Disposition::attachment(name).header_value();
    assert_eq!(value("plan.pdf"), "attachment; filename=\"plan.pdf\"");
    assert_eq!(value("a\"b\r\nc/../d"), "attachment; filename=\"a_b__c_.._d\"; filename*=UTF-8''a%22b__c_.._d");
    assert_eq!(value("Büro.pdf"), "attachment; filename=\"B_ro.pdf\"; filename*=UTF-8''B%C3%BCro.pdf");
    let shown = Disposition { file_name: "x".to_owned(), inline: true };
    assert_eq!(shown.header_value(), "inline; filename=\"x\"");
}

#[test]
fn debug_shows_neither_keys_nor_signatures() {
    let secret = [0xab; 32];
    let shown = format!("{:?}", UrlKeys::new("k2", &secret).and_older("k1", &secret));
    assert_eq!(shown, "UrlKeys { current: \"k2\", older: [\"k1\"], .. }");
    let url = keys().presign_put(&key(1), &PutTerms::checked(later(60), PutSize::AtMost(1), None, now()).unwrap());
    assert!(!format!("{url:?}").contains("signature"));
}

proptest! {
    #[test]
    fn any_changed_byte_of_a_url_is_refused(name in ".{0,20}", at in any::<prop::sample::Index>(), byte in 0x20_u8..0x7f) {
        let url = get_url(&name);
        let right = keys().verify(&Method::GET, &url, now());
        prop_assert!(right.is_ok());
        let mut bytes = url.clone().into_bytes();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let changed = String::from_utf8(bytes).unwrap();
        // An escape may be written in two ways; what it says is the same, or it is refused.
        let verified = keys().verify(&Method::GET, &changed, now());
        prop_assert!(verified.is_err() || verified == right);
    }

    #[test]
    fn any_disposition_is_a_header(name in "\\PC{0,300}|.{0,40}|[\\x00-\\x7f]{0,40}") {
        prop_assert!(HeaderValue::from_str(&Disposition::attachment(name).header_value()).is_ok());
    }
}
