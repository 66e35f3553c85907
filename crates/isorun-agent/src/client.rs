//! The server's end of a connection to an agent: typed requests over any stream.
//!
//! Every function takes a new connection for one request. To cancel a request, drop
//! the returned future or handle.

mod call;
mod code;
mod error;
mod exec;
mod files;
mod forward;
mod link;
mod shell;

pub use code::{
    CellControl, CellEvent, CellEvents, CellHandle, code, contexts, create_context,
    interrupt_context, remove_context, restart_context,
};
pub use error::ClientError;
pub use exec::{ExecControl, ExecEvent, ExecEvents, ExecHandle, Output, exec, exec_with_reattach};
pub use files::{FileReader, list, list_parts, make_dir, read_file, remove, stat, write_file};
pub use forward::{Forward, forward};
pub use link::Connect;
pub use shell::{ShellControl, ShellEvent, ShellEvents, ShellHandle, attach_shell, shell};

use tokio::io::{AsyncRead, AsyncWrite};

use crate::protocol::{Configure, Info, Reply, Request};
use call::{Call, done, send_request};
use error::unexpected;

/// Returns the state of the agent and figures of the sandbox. Also a health check.
///
/// # Errors
///
/// See [`ClientError`].
pub async fn info<S: AsyncRead + AsyncWrite>(stream: S) -> Result<Info, ClientError> {
    match send_request(stream, &Request::Info).await? {
        Reply::Info(info) => Ok(info),
        other => Err(unexpected(&other)),
    }
}

/// Configures a sandbox. For engines.
///
/// # Errors
///
/// See [`ClientError`].
pub async fn configure<S: AsyncRead + AsyncWrite>(
    stream: S,
    configure: Configure,
) -> Result<(), ClientError> {
    done(send_request(stream, &Request::Configure(configure)).await?)
}

/// Prepares a sandbox for a checkpoint: resolves when every other connection to its
/// agent has ended. For engines.
///
/// # Errors
///
/// See [`ClientError`].
pub async fn freeze<S: AsyncRead + AsyncWrite>(stream: S) -> Result<(), ClientError> {
    let mut call = Call::start(stream, &Request::Freeze).await?;
    done(call.reply().await?)?;
    // The agent closes its end now. The reset of the connection proves that it has.
    call.writer.shutdown().await?;
    while let Ok(Some(_)) = call.reader.next().await {}
    Ok(())
}
