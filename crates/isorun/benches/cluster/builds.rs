//! A server of one machine of this build, compared with another build of `isorun`.

use std::ffi::OsStr;

use super::{operations, servers::Server, table};

/// Prints the operations with `before`, the other build, and this one, in turns.
pub async fn compare(before: &OsStr) {
    let (before, now) = (Server::start_program(before, &[]), Server::start(&[]));
    table::header(&["other build", "this build"], &["this build"]);
    operations::measure(&[before.client(), now.client()]).await;
}
