//! What a URL of a port says: which run, which port, and what path there.

use crate::id::RunId;

/// Which of its URLs a port is reached by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `/v1/runs/<run>/proxy/<port>/`, with an API key.
    Key,
    /// `/sb/<run>/p/<port>/` on the server's own name, which all runs share.
    Path,
    /// `/sb/p/<port>/` on a name that only this run has.
    Name,
}

/// The name below which each run has its own when the server has no domain.
/// Browsers take every name below it for the machine that they run on.
const LOCAL_DOMAIN: &str = "localhost";

/// A port of a run, and a path on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub form: Form,
    pub run: RunId,
    pub port: u16,
    /// What stands before the path, such as `/sb/p/8000`.
    pub prefix: String,
    /// With its slash, without the query.
    pub path: String,
}

impl Place {
    /// `/v1/runs/<run>/proxy/<port>/<path>`.
    pub fn of_key(path: &str) -> Result<Self, String> {
        let rest = path.strip_prefix("/v1/runs/").unwrap_or_default();
        let (run, rest) = rest.split_once("/proxy/").ok_or("the path has no port")?;
        Self::new(Form::Key, run, rest, &format!("/v1/runs/{run}/proxy/"))
    }

    /// `/sb/<run>/p/<port>/<path>`, or `/sb/p/<port>/<path>` on the name
    /// `<run>.<domain>`.
    pub fn of_name(host: Option<&str>, domain: Option<&str>, path: &str) -> Result<Self, String> {
        let rest = path.strip_prefix("/sb/").unwrap_or_default();
        if let Some(rest) = rest.strip_prefix("p/") {
            let name = host.and_then(|host| {
                let host = host.to_ascii_lowercase();
                let domain = domain.unwrap_or(LOCAL_DOMAIN);
                Some(host.strip_suffix(domain)?.strip_suffix('.')?.to_owned())
            });
            let Some(run) = name else {
                return Err(format!(
                    "{path} names no run: use /sb/<run id>/p/<port>/, or the name <run id>.{}",
                    domain.unwrap_or(LOCAL_DOMAIN)
                ));
            };
            return Self::new(Form::Name, &run, rest, "/sb/p/");
        }
        let (run, rest) = rest
            .split_once("/p/")
            .ok_or_else(|| format!("{path} names no port: use /sb/<run id>/p/<port>/"))?;
        Self::new(Form::Path, run, rest, &format!("/sb/{run}/p/"))
    }

    fn new(form: Form, run: &str, rest: &str, before: &str) -> Result<Self, String> {
        let run = run.parse().map_err(|error| format!("{error}"))?;
        let (port, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let number =
            port.parse().ok().filter(|number: &u16| *number > 1 && *port == number.to_string());
        let Some(port) = number else {
            let port: String = port.chars().take(20).collect();
            return Err(format!("{port:?} is no port: give a number from 2 to 65535"));
        };
        let path = if path.is_empty() { "/".to_owned() } else { path.to_owned() };
        Ok(Self { form, run, port, prefix: format!("{before}{port}"), path })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: &str = "run0123456789abcdef";

    #[test]
    fn both_forms_and_the_one_with_a_key() {
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
            let place = Place::of_name(Some(host), domain, &path).unwrap();
            assert_eq!((place.run.as_str(), place.port), (RUN, port), "{path}");
            assert_eq!((place.prefix.as_str(), place.path.as_str()), (prefix, rest), "{path}");
        }
        let place = Place::of_key(&format!("/v1/runs/{RUN}/proxy/3000/p/1/")).unwrap();
        assert_eq!((place.port, place.path.as_str()), (3000, "/p/1/"));
        let local = format!("{RUN}.localhost");
        let place = Place::of_name(Some(&local), None, "/sb/p/8000/").unwrap();
        assert_eq!((place.form, place.run.as_str()), (Form::Name, RUN));
        assert!(Place::of_name(Some(&local), domain, "/sb/p/8000/").is_err());
    }

    #[test]
    fn what_names_no_port_is_refused() {
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
            assert!(Place::of_name(Some(&host), domain, &path).is_err(), "{host} {path}");
        }
        assert!(Place::of_name(None, None, "/sb/p/8000/").is_err());
    }
}
