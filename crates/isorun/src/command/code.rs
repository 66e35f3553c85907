//! `isorun code`: runs a cell in a context of a sandbox.

use std::{
    io::{self, Read, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context as _;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::Value;

use crate::{client::Client, failure::Failure, visible::visible};
use isorun_api::{CodeError, CodeEvent, CodeRequest, CodeResult, Execution, Logs, RunId};

#[derive(clap::Args)]
pub struct CodeArgs {
    /// The sandbox
    #[arg(value_parser = super::run_id)]
    id: RunId,

    /// The file with the code; `-` for standard input
    #[arg(default_value = "-", value_name = "FILE")]
    file: PathBuf,

    /// python, javascript, or the language of a Jupyter kernel of the image [default: python]
    #[arg(long, value_name = "NAME")]
    language: Option<String>,

    /// Run it in this context [default: the default context of the language]
    #[arg(long, value_name = "ID")]
    context: Option<String>,

    /// Interrupt it after this time [default: never]
    #[arg(long, value_name = "DURATION", value_parser = super::create::duration)]
    timeout: Option<std::time::Duration>,

    /// Print the execution as JSON at its end
    #[arg(long)]
    json: bool,

    /// Write results that are not text, such as pictures, into this directory
    #[arg(long, value_name = "DIR")]
    save_results: Option<PathBuf>,
}

pub const NOTES: &str = "\
Variables persist from one call to the next in the same context. Output is
printed as it arrives, and results as text on standard output. The exit code is
1 if the code raised an exception, was interrupted or ended its interpreter, and
125 if it could not be run. Ctrl-C interrupts the code; its context is kept.

Examples:
  echo 'x = 41' | isorun code run0123456789abcdef
  echo 'x + 1' | isorun code run0123456789abcdef
  isorun code run0123456789abcdef --save-results pictures plot.py";

pub async fn run(args: CodeArgs, client: Client) -> Result<ExitCode, Failure> {
    let request = CodeRequest {
        code: read_code(&args.file)?,
        language: args.language.clone(),
        context: args.context.clone(),
        timeout: Some(args.timeout.map_or(0.0, |timeout| timeout.as_secs_f64())),
    };
    if let Some(dir) = &args.save_results {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    }
    let mut events = client.run_code(&args.id, &request).await?;
    let mut execution =
        Execution { results: Vec::new(), logs: Logs::default(), error: None, execution_count: 0 };
    loop {
        match events.next().await? {
            CodeEvent::Stdout { text } if args.json => execution.logs.stdout.push(text),
            CodeEvent::Stderr { text } if args.json => execution.logs.stderr.push(text),
            CodeEvent::Stdout { text } => print(&text)?,
            CodeEvent::Stderr { text } => {
                let _ = io::stderr().write_all(text.as_bytes());
            }
            CodeEvent::Result(result) => {
                let number = execution.results.len() + 1;
                if let Some(dir) = &args.save_results {
                    save(dir, execution_name(number), &result)?;
                }
                if args.json {
                    execution.results.push(result);
                } else {
                    show(&result)?;
                    execution.results.push(CodeResult::default());
                }
            }
            CodeEvent::Error(error) => {
                if !args.json {
                    report(&error);
                }
                execution.error = Some(error);
            }
            CodeEvent::End { execution_count } => {
                execution.execution_count = execution_count;
                break;
            }
            CodeEvent::Failure { .. } => {}
        }
    }
    if args.json {
        let text =
            serde_json::to_string(&execution).map_err(|error| Failure::Other(error.into()))?;
        print(&format!("{text}\n"))?;
    }
    Ok(if execution.error.is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn read_code(file: &Path) -> Result<String, Failure> {
    let mut code = String::new();
    if file == Path::new("-") {
        io::stdin().read_to_string(&mut code).context("cannot read standard input")?;
    } else {
        code = std::fs::read_to_string(file)
            .with_context(|| format!("cannot read {}", file.display()))?;
    }
    Ok(code)
}

fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(Failure::output)
}

/// Prints the text of a result, or its types if it has none.
fn show(result: &CodeResult) -> Result<(), Failure> {
    match result.data.get("text/plain").and_then(Value::as_str) {
        Some(text) => print(&format!("{text}\n")),
        None => {
            let types: Vec<_> = result.data.keys().map(String::as_str).collect();
            print(&format!("<{}>\n", types.join(", ")))
        }
    }
}

fn report(error: &CodeError) {
    let mut stderr = io::stderr();
    let _ = if error.traceback.is_empty() {
        writeln!(stderr, "{}: {}", visible(&error.name), visible(&error.value))
    } else {
        writeln!(stderr, "{}", error.traceback.trim_end())
    };
}

fn execution_name(number: usize) -> String {
    format!("result-{number}")
}

/// Writes the entries of a result that are not plain text, each into a file of its own. The
/// names are made here: nothing of the sandbox is part of a path.
fn save(dir: &Path, name: String, result: &CodeResult) -> Result<(), Failure> {
    for (mime, entry) in &result.data {
        let Some((extension, is_binary)) = file_type(mime) else { continue };
        let content = match entry {
            Value::String(text) if is_binary => BASE64_STANDARD
                .decode(text)
                .with_context(|| format!("the sandbox sent an invalid {mime}"))?,
            Value::String(text) if !mime.ends_with("json") => text.clone().into_bytes(),
            entry => entry.to_string().into_bytes(),
        };
        let path = dir.join(format!("{name}.{extension}"));
        std::fs::write(&path, content)
            .with_context(|| format!("cannot write {}", path.display()))?;
        let _ = writeln!(io::stderr(), "saved {}", path.display());
    }
    Ok(())
}

/// Returns the extension of the file of a MIME type, and whether it is base64.
fn file_type(mime: &str) -> Option<(&'static str, bool)> {
    Some(match mime {
        "image/png" => ("png", true),
        "image/jpeg" => ("jpg", true),
        "image/gif" => ("gif", true),
        "application/pdf" => ("pdf", true),
        "image/svg+xml" => ("svg", false),
        "text/html" => ("html", false),
        "text/markdown" => ("md", false),
        "text/latex" => ("tex", false),
        "application/json" => ("json", false),
        "application/vnd.isorun.chart+json" => ("chart.json", false),
        _ => return None,
    })
}
