//! `isola mcp`: a server of the Model Context Protocol on standard input and
//! output, with the tools `run_python` and `run_javascript`.
//!
//! A session is a named sandbox. It is started at its first use, runs one piece
//! of code at a time, and is replaced after its guest has terminated. At most
//! `--max-sessions` are open: see `sessions`.

use std::{process::ExitCode, sync::Arc};

use isola::{Language, Runtime};
use rmcp::{
    ErrorData, RoleServer, ServerHandler, ServiceExt as _,
    model::{
        CallToolRequestParams, CallToolResponse, Implementation, JsonObject, ListToolsResult,
        PaginatedRequestParams, ServerCapabilities, ServerConfig, Tool, ToolAnnotations,
    },
    service::RequestContext,
};
use serde_json::{Value as Json, json};

use crate::{cli::McpArgs, failure::Failure};

mod answer;
mod request;
mod sessions;

use self::{
    request::{MAX_SESSION_NAME_BYTES, ToolArguments},
    sessions::Sessions,
};

/// The packages of the runtime `python-data` that its tool is described with.
const DATA_PACKAGES: &str = "numpy, pandas, Pillow, pydantic, regex, msgpack and markupsafe";

/// Serves requests until standard input ends.
pub fn serve(args: &McpArgs) -> Result<ExitCode, Failure> {
    let sessions = Sessions::new(args)?;
    let tokio = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Io { context: "cannot start the event loop", error })?;
    tokio.block_on(async {
        let sessions = Arc::new(sessions);
        let expiring = Arc::clone(&sessions);
        tokio::spawn(async move { expiring.expire().await });
        let server = Server { sessions };
        match server.serve(rmcp::transport::stdio()).await {
            Ok(running) => {
                // The result does not matter: the client may disconnect without notice.
                let _ = running.waiting().await;
                Ok(())
            }
            Err(error) => Err(Failure::usage(format!("no MCP client on standard input: {error}"))
                .hint("an MCP client starts this command; see `isola help mcp`")),
        }
    })?;
    // Do not wait for a guest that is still running.
    tokio.shutdown_background();
    Ok(ExitCode::SUCCESS)
}

struct Server {
    sessions: Arc<Sessions>,
}

impl ServerHandler for Server {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
            .with_server_info(Implementation::new("isola", env!("CARGO_PKG_VERSION")))
            .with_instructions(
                "Runs Python and JavaScript in sandboxes without access to files or network, \
                 except what the user of this server has allowed. Variables persist within a \
                 session.",
            )
    }

    async fn list_tools(
        &self,
        _request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        Ok(ListToolsResult::with_all_items(vec![
            tool("run_python", self.sessions.python_runtime()),
            tool("run_javascript", Runtime::JavaScript),
        ]))
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let runtime = match request.name.as_ref() {
            "run_python" => self.sessions.python_runtime(),
            "run_javascript" => Runtime::JavaScript,
            other => {
                return Err(ErrorData::invalid_params(
                    format!("there is no tool {other:?}: use run_python or run_javascript"),
                    None,
                ));
            }
        };
        let arguments = ToolArguments::read(request.arguments.unwrap_or_default())
            .map_err(|message| ErrorData::invalid_params(message, None))?;
        tokio::select! {
            biased;
            // The client has cancelled the call. Dropping it stops the guest.
            () = context.ct.cancelled() => {
                Err(ErrorData::internal_error("the call was cancelled", None))
            }
            answer = self.sessions.run(runtime, arguments) => Ok(answer.into()),
        }
    }
}

fn tool(name: &'static str, runtime: Runtime) -> Tool {
    let python = |packages: &str| {
        format!(
            "Runs Python (CPython 3.14, standard library, {packages}) in a sandbox. Returns the \
             printed output and the value of the last expression. `await` works at the top level."
        )
    };
    let description = match runtime {
        Runtime::Python => python("no native packages"),
        Runtime::PythonData => python(&format!("{DATA_PACKAGES}; no other native packages")),
        Runtime::JavaScript => {
            "Runs JavaScript (no DOM, no Node.js modules) in a sandbox. Returns \
                                the printed output and the value of the last statement; a promise \
                                is awaited."
                .to_owned()
        }
    };
    let schema = json!({
        "type": "object",
        "properties": {
            "source": { "type": "string", "description": "the code" },
            "session": {
                "type": "string",
                "minLength": 1,
                "maxLength": MAX_SESSION_NAME_BYTES,
                "default": "default",
                "description": "calls with the same session share variables",
            },
            "restart": {
                "type": "boolean",
                "default": false,
                "description": "discard the session's variables first",
            },
        },
        "required": ["source"],
        "additionalProperties": false,
    });
    let schema = match schema {
        Json::Object(schema) => schema,
        _ => JsonObject::new(),
    };
    let annotations = ToolAnnotations::with_title(match runtime.language() {
        Language::Python => "Run Python",
        Language::JavaScript => "Run JavaScript",
    });
    Tool::new(name, description, schema).with_annotations(annotations)
}
