//! Connects to the store that a URL names.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::local::LocalFileSystem;
use object_store::{BackoffConfig, ClientOptions, RetryConfig};

use super::Store;
use super::http::BoundedConnector;
use crate::error::{Error, Result};
use crate::options::{AwsVariables, BlobOptions};

/// The variables that are passed on to the client. Others would weaken TLS or change the
/// timeouts.
const VARIABLES: &[&str] = &[
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_DEFAULT_REGION",
    "AWS_REGION",
    "AWS_ENDPOINT",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_ENDPOINT_URL_STS",
    "AWS_VIRTUAL_HOSTED_STYLE_REQUEST",
    "AWS_METADATA_ENDPOINT",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_ROLE_ARN",
    "AWS_ROLE_SESSION_NAME",
    "AWS_SERVER_SIDE_ENCRYPTION",
    "AWS_SSE_KMS_KEY_ID",
    "AWS_SSE_BUCKET_KEY_ENABLED",
    "AWS_REQUEST_PAYER",
    "AWS_DISABLE_BULK_DELETE",
];
/// The variables of which one names credentials.
const CREDENTIALS: [&str; 4] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
];
/// The delays between retries.
const BACKOFF: BackoffConfig = BackoffConfig {
    init_backoff: Duration::from_millis(100),
    max_backoff: Duration::from_secs(10),
    base: 2.0,
};

/// The parts of a URL.
#[derive(Debug, PartialEq, Eq)]
enum Address<'a> {
    S3 { bucket: &'a str, prefix: &'a str },
    Directory(&'a Path),
}

impl Store {
    /// Connects to the store of a URL. Sends no request yet.
    pub(crate) fn connect(url: &str, options: &BlobOptions) -> Result<Self> {
        let operation_timeout = options.operation_timeout;
        match Address::parse(url)? {
            Address::S3 { bucket, prefix } => {
                let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
                let variables = &options.variables;
                let hint = if CREDENTIALS.iter().any(|name| variables.get(name).is_some()) {
                    ""
                } else {
                    "; AWS_ACCESS_KEY_ID is not set, so that credentials are requested from the \
                     machine's metadata service"
                };
                let inner = Arc::new(s3(bucket, options)?);
                Ok(Self { inner, prefix, hint, operation_timeout })
            }
            Address::Directory(directory) => {
                if !directory.is_dir() {
                    let shown = directory.display();
                    let what = format!(
                        "the directory {shown} of the object store does not exist: create it, \
                         mount the file system, or change the URL"
                    );
                    return Err(Error::Config { what });
                }
                let opened = LocalFileSystem::new_with_prefix(directory);
                let opened = opened.map_err(|error| Error::Config {
                    what: format!("cannot open the directory of the object store: {error}"),
                })?;
                let inner = Arc::new(opened.with_fsync(true));
                Ok(Self { inner, prefix: String::new(), hint: "", operation_timeout })
            }
        }
    }
}

impl<'a> Address<'a> {
    fn parse(url: &'a str) -> Result<Self> {
        let parsed = if let Some(rest) = url.strip_prefix("s3://") {
            Self::parse_s3(rest)
        } else if let Some(path) = url.strip_prefix("file://") {
            Self::parse_directory(path)
        } else {
            None
        };
        parsed.ok_or_else(|| {
            // What stands before an `@` may be a password.
            let shown = if url.contains('@') { "the given text" } else { url };
            let what = format!(
                "not the URL of an object store: `{shown}`. Use s3://BUCKET or \
                 s3://BUCKET/PREFIX, with letters, digits and `.`, `_`, `-` in the prefix, or \
                 file:///ABSOLUTE/DIRECTORY; credentials and the endpoint are in variables \
                 AWS_..."
            );
            Error::Config { what }
        })
    }

    fn parse_s3(rest: &'a str) -> Option<Self> {
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
        let is_plain = |text: &str| {
            !text.is_empty()
                && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
                && !text.starts_with('.')
        };
        let valid = is_plain(bucket)
            && (3..=63).contains(&bucket.len())
            && prefix.len() <= 512
            && (prefix.is_empty() || prefix.split('/').all(is_plain));
        valid.then_some(Self::S3 { bucket, prefix })
    }

    fn parse_directory(path: &'a str) -> Option<Self> {
        let is_escaped = path.contains(['%', '?', '#']);
        let is_normal = path.split('/').all(|part| part != "..");
        (path.starts_with('/') && !is_escaped && is_normal)
            .then(|| Self::Directory(Path::new(path)))
    }
}

fn s3(bucket: &str, options: &BlobOptions) -> Result<impl object_store::ObjectStore + use<>> {
    let variables = &options.variables;
    let client = ClientOptions::new()
        .with_allow_http(allows_http(variables)?)
        .with_connect_timeout(options.connect_timeout)
        .with_read_timeout(options.stall_timeout)
        .with_timeout(options.request_timeout);
    let retry = RetryConfig {
        backoff: BACKOFF,
        max_retries: options.max_retries,
        retry_timeout: options.operation_timeout,
    };
    let mut builder = AmazonS3Builder::new();
    for name in VARIABLES {
        let Some(value) = variables.get(name) else { continue };
        if let Ok(key) = name.to_ascii_lowercase().parse::<AmazonS3ConfigKey>() {
            builder = builder.with_config(key, value);
        }
    }
    let built = builder
        .with_bucket_name(bucket)
        .with_client_options(client)
        .with_retry(retry)
        .with_http_connector(BoundedConnector)
        .build();
    built.map_err(|error| Error::Config {
        what: format!("the variables AWS_... for the object store are not valid: {error}"),
    })
}

