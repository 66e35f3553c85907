//! Parsing of port URLs: the run, the port, and the path.

use isorun_api::RunId;

/// The form of a port URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UrlForm {
    /// `/v1/runs/<run>/proxy/<port>/`, with an API key.
    Key,
    /// `/sb/<run>/p/<port>/` on the server's host name, which all runs share.
    Path,
    /// `/sb/p/<port>/` on a host name that only this run has.
    Name,
}

/// The domain of the runs' host names when the server has none. Browsers resolve every
/// name below it to the machine that they run on.
const LOCAL_DOMAIN: &str = "localhost";

/// A parsed port URL: a port of a run, and a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortUrl {
    pub form: UrlForm,
    pub run: RunId,
    pub port: u16,
    /// The part of the URL before the path, such as `/sb/p/8000`.
    pub prefix: String,
    /// The path with its leading slash, without the query.
    pub path: String,
}

impl PortUrl {
    /// Parses `/v1/runs/<run>/proxy/<port>/<path>`.
    pub fn parse_keyed(path: &str) -> Result<Self, String> {
        let rest = path.strip_prefix("/v1/runs/").unwrap_or_default();
        let (run, rest) = rest
            .split_once("/proxy/")
            .ok_or("the path has no port: use /v1/runs/<run id>/proxy/<port>/")?;
        Self::new(UrlForm::Key, run, rest, &format!("/v1/runs/{run}/proxy/"))
    }

    /// Parses `/sb/<run>/p/<port>/<path>`, or `/sb/p/<port>/<path>` on the host name
    /// `<run>.<domain>`.
    pub fn parse_anonymous(
        host: Option<&str>,
        domain: Option<&str>,
        path: &str,
    ) -> Result<Self, String> {
        let rest = path.strip_prefix("/sb/").unwrap_or_default();
        if let Some(rest) = rest.strip_prefix("p/") {
            let name = host.and_then(|host| {
                let host = host.to_ascii_lowercase();
                let domain = domain.unwrap_or(LOCAL_DOMAIN);
                Some(host.strip_suffix(domain)?.strip_suffix('.')?.to_owned())
            });
            let Some(run) = name else {
                return Err(format!(
                    "{path} does not identify a run: use /sb/<run id>/p/<port>/, or the host name \
                     <run id>.{}",
                    domain.unwrap_or(LOCAL_DOMAIN)
                ));
            };
            return Self::new(UrlForm::Name, &run, rest, "/sb/p/");
        }
        let (run, rest) = rest
            .split_once("/p/")
            .ok_or_else(|| format!("{path} has no port: use /sb/<run id>/p/<port>/"))?;
        Self::new(UrlForm::Path, run, rest, &format!("/sb/{run}/p/"))
    }

    fn new(form: UrlForm, run: &str, rest: &str, prefix: &str) -> Result<Self, String> {
        let run = run.parse().map_err(|error| format!("{error}"))?;
        let (port, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let number =
            port.parse().ok().filter(|number: &u16| *number > 1 && *port == number.to_string());
        let Some(port) = number else {
            let port: String = port.chars().take(20).collect();
            return Err(format!("{port:?} is not a valid port: use a number from 2 to 65535"));
        };
        let path = if path.is_empty() { "/".to_owned() } else { path.to_owned() };
        Ok(Self { form, run, port, prefix: format!("{prefix}{port}"), path })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: &str = "run0123456789abcdef";

    #[test]
    fn all_url_forms_are_parsed() {
        let domain = Some("sandboxes.example");
        let own = format!("{}.Sandboxes.example", RUN.to_uppercase());
        for (host, path, port, prefix, rest) in [
            (own.as_str(), "/sb/p/8000/a/b".to_owned(), 8000, "/sb/p/8000", "/a/b"),
            (own.as_str(), "/sb/p/80".to_owned(), 80, "/sb/p/80", "/"),
            (
                "any",
                format!("/sb/{RUN}/p/65535//x"),
                65535,
                "/sb/run0123456789abcdef/p/65535",
                "//x",
            ),
        ] {
            let url = PortUrl::parse_anonymous(Some(host), domain, &path).unwrap();
            assert_eq!((url.run.as_str(), url.port), (RUN, port), "{path}");
            assert_eq!((url.prefix.as_str(), url.path.as_str()), (prefix, rest), "{path}");
        }
        let url = PortUrl::parse_keyed(&format!("/v1/runs/{RUN}/proxy/3000/p/1/")).unwrap();
        assert_eq!((url.port, url.path.as_str()), (3000, "/p/1/"));
        let local = format!("{RUN}.localhost");
        let url = PortUrl::parse_anonymous(Some(&local), None, "/sb/p/8000/").unwrap();
        assert_eq!((url.form, url.run.as_str()), (UrlForm::Name, RUN));
        assert!(PortUrl::parse_anonymous(Some(&local), domain, "/sb/p/8000/").is_err());
    }

    #[test]
    fn invalid_port_urls_are_rejected() {
        let domain = Some("sandboxes.example");
        for (host, path) in [
            (format!("{RUN}.elsewhere.example"), "/sb/p/8000/".to_owned()),
            (format!("x.{RUN}.sandboxes.example"), "/sb/p/8000/".to_owned()),
            ("sandboxes.example".to_owned(), "/sb/p/8000/".to_owned()),
            ("any".to_owned(), format!("/sb/{RUN}/p/0/")),
            ("any".to_owned(), format!("/sb/{RUN}/p/1/")),
            ("any".to_owned(), format!("/sb/{RUN}/p/65536/")),
            ("any".to_owned(), format!("/sb/{RUN}/p/+80/")),
            ("any".to_owned(), format!("/sb/{RUN}/p/")),
            ("any".to_owned(), format!("/sb/{RUN}/8000/")),
            ("any".to_owned(), "/sb/run1/p/8000/".to_owned()),
            ("any".to_owned(), format!("/sb/../{RUN}/p/8000/")),
        ] {
            assert!(PortUrl::parse_anonymous(Some(&host), domain, &path).is_err(), "{host} {path}");
        }
        assert!(PortUrl::parse_anonymous(None, None, "/sb/p/8000/").is_err());
    }
}
