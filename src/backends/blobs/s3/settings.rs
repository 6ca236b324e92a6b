//! Where a bucket is and what opens it: a URL, and the usual variables of the environment.
//!
//! Errors never repeat what was written, because secrets are easily written into the wrong place.

use aws_sdk_s3::types::ServerSideEncryption;
use url::Url;

use super::super::OpenError;
use crate::aws::region;

/// Where a bucket is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct S3Settings {
    pub(super) bucket: String,
    /// What stands before each key: empty, or ending with a slash.
    pub(super) base: String,
    pub(super) region: String,
    pub(super) endpoint: Option<String>,
    pub(super) public_endpoint: Option<String>,
    pub(super) path_style: bool,
    pub(super) encryption: Option<Encryption>,
    pub(super) versions: Versions,
}

/// How the store encrypts what it keeps. Without it: as the bucket says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Encryption {
    pub(super) algorithm: ServerSideEncryption,
    /// The key in the store's key management; without it that of the bucket.
    pub(super) key: Option<String>,
}

/// What becomes of the versions of a blob that is removed, in a bucket that keeps versions.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Versions {
    /// They go with it: what is purged is gone.
    #[default]
    Remove,
    /// They stay, for as long as a lifecycle rule of the bucket lets them.
    Keep,
}

impl S3Settings {
    /// Reads `s3://bucket[/folder]?endpoint=..&public_endpoint=..&region=..&path_style=..&encryption=..&kms_key=..
    /// &versions=..`; what it does not say is looked up in the usual variables of the environment. `public_endpoint` is
    /// the address under which clients reach the store, where that differs. With an endpoint of one's own, path style
    /// is the default. `encryption` is AES256 or aws:kms, `versions` keep or remove.
    pub fn parse(url: &Url, variable: impl Fn(&str) -> Option<String>) -> Result<Self, OpenError> {
        let wrong = |what: &str| OpenError::Url(what.to_owned());
        if !url.username().is_empty() || url.password().is_some() {
            return Err(wrong("credentials belong into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"));
        }
        let bucket = url.host_str().filter(|bucket| !bucket.is_empty()).ok_or_else(|| wrong("it names no bucket"))?;
        let base = url.path().trim_matches('/');
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '-' | '_' | '.' | '=');
        if !base.chars().all(is_plain) || base.split('/').any(|part| matches!(part, "." | "..")) {
            return Err(wrong("its folder is written with a-z A-Z 0-9 / - _ . ="));
        }
        let mut settings = Self {
            bucket: bucket.to_owned(),
            base: if base.is_empty() { String::new() } else { format!("{base}/") },
            region: region(&variable),
            endpoint: ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"].into_iter().find_map(&variable),
            public_endpoint: None,
            path_style: false,
            encryption: None,
            versions: Versions::default(),
        };
        let (mut path_style, mut algorithm, mut key) = (None, None, None);
        for (name, value) in url.query_pairs() {
            match (&*name, &*value) {
                ("endpoint", value) => settings.endpoint = Some(endpoint(value)?),
                ("public_endpoint", value) => settings.public_endpoint = Some(endpoint(value)?),
                ("region", value) if !value.is_empty() => settings.region = value.to_owned(),
                ("path_style", "true") => path_style = Some(true),
                ("path_style", "false") => path_style = Some(false),
                ("encryption", "AES256") => algorithm = Some(ServerSideEncryption::Aes256),
                ("encryption", "aws:kms") => algorithm = Some(ServerSideEncryption::AwsKms),
                ("kms_key", value) if !value.is_empty() => key = Some(value.to_owned()),
                ("versions", "remove") => settings.versions = Versions::Remove,
                ("versions", "keep") => settings.versions = Versions::Keep,
                ("region" | "path_style", _) => return Err(wrong("`region` is a name, `path_style` true or false")),
                ("encryption" | "kms_key" | "versions", _) => {
                    return Err(wrong(
                        "`encryption` is AES256 or aws:kms, `kms_key` a name, `versions` keep or remove",
                    ));
                }
                _ => {
                    return Err(wrong(
                        "it knows endpoint, public_endpoint, region, path_style, encryption, kms_key and versions",
                    ));
                }
            }
        }
        settings.encryption = match (algorithm, key) {
            (Some(ServerSideEncryption::AwsKms), key) => {
                Some(Encryption { algorithm: ServerSideEncryption::AwsKms, key })
            }
            (algorithm, None) => algorithm.map(|algorithm| Encryption { algorithm, key: None }),
            (_, Some(_)) => return Err(wrong("`kms_key` needs `encryption=aws:kms`")),
        };
        settings.path_style = path_style.unwrap_or(settings.endpoint.is_some());
        Ok(settings)
    }
}

fn endpoint(text: &str) -> Result<String, OpenError> {
    match Url::parse(text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() && url.username().is_empty() => {
            Ok(text.trim_end_matches('/').to_owned())
        }
        _ => Err(OpenError::Url("an endpoint reads http(s)://host:port".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn parse(url: &str, environment: &[(&str, &str)]) -> Result<S3Settings, OpenError> {
        S3Settings::parse(&Url::parse(url).unwrap(), |name| {
            environment.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn a_url_says_where_the_bucket_is_and_the_environment_the_rest() {
        let own =
            parse("s3://files/a/b?endpoint=http://127.0.0.1:9000/&region=here&public_endpoint=https://s3.example", &[]);
        let own = own.unwrap();
        assert_eq!((own.bucket.as_str(), own.base.as_str(), own.region.as_str()), ("files", "a/b/", "here"));
        assert_eq!(own.endpoint.as_deref(), Some("http://127.0.0.1:9000"));
        assert_eq!(own.public_endpoint.as_deref(), Some("https://s3.example"));
        assert!(own.path_style);
        assert!(!parse("s3://files?endpoint=http://x&path_style=false", &[]).unwrap().path_style);

        assert_eq!((own.encryption, own.versions), (None, Versions::Remove));
        let kept = parse("s3://files?encryption=aws:kms&kms_key=alias/oriel&versions=keep", &[]).unwrap();
        let encryption = Encryption { algorithm: ServerSideEncryption::AwsKms, key: Some("alias/oriel".to_owned()) };
        assert_eq!((kept.encryption, kept.versions), (Some(encryption), Versions::Keep));

        let aws = parse("s3://files", &[("AWS_DEFAULT_REGION", "eu-central-1")]).unwrap();
        assert_eq!((aws.region.as_str(), aws.endpoint.clone(), aws.path_style), ("eu-central-1", None, false));
    }

    #[test]
    fn a_wrong_url_is_refused_without_repeating_its_secret() {
        for url in [
            "s3://key:hunter2@files",
            "s3://",
            "s3://files?endpoint=hunter2",
            "s3://files?endpoint=ftp://x",
            "s3://files?hunter2=1",
            "s3://files?path_style=yes",
            "s3://files/hunter%202",
            "s3://files?encryption=hunter2",
            "s3://files?kms_key=hunter2",
            "s3://files?encryption=AES256&kms_key=hunter2",
            "s3://files?versions=hunter2",
        ] {
            let error = parse(url, &[]).unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{url}: {error}");
        }
    }
}