/// Reports whether requests may be sent without TLS. Fails if the endpoint needs it and it
/// is not allowed.
fn allows_http(variables: &AwsVariables) -> Result<bool> {
    let endpoint = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"]
        .iter()
        .find_map(|name| Some((name, variables.get(name)?)));
    let Some((name, endpoint)) = endpoint else { return Ok(false) };
    let wrong = |reason: &str| Error::Config {
        what: format!(
            "the variable {name} is not a valid endpoint: {reason}. Use https://HOST:PORT"
        ),
    };
    let uri: Uri = endpoint.parse().map_err(|_| wrong("it is not a URL"))?;
    let host = uri.host().ok_or_else(|| wrong("it has no host"))?;
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err(wrong("it has a user name"));
    }
    match uri.scheme_str() {
        Some("https") => Ok(false),
        Some("http") => {
            let address = host.trim_start_matches('[').trim_end_matches(']');
            let is_loopback = address == "localhost"
                || address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
            let is_allowed = variables
                .get("AWS_ALLOW_HTTP")
                .is_some_and(|value| value.eq_ignore_ascii_case("true"));
            if is_loopback || is_allowed {
                return Ok(true);
            }
            Err(wrong(&format!(
                "http:// is allowed for addresses of this machine only, and {host} is none; to \
                 send requests without encryption nevertheless, set AWS_ALLOW_HTTP=true"
            )))
        }
        _ => Err(wrong("its scheme is neither https nor http")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(pairs: &[(&str, &str)]) -> AwsVariables {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn valid_urls_are_parsed() {
        for (url, bucket, prefix) in [
            ("s3://bucket", "bucket", ""),
            ("s3://bucket/", "bucket", ""),
            ("s3://my-bucket.x/a/b_c.d/", "my-bucket.x", "a/b_c.d"),
        ] {
            assert_eq!(Address::parse(url).unwrap(), Address::S3 { bucket, prefix });
        }
        let directory = Address::parse("file:///srv/blobs").unwrap();
        assert_eq!(directory, Address::Directory(Path::new("/srv/blobs")));
    }

    #[test]
    fn other_urls_are_refused_with_what_is_allowed() {
        for url in [
            "",
            "bucket",
            "s3://",
            "s3://ab",
            "s3:///prefix",
            "s3://bucket//a",
            "s3://bucket/../a",
            "s3://bucket/.a",
            "s3://bucket/a?b",
            "s3://bucket/a b",
            "https://bucket.s3.amazonaws.com",
            "gs://bucket",
            "file://relative",
            "file://",
            "file:///a/../b",
            "file:///a%20b",
        ] {
            let error = Address::parse(url).unwrap_err().to_string();
            assert!(error.contains("s3://BUCKET/PREFIX") && error.contains(url), "{error}");
        }
        let error = Address::parse("s3://user:hunter2@bucket").unwrap_err().to_string();
        assert!(!error.contains("hunter2"), "{error}");
    }

    #[test]
    fn http_needs_a_loopback_address_or_permission() {
        let allowed = |endpoint: &str| allows_http(&variables(&[("AWS_ENDPOINT_URL", endpoint)]));
        assert!(!allowed("https://s3.example.com").unwrap());
        for endpoint in ["http://127.0.0.1:9000", "http://localhost:9000/", "http://[::1]:9000"] {
            assert!(allowed(endpoint).unwrap(), "{endpoint}");
        }
        for endpoint in
            ["http://s3.example.com", "http://127.0.0.1.example.com", "ftp://a", "/a", "http://u@a"]
        {
            assert!(matches!(allowed(endpoint), Err(Error::Config { .. })), "{endpoint}");
        }
        let endpoint = ("AWS_ENDPOINT_URL", "http://s3.example.com");
        assert!(allows_http(&variables(&[endpoint, ("AWS_ALLOW_HTTP", "true")])).unwrap());
        assert!(allows_http(&variables(&[endpoint, ("AWS_ALLOW_HTTP", "no")])).is_err());
        // The endpoint of S3 has priority, as in the client.
        let both = [endpoint, ("AWS_ENDPOINT_URL_S3", "https://s3.example.com")];
        assert!(!allows_http(&variables(&both)).unwrap());
        assert!(!allows_http(&variables(&[])).unwrap());
    }

    #[test]
    fn every_passed_variable_is_known_to_the_client() {
        for name in VARIABLES {
            let key = name.to_ascii_lowercase().parse::<AmazonS3ConfigKey>();
            assert!(key.is_ok(), "{name}");
        }
    }
}
