//! The test of `api.json`, the table of error codes and verbs that this crate and the
//! packages of the other languages have in common. Each language has a test that reads it.

use std::collections::BTreeSet;

use serde::Deserialize;

use crate::{
    Args, Call, Closed, Error, EventStream, FileError, FileFailure, GuestException, Limit,
    LimitExceeded, RunCode, RuntimeSource, Sandbox, SandboxBuilder, SandboxFiles, Snapshot,
    Template, TemplateBuilder,
};

#[derive(Deserialize)]
struct Api {
    errors: Vec<ErrorRow>,
    life_cycle: Vec<Verb>,
}

#[derive(Deserialize)]
struct ErrorRow {
    code: String,
    class: String,
    /// The variant of [`Error`]; `None` for a code of the other languages only.
    rust: Option<String>,
}

#[derive(Deserialize)]
struct Verb {
    verb: String,
    rust: Option<String>,
}

fn api() -> Api {
    serde_json::from_str(include_str!("../api.json")).unwrap()
}

/// Defines a function that returns an error of each variant with the variant's name. A
/// variant that is missing here does not compile.
macro_rules! each_variant {
    ($($variant:ident => $errors:expr),* $(,)?) => {
        fn variants() -> Vec<(&'static str, Error)> {
            let name = |error: &Error| match error {
                $(Error::$variant { .. } => stringify!($variant),)*
            };
            let errors = [$($errors),*].into_iter().flatten();
            errors.map(|error: Error| (name(&error), error)).collect()
        }
    };
}

each_variant! {
    Guest => vec![Error::Guest(exception())],
    Hostcall => vec![Error::Hostcall(exception())],
    Limit => limits().into_iter().map(|limit| {
        Error::Limit(LimitExceeded::new(limit, String::new()))
    }).collect(),
    Crash => vec![Error::Crash(String::new())],
    InvalidArgument => vec![Error::InvalidArgument(String::new())],
    File => vec![Error::File(FileError::new("", FileFailure::NotFound))],
    DownloadFailed => vec![Error::DownloadFailed(String::new())],
    DownloadRefused => vec![Error::DownloadRefused(String::new())],
    SnapshotRefused => vec![Error::SnapshotRefused(String::new())],
    Busy => vec![Error::Busy],
    NotRunning => vec![Error::NotRunning],
    NotPending => vec![Error::NotPending],
    Closed => vec![Error::Closed(Closed::ByOwner)],
    Internal => vec![Error::bug("")],
}

fn exception() -> GuestException {
    GuestException::new(String::new(), String::new(), String::new())
}

/// Defines a function that returns every limit. One that is missing here does not compile.
macro_rules! each_limit {
    ($($limit:ident),* $(,)?) => {
        fn limits() -> Vec<Limit> {
            let check = |limit: Limit| match limit {
                $(Limit::$limit)|* => limit,
            };
            vec![$(check(Limit::$limit)),*]
        }
    };
}

each_limit!(Memory, CpuTime, WallTime, ValueSize, Output, Recursion, Handles);

#[test]
fn the_table_has_every_error_code_and_no_other() {
    let listed: Vec<(String, String)> = api()
        .errors
        .into_iter()
        .filter_map(|row| row.rust.map(|variant| (row.code, variant)))
        .collect();
    let actual: BTreeSet<(String, String)> = variants()
        .into_iter()
        .map(|(variant, error)| (error.code().to_owned(), variant.to_owned()))
        .collect();
    assert_eq!(listed.iter().cloned().collect::<BTreeSet<_>>(), actual);
    assert_eq!(listed.len(), actual.len(), "a code is listed twice");
}

#[test]
fn each_variant_has_one_class_and_each_code_one_row() {
    let errors = api().errors;
    let codes: BTreeSet<&str> = errors.iter().map(|row| row.code.as_str()).collect();
    assert_eq!(codes.len(), errors.len());
    for row in &errors {
        assert!(row.class.ends_with("Error"), "{}", row.class);
        let same_variant = errors.iter().filter(|other| other.rust == row.rust);
        if row.rust.is_some() {
            assert!(same_variant.map(|other| &other.class).all(|class| *class == row.class));
        }
    }
}

