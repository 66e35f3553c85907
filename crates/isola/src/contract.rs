//! The types and functions of `wit/isola.wit`, generated from it.

wasmtime::component::bindgen!({
    path: "../../wit",
    world: "sandbox",
    imports: {
        "isola:sandbox/host.emit": async | trappable,
        "isola:sandbox/host.code-event": async | trappable,
        "isola:sandbox/host.stdout": async | trappable,
        "isola:sandbox/host.stderr": async | trappable,
        "isola:sandbox/host.log": async | trappable,
        "isola:sandbox/host.wait": async | trappable,
        "isola:sandbox/host.read-file": async | trappable,
        "isola:sandbox/host.write-file": async | trappable,
        "isola:sandbox/host.list-files": async | trappable,
        "isola:sandbox/host.remove-file": async | trappable,
        default: trappable,
    },
    exports: { default: async },
});

pub(crate) use self::exports::isola::sandbox::guest::{
    Argument, Config, Context as CodeContext, Failure, FailureKind,
};
pub(crate) use self::isola::sandbox::host::{
    Completion, FileEntry, FileFailure, FileKind, Host, Level, Outcome, Request, RequestBody,
    Response,
};
