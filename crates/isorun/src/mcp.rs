//! The server of the Model Context Protocol that `isorun mcp` is: tools with which a model
//! works in sandboxes of an isorun server.
//!
//! | to change | start in |
//! |---|---|
//! | the arguments of a tool | `mcp/arguments.rs` |
//! | what a tool does | `mcp/calls.rs` |
//! | how a sandbox belongs to a session | `mcp/sessions.rs` |
//! | the transport over HTTP | `mcp/http.rs` |
//!
//! The protocol itself is the crate `rmcp`. Over HTTP every request is complete in itself, as
//! the newest version of the protocol requires; sessions are names that calls give.

mod answer;
pub mod arguments;
mod calls;
mod excerpt;
pub mod http;
mod sessions;

use std::sync::Arc;

use rmcp::{
    ErrorData, RoleServer, ServerHandler,
    handler::server::tool::schema_for_type,
    model::{
        CallToolRequestParams, CallToolResponse, Implementation, JsonObject, ListToolsResult,
        PaginatedRequestParams, ServerCapabilities, ServerConfig, Tool, ToolAnnotations,
    },
    service::RequestContext,
};
use tokio::sync::Semaphore;

use self::arguments::ToolCall;
pub use self::{
    calls::Tools,
    sessions::{Owner, SERVER_IDLE_MARGIN, Sessions},
};

/// The maximum number of calls that run at the same time.
const MAX_CALLS: usize = 256;

/// Answers the requests of the protocol.
#[derive(Clone)]
pub struct McpServer {
    tools: Arc<Tools>,
    /// The owner of all sessions. `None` if each request has its own: see `http`.
    owner: Option<Owner>,
    calls: Arc<Semaphore>,
}

impl McpServer {
    pub fn new(tools: Arc<Tools>, owner: Option<Owner>) -> Self {
        Self { tools, owner, calls: Arc::new(Semaphore::new(MAX_CALLS)) }
    }

    fn owner(&self, context: &RequestContext<RoleServer>) -> Option<Owner> {
        self.owner.clone().or_else(|| http::owner(&context.extensions))
    }
}

impl ServerHandler for McpServer {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
            .with_server_info(Implementation::new("isorun", env!("CARGO_PKG_VERSION")))
            .with_instructions(
                "Runs commands and code in sandboxes. A session has a sandbox of its own, with \
                 files, processes and variables that persist from one call to the next; without \
                 a name, calls use the session `default`. checkpoint and go_back undo what went \
                 wrong, fork tries something in a copy.",
            )
    }

    async fn list_tools(
        &self,
        _request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        Ok(ListToolsResult::with_all_items(tools()))
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let call = ToolCall::read(&request.name, request.arguments.unwrap_or_default())
            .map_err(|message| ErrorData::invalid_params(message, None))?;
        let owner = self
            .owner(&context)
            .ok_or_else(|| ErrorData::invalid_request("the request has no API key", None))?;
        let Ok(_permit) = self.calls.try_acquire() else {
            let message =
                format!("{MAX_CALLS} calls are already running: try again after one has finished");
            return Ok(answer::ToolAnswer::failure("busy", &message).finish().into());
        };
        tokio::select! {
            biased;
            // The client has cancelled the call, or is gone. Dropping the call stops the
            // command or the code.
            () = context.ct.cancelled() => {
                Err(ErrorData::internal_error("the call was cancelled", None))
            }
            answer = self.tools.call(&owner, call) => Ok(answer.finish().into()),
        }
    }
}

/// Returns the descriptions of the tools.
fn tools() -> Vec<Tool> {
    let reads = || ToolAnnotations::new().read_only(true);
    let changes = || ToolAnnotations::new().read_only(false).destructive(false);
    let destroys = || ToolAnnotations::new().read_only(false).destructive(true);
    vec![
        tool(
            "run_command",
            "Runs a shell command line in the sandbox, and returns its output and exit code. \
             Each call is a new shell: a working directory or a variable is set for that call \
             only. A program that runs on after the call is started with \
             `setsid PROGRAM >log 2>&1 &`.",
            schema_for_type::<arguments::RunCommand>(),
            destroys(),
        ),
        tool(
            "run_code",
            "Runs code as a notebook does: variables persist from one call to the next, the \
             value of the last expression is shown, figures are returned as pictures, and \
             `await` works at the top level.",
            schema_for_type::<arguments::RunCode>(),
            destroys(),
        ),
        tool(
            "read_file",
            "Reads a file of the sandbox: text, a picture, or bytes as base64.",
            schema_for_type::<arguments::ReadFile>(),
            reads(),
        ),
        tool(
            "write_file",
            "Writes a file in the sandbox, and creates its parent directories. A file that \
             exists is replaced.",
            schema_for_type::<arguments::WriteFile>(),
            destroys(),
        ),
        tool(
            "list_files",
            "Lists the names in a directory of the sandbox.",
            schema_for_type::<arguments::ListFiles>(),
            reads(),
        ),
        tool(
            "fork",
            "Copies a running session, with its files, memory and processes, into a new session. \
             Both continue independently.",
            schema_for_type::<arguments::Fork>(),
            changes(),
        ),
        tool(
            "checkpoint",
            "Remembers the state of a session, with its files, memory and processes, under a \
             name, for go_back.",
            schema_for_type::<arguments::Checkpoint>(),
            changes(),
        ),
        tool(
            "go_back",
            "Resets a session to a checkpoint. What happened since then is lost. A checkpoint \
             can be used any number of times.",
            schema_for_type::<arguments::GoBack>(),
            destroys(),
        ),
        tool(
            "port_url",
            "Returns the URL under which a server that listens on a port of the sandbox is \
             reached from outside.",
            schema_for_type::<arguments::PortUrl>(),
            reads(),
        ),
        tool(
            "list_sessions",
            "Lists the sessions, their sandboxes and checkpoints.",
            schema_for_type::<arguments::ListSessions>(),
            reads(),
        ),
        tool(
            "end_session",
            "Destroys the sandbox of a session and its checkpoints.",
            schema_for_type::<arguments::EndSession>(),
            destroys(),
        ),
    ]
}

fn tool(
    name: &'static str,
    description: &'static str,
    schema: Arc<JsonObject>,
    annotations: ToolAnnotations,
) -> Tool {
    Tool::new(name, description, schema).with_annotations(annotations)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tool_is_described_with_its_arguments() {
        let tools = tools();
        let names: Vec<_> = tools.iter().map(|tool| tool.name.as_ref()).collect();
        assert_eq!(names, arguments::TOOL_NAMES);
        for tool in &tools {
            let schema = serde_json::Value::Object(tool.input_schema.as_ref().clone());
            assert_eq!(schema["type"], "object", "{}", tool.name);
            assert_eq!(schema["additionalProperties"], false, "{}", tool.name);
            let properties = schema["properties"].as_object().cloned().unwrap_or_default();
            for (name, property) in properties {
                let description = property["description"].as_str();
                assert!(description.is_some_and(|it| it.len() > 10), "{}: {name}", tool.name);
                // Clients differ in how well they follow references.
                assert!(property.get("$ref").is_none(), "{}: {name}: {property}", tool.name);
            }
        }
    }
}