/// Defines a function that returns the names of methods. One that does not exist does not
/// compile.
macro_rules! methods {
    ($($name:literal: $method:expr),* $(,)?) => {
        fn methods() -> BTreeSet<&'static str> {
            $(let _ = $method;)*
            BTreeSet::from([$($name),*])
        }
    };
}

methods! {
    "RuntimeSource::find": |source: RuntimeSource| drop(RuntimeSource::find(source)),
    "TemplateBuilder::build": |builder: TemplateBuilder| drop(TemplateBuilder::build(builder)),
    "SandboxBuilder::create": |builder: SandboxBuilder| drop(SandboxBuilder::create(builder)),
    "Sandbox::start": |sandbox: &Sandbox| -> Call { Sandbox::start(sandbox) },
    "Sandbox::load_script": |sandbox: &Sandbox| -> Call { Sandbox::load_script(sandbox, "") },
    "Sandbox::run": |sandbox: &Sandbox| -> Call { Sandbox::run(sandbox, "", Args::new()) },
    "Sandbox::run_stream": |sandbox: &Sandbox| -> Result<EventStream, Error> {
        Sandbox::run_stream(sandbox, "", Args::new())
    },
    "Sandbox::evaluate": |sandbox: &Sandbox| -> Call { Sandbox::evaluate(sandbox, "") },
    "Sandbox::run_code": |sandbox: &Sandbox| -> RunCode { Sandbox::run_code(sandbox, "") },
    "Sandbox::interrupt": |sandbox: &Sandbox| -> bool { Sandbox::interrupt(sandbox) },
    "Sandbox::create_context": |sandbox: &Sandbox| drop(Sandbox::create_context(sandbox, None)),
    "Sandbox::contexts": |sandbox: &Sandbox| drop(Sandbox::contexts(sandbox)),
    "Sandbox::restart_context": |sandbox: &Sandbox| drop(Sandbox::restart_context(sandbox, "")),
    "Sandbox::interrupt_context": |sandbox: &Sandbox| -> bool {
        Sandbox::interrupt_context(sandbox, "")
    },
    "Sandbox::remove_context": |sandbox: &Sandbox| drop(Sandbox::remove_context(sandbox, "")),
    "SandboxFiles::read": |files: &SandboxFiles| SandboxFiles::read(files, ""),
    "SandboxFiles::write": |files: &SandboxFiles| SandboxFiles::write(files, "", b""),
    "SandboxFiles::list": |files: &SandboxFiles| SandboxFiles::list(files, ""),
    "SandboxFiles::stat": |files: &SandboxFiles| SandboxFiles::stat(files, ""),
    "SandboxFiles::exists": |files: &SandboxFiles| SandboxFiles::exists(files, ""),
    "SandboxFiles::make_dir": |files: &SandboxFiles| SandboxFiles::make_dir(files, ""),
    "SandboxFiles::remove": |files: &SandboxFiles| SandboxFiles::remove(files, ""),
    "SandboxFiles::rename": |files: &SandboxFiles| SandboxFiles::rename(files, "", ""),
    "Args::named": |args: Args| -> Args { Args::named(args, "", "") },
    "Sandbox::finish": |sandbox: &Sandbox| -> Call { Sandbox::finish(sandbox) },
    "Sandbox::snapshot": |sandbox: &Sandbox| drop(Sandbox::snapshot(sandbox)),
    "Snapshot::save": |snapshot: &Snapshot| drop(Snapshot::save(snapshot, "")),
    "Template::load_snapshot": |template: &Template| drop(Template::load_snapshot(template, "")),
    "Snapshot::create_sandbox": |snapshot: &Snapshot| drop(Snapshot::create_sandbox(snapshot)),
    "Sandbox::fork": |sandbox: &Sandbox| drop(Sandbox::fork(sandbox, 1)),
    "Sandbox::close": |sandbox: &Sandbox| Sandbox::close(sandbox),
}

#[test]
fn the_verbs_of_the_table_are_methods() {
    let verbs = api().life_cycle;
    let listed: BTreeSet<&str> = verbs.iter().filter_map(|verb| verb.rust.as_deref()).collect();
    assert_eq!(listed, methods());
    let names: BTreeSet<&str> = verbs.iter().map(|verb| verb.verb.as_str()).collect();
    assert_eq!(names.len(), verbs.len(), "a verb is listed twice");
}
