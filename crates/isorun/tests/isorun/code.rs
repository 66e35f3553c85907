//! Code in contexts: cells, rich results, interrupts, and interpreters that die.

use futures_util::StreamExt;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use test_macros::server_test;
use test_support::wait::wait_for;

use crate::support::{Server, Tenant, answer, refused, with_input};

/// Runs a cell, which must be accepted.
async fn run(server: &Tenant, id: &str, code: &str) -> Value {
    run_with(server, id, code, json!({})).await
}

async fn run_with(server: &Tenant, id: &str, code: &str, more: Value) -> Value {
    let (status, body) = try_run(server, id, code, more).await;
    assert_eq!(status, 200, "{code}: {body}");
    body
}

async fn try_run(server: &Tenant, id: &str, code: &str, more: Value) -> (StatusCode, Value) {
    let mut body = json!({ "code": code });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    server.post(&format!("/v1/runs/{id}/code"), body).await
}

/// Returns the text of the main result.
#[track_caller]
fn text(execution: &Value) -> &str {
    assert_eq!(execution["error"], Value::Null, "{execution}");
    let results = execution["results"].as_array().unwrap();
    let main = results.iter().find(|result| result["is_main_result"] == true);
    main.unwrap_or_else(|| panic!("{execution}"))["data"]["text/plain"].as_str().unwrap()
}

fn log(execution: &Value, stream: &str) -> String {
    let pieces = execution["logs"][stream].as_array().unwrap();
    pieces.iter().map(|piece| piece.as_str().unwrap()).collect()
}

#[track_caller]
fn error_name(execution: &Value) -> &str {
    execution["error"]["name"].as_str().unwrap_or_else(|| panic!("{execution}"))
}

async fn contexts(server: &Tenant, id: &str) -> Vec<Value> {
    let (status, body) = server.get(&format!("/v1/runs/{id}/contexts")).await;
    assert_eq!(status, 200, "{body}");
    body["contexts"].as_array().unwrap().clone()
}

async fn new_context(server: &Tenant, id: &str, more: Value) -> String {
    let (status, body) = server.post(&format!("/v1/runs/{id}/contexts"), more).await;
    assert_eq!(status, 200, "{body}");
    body["id"].as_str().unwrap().to_owned()
}

async fn change_context(server: &Tenant, id: &str, context: &str, verb: &str) -> Value {
    let path = format!("/v1/runs/{id}/contexts/{context}/{verb}");
    let (status, body) = server.post(&path, json!({})).await;
    assert_eq!(status, 200, "{body}");
    body
}

async fn status_of(server: &Tenant, id: &str, context: &str) -> Option<String> {
    let contexts = contexts(server, id).await;
    let found = contexts.into_iter().find(|found| found["id"] == context)?;
    Some(found["status"].as_str().unwrap().to_owned())
}

async fn wait_for_status(server: &Tenant, id: &str, context: &str, status: &str) {
    wait_for("the context has that status", async || {
        (status_of(server, id, context).await.as_deref() == Some(status)).then_some(())
    })
    .await;
}

/// Runs a cell as a stream, and returns its events.
async fn stream(server: &Tenant, id: &str, code: &str) -> Vec<Value> {
    let path = format!("/v1/runs/{id}/code/stream");
    let request = server.request(Method::POST, &path).json(&json!({ "code": code }));
    let text = request.send().await.unwrap().text().await.unwrap();
    text.lines()
        .filter_map(|line| line.strip_prefix("data:"))
        .map(|data| serde_json::from_str(data).unwrap())
        .collect()
}

#[server_test]
async fn cells_share_their_variables_and_show_results() {
    let server = Server::start();
    let id = server.create().await;
    let first = run(&server, &id, "x = 41").await;
    assert_eq!(
        first,
        json!({
            "results": [], "logs": { "stdout": [], "stderr": [] }, "error": null,
            "execution_count": 1,
        })
    );
    let second = run(&server, &id, "x + 1").await;
    assert_eq!((text(&second), &second["execution_count"]), ("42", &json!(2)), "{second}");
    let failed = run(&server, &id, "print('before')\n1 / 0").await;
    assert_eq!(failed["logs"]["stdout"], json!(["before\n"]));
    assert_eq!(error_name(&failed), "ZeroDivisionError");
    assert_eq!(failed["error"]["value"], "division by zero");
    let traceback = failed["error"]["traceback"].as_str().unwrap();
    assert!(traceback.starts_with("Traceback (most recent call last):\n"), "{traceback}");
    assert!(traceback.contains("line 2, in <module>\n    1 / 0\n"), "{traceback}");
    assert!(!traceback.contains("<isorun"), "{traceback}");
    let awaited = run(&server, &id, "import asyncio\nawait asyncio.sleep(0.01)\nx").await;
    assert_eq!(text(&awaited), "41");
    let output = run(
        &server,
        &id,
        "import os, subprocess, sys\nprint('one')\nsubprocess.run('echo two; echo three >&2', \
         shell=True)\nos.write(1, b'four\\n')\nprint('five', file=sys.stderr)",
    )
    .await;
    assert_eq!(log(&output, "stdout"), "one\ntwo\nfour\n");
    assert_eq!(log(&output, "stderr"), "three\nfive\n");
    let exit = run(&server, &id, "import sys; sys.exit(3)").await;
    assert_eq!((error_name(&exit), &exit["error"]["value"]), ("SystemExit", &json!("3")));
    assert_eq!(text(&run(&server, &id, "x").await), "41", "it did not end the interpreter");
    let input = run(&server, &id, "input()").await;
    assert_eq!(error_name(&input), "EOFError");
    assert_eq!(server.exec(&id, "ls -A /tmp").await["stdout"], "", "no file was left");
    let list = contexts(&server, &id).await;
    assert_eq!(list.len(), 1);
    assert_eq!(
        (&list[0]["id"], &list[0]["language"], &list[0]["status"], &list[0]["kernel"]),
        (&json!("default"), &json!("python"), &json!("idle"), &json!("python"))
    );
    assert_eq!(list[0]["execution_count"], 8);
    let log = wait_for("the end of the last cell is recorded", async || {
        let log = server.audit_log(&id).await;
        (log.iter().filter(|entry| entry["event"] == "code.end").count() == 8).then_some(log)
    })
    .await;
    let events: Vec<_> = log.iter().map(|entry| entry["event"].as_str().unwrap()).collect();
    assert_eq!(events[1..3], ["code.start", "code.end"]);
    let errors: Vec<_> = log.iter().filter_map(|entry| entry["data"]["error"].as_str()).collect();
    assert_eq!(errors, ["ZeroDivisionError", "SystemExit", "EOFError"]);
}

#[server_test]
async fn results_and_output_are_streamed_in_order() {
    let server = Server::start();
    let id = server.create().await;
    let code = "print('a')\ndisplay({'b': 1})\nprint('c')\ndisplay({'text/html': '<b>d</b>'}, \
                raw=True)\nimport os; os.write(1, b'e\\n')\n'f'";
    let events = stream(&server, &id, code).await;
    let kinds: Vec<_> = events
        .iter()
        .map(|event| match event["type"].as_str().unwrap() {
            "result" => event["data"].as_object().unwrap().values().next().unwrap().to_string(),
            kind => format!("{kind} {}", event["text"].as_str().unwrap_or_default()),
        })
        .collect();
    assert_eq!(
        kinds,
        [
            "stdout a\n",
            "\"{'b': 1}\"",
            "stdout c\n",
            "\"<b>d</b>\"",
            "stdout e\n",
            "\"'f'\"",
            "end "
        ]
    );
    assert_eq!(events.last().unwrap(), &json!({ "type": "end", "execution_count": 1 }));
    // A flood between two results is complete, and does not overtake them.
    let code = "for n in range(3):\n    print(str(n) * 3_000_000)\n    display(n)";
    let events = stream(&server, &id, code).await;
    let mut shown = String::new();
    for event in &events {
        match event["type"].as_str().unwrap() {
            "stdout" => shown.push_str(event["text"].as_str().unwrap()),
            "result" => shown.push_str(&format!("<{}>", event["data"]["text/plain"])),
            kind => assert_eq!(kind, "end"),
        }
    }
    let expected: String =
        (0..3).map(|n| n.to_string().repeat(3_000_000) + &format!("\n<\"{n}\">")).collect();
    assert!(shown == expected, "{} bytes", shown.len());
    // The response without streaming is limited, and says so.
    let flood = run(&server, &id, "print('y' * 30_000_000)").await;
    let pieces = flood["logs"]["stdout"].as_array().unwrap();
    assert!(pieces[0].as_str().unwrap().len() < 30_000_000);
    assert!(pieces[1].as_str().unwrap().contains("was left out"), "{}", pieces[1]);
}

#[server_test]
async fn contexts_are_separate() {
    let server = Server::start();
    let id = server.create().await;
    run(&server, &id, "x = 'default'").await;
    let other = new_context(&server, &id, json!({ "cwd": "/usr" })).await;
    let in_other = json!({ "context": other });
    let dir = run_with(&server, &id, "import os; os.getcwd()", in_other.clone()).await;
    assert_eq!((text(&dir), &dir["execution_count"]), ("'/usr'", &json!(1)));
    assert_eq!(error_name(&run_with(&server, &id, "x", in_other.clone()).await), "NameError");
    run_with(&server, &id, "x = 'other'; os.chdir('/')", in_other.clone()).await;
    assert_eq!(text(&run(&server, &id, "x").await), "'default'");
    assert_eq!(
        text(&run_with(&server, &id, "x, os.getcwd()", in_other.clone()).await),
        "('other', '/')"
    );

    // A restart loses the variables of one context only.
    let restarted = change_context(&server, &id, &other, "restart").await;
    assert_eq!((&restarted["status"], &restarted["execution_count"]), (&json!("idle"), &json!(0)));
    let fresh = run_with(&server, &id, "x", in_other.clone()).await;
    assert_eq!((error_name(&fresh), &fresh["execution_count"]), ("NameError", &json!(1)));
    assert_eq!(text(&run(&server, &id, "x").await), "'default'");

    // A language has a default context of its own.
    let language = json!({ "language": "javascript" });
    run_with(&server, &id, "const x = [1, 2]", language.clone()).await;
    assert_eq!(text(&run_with(&server, &id, "x", language.clone()).await), "[ 1, 2 ]");
    assert_eq!(status_of(&server, &id, "default-javascript").await.unwrap(), "idle");
    let wrong = json!({ "language": "javascript", "context": other });
    refused(&try_run(&server, &id, "1", wrong).await, 400, "invalid_request", "runs python");

    let path = format!("/v1/runs/{id}/contexts/{other}");
    let (status, body) = answer(server.request(Method::DELETE, &path)).await;
    assert_eq!((status.as_u16(), &body["status"]), (200, &json!("removed")));
    let gone = try_run(&server, &id, "x", in_other).await;
    refused(&gone, 404, "context_not_found", "the contexts are default, default-javascript");
    for (method, path) in [
        (Method::DELETE, path.clone()),
        (Method::POST, format!("{path}/restart")),
        (Method::POST, format!("{path}/interrupt")),
    ] {
        let refusal = answer(server.request(method, &path)).await;
        refused(&refusal, 404, "context_not_found", &format!("{other:?}"));
    }
    let missing = try_run(&server, &id, "1", json!({ "language": "r" })).await;
    refused(&missing, 422, "language_not_available", "no interpreter for r");
    refused(
        &try_run(&server, &id, "1", json!({ "language": "é" })).await,
        400,
        "invalid_request",
        "é",
    );
    assert_eq!(contexts(&server, &id).await.len(), 2, "no context is left of a failed start");
    let wrong = server.post(&format!("/v1/runs/{id}/contexts"), json!({ "cwd": "/nowhere" })).await;
    refused(&wrong, 400, "command_not_found", "/nowhere");
}

#[server_test]
async fn number_of_contexts_is_limited() {
    let server = Server::start();
    let id = server.create().await;
    run(&server, &id, "x = 1").await;
    for _ in 1..16 {
        new_context(&server, &id, json!({})).await;
    }
    let one_more = server.post(&format!("/v1/runs/{id}/contexts"), json!({})).await;
    refused(&one_more, 429, "too_many_contexts", "16");
    refused(
        &try_run(&server, &id, "1", json!({ "language": "javascript" })).await,
        429,
        "too_many_contexts",
        "remove one first",
    );
    assert_eq!(text(&run(&server, &id, "x").await), "1");
}

#[server_test]
async fn javascript_cells_behave_like_a_repl() {
    let server = Server::start();
    let id = server.create().await;
    let js = json!({ "language": "javascript" });
    for (code, expected) in [
        ("const a = 1; let b = 2; a + b", "3"),
        ("const a = 5; a + b", "7"),
        ("await new Promise((done) => setTimeout(() => done({ x: [1] }), 10))", "{ x: [ 1 ] }"),
        ("{ a: 1 }", "{ a: 1 }"),
        ("function f() { return `f${a}`; }\nf()", "'f5'"),
        ("const { readFileSync } = await import('fs'); typeof readFileSync", "'function'"),
        ("typeof require('path').join, path.join('a', 'b')", "'a/b'"),
    ] {
        let execution = run_with(&server, &id, code, js.clone()).await;
        assert_eq!(text(&execution), expected, "{code}");
    }
    let code = "console.log('one'); console.error('two');\ndisplay({ 'text/html': '<b>x</b>', \
                'image/png': Buffer.from('abc') });\nundefined";
    let shown = run_with(&server, &id, code, js.clone()).await;
    assert_eq!((log(&shown, "stdout"), log(&shown, "stderr")), ("one\n".into(), "two\n".into()));
    assert_eq!(
        shown["results"],
        json!([{
            "data": { "text/html": "<b>x</b>", "image/png": "YWJj" }, "metadata": {},
            "is_main_result": false,
        }])
    );
    let failed = run_with(&server, &id, "null.x", js.clone()).await;
    assert_eq!(error_name(&failed), "TypeError");
    let traceback = failed["error"]["traceback"].as_str().unwrap();
    assert!(traceback.contains("cell-9.js:1:6") && !traceback.contains("node:"), "{traceback}");
    let failed = run_with(&server, &id, "let = ;", js.clone()).await;
    assert_eq!(error_name(&failed), "SyntaxError");
    for code in ["while (true);", "await new Promise(() => {})"] {
        let more = json!({ "language": "javascript", "timeout": 0.3 });
        let stopped = run_with(&server, &id, code, more).await;
        assert_eq!(error_name(&stopped), "TimeoutError", "{code}");
        assert_eq!(text(&run_with(&server, &id, "a", js.clone()).await), "5", "{code}");
    }
    let ended = run_with(&server, &id, "process.exit(3)", js.clone()).await;
    assert_eq!(error_name(&ended), "ContextDied");
    assert_eq!(error_name(&run_with(&server, &id, "a", js).await), "ReferenceError");
}

#[server_test]
async fn interrupted_cells_keep_their_context() {
    let server = Server::start();
    let id = server.create().await;
    run(&server, &id, "import asyncio, time; x = 1").await;
    for code in [
        "while True: pass",
        "time.sleep(60)",
        "await asyncio.sleep(60)",
        "import subprocess; subprocess.run(['sleep', '60'])",
    ] {
        let execution = run_with(&server, &id, code, json!({ "timeout": 0.3 })).await;
        assert_eq!(error_name(&execution), "TimeoutError", "{code}: {execution}");
        assert!(execution["error"]["value"].as_str().unwrap().contains("0.3 s"), "{execution}");
        assert_eq!(text(&run(&server, &id, "x").await), "1", "{code}");
    }
    let waiting = run(&server, &id, "print('started'); time.sleep(60)");
    let interrupting = async {
        wait_for_status(&server, &id, "default", "busy").await;
        let second = try_run(&server, &id, "x", json!({})).await;
        refused(&second, 409, "context_busy", "interrupt it");
        change_context(&server, &id, "default", "interrupt").await;
    };
    let (interrupted, ()) = tokio::join!(waiting, interrupting);
    assert_eq!(error_name(&interrupted), "KeyboardInterrupt");
    assert_eq!(text(&run(&server, &id, "x").await), "1");
    // Without a cell it has no effect.
    change_context(&server, &id, "default", "interrupt").await;
    assert_eq!(text(&run(&server, &id, "x").await), "1");
}

#[server_test]
async fn python_cells_may_contain_shell_and_magic_commands() {
    let server = Server::start();
    let id = server.create().await;
    for (code, output) in [
        ("name = 'b'\n!echo a {name} $((1 + 1)); echo c >&2", "a b 2\n"),
        ("print('first')\n!echo then\nprint('last')", "first\nthen\nlast\n"),
        ("%cd /tmp\n%matplotlib inline", "/tmp\n"),
        ("%%writefile made.txt\none\ntwo", "Writing made.txt\n"),
        ("%%bash\nwc -l < made.txt", "2\n"),
    ] {
        let execution = run(&server, &id, code).await;
        assert_eq!(execution["error"], Value::Null, "{code}");
        assert_eq!(log(&execution, "stdout"), output, "{code}");
    }
    assert_eq!(text(&run(&server, &id, "lines = !cat made.txt\nlines").await), "['one', 'two']");
    assert_eq!(text(&run(&server, &id, "!exit 3\n_exit_code").await), "3");
    let unknown = run(&server, &id, "x = 1\n%nothing").await;
    assert_eq!(error_name(&unknown), "UsageError");
    let traceback = unknown["error"]["traceback"].as_str().unwrap();
    assert!(traceback.contains("line 2") && !traceback.contains("isorun"), "{traceback}");
    let stopped = run_with(&server, &id, "!sleep 60", json!({ "timeout": 0.3 })).await;
    assert_eq!(error_name(&stopped), "TimeoutError");
    assert_eq!(text(&run(&server, &id, "x").await), "1");
}

/// An interrupt that comes while the interpreter does something else than the cell, or just
/// before it starts to wait.
#[server_test]
async fn missed_interrupts_are_repeated() {
    let server = Server::start();
    let id = server.create().await;
    for (language, before, code) in [
        (
            "python",
            "import asyncio, time\nkept = 5\nasync def late():\n    await asyncio.sleep(0.05)\n    \
             open('/tmp/python', 'w').close()\n    time.sleep(2)\ntask = \
             asyncio.create_task(late())\n_ = await asyncio.sleep(0)",
            "while True: pass",
        ),
        (
            "javascript",
            "globalThis.kept = 5\nsetTimeout(() => {\n  fs.writeFileSync('/tmp/javascript', '')\n  \
             const end = Date.now() + 2000\n  while (Date.now() < end);\n}, 50)\nundefined",
            "while (true);",
        ),
    ] {
        let begun = run_with(&server, &id, before, json!({ "language": language })).await;
        assert_eq!(begun["error"], Value::Null, "{begun}");
        wait_for("code runs between two cells", async || {
            let file = server.exec(&id, &format!("test -e /tmp/{language}")).await;
            (file["exit_code"] == 0).then_some(())
        })
        .await;
        let more = json!({ "language": language, "timeout": 0.3 });
        let stopped = run_with(&server, &id, code, more).await;
        assert_eq!(error_name(&stopped), "TimeoutError", "{code}: {stopped}");
        let value = stopped["error"]["value"].as_str().unwrap();
        assert!(value.contains("keeps its state"), "{code}: {value}");
        let next = run_with(&server, &id, "kept", json!({ "language": language })).await;
        assert_eq!(text(&next), "5", "{code}");
    }
    // Another thread receives the signal, and this one continues to wait.
    let code = "import signal, threading, time\nthreading.Thread(target=time.sleep, args=(60,), \
                daemon=True).start()\nsignal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])\ntry: \
                time.sleep(60)\nfinally: signal.pthread_sigmask(signal.SIG_UNBLOCK, \
                [signal.SIGINT])";
    let stopped = run_with(&server, &id, code, json!({ "timeout": 0.3 })).await;
    let value = stopped["error"]["value"].as_str().unwrap();
    assert!(value.contains("keeps its state"), "{value}");
    assert_eq!(text(&run(&server, &id, "kept").await), "5");
    // An interrupt that the code handles is not repeated.
    let code = "try: time.sleep(60)\nexcept KeyboardInterrupt: time.sleep(1)\n'handled'";
    let handled = run_with(&server, &id, code, json!({ "timeout": 0.3 })).await;
    assert_eq!(error_name(&handled), "TimeoutError");
    assert!(handled["error"]["value"].as_str().unwrap().contains("keeps its state"), "{handled}");
    assert_eq!(handled["results"][0]["data"]["text/plain"], "'handled'", "{handled}");
    assert_eq!(text(&run(&server, &id, "kept").await), "5");
}

#[server_test]
async fn caught_interrupt_ends_the_interpreter() {
    let server = Server::start();
    let id = server.create().await;
    let other = new_context(&server, &id, json!({})).await;
    run_with(&server, &id, "kept = 5", json!({ "context": other })).await;
    let stubborn = "import time; x = 1\nprint('before')\nwhile True:\n    try:\n        time.sleep(60)\n    \
                    except KeyboardInterrupt: pass";
    let execution = run_with(&server, &id, stubborn, json!({ "timeout": 0.3 })).await;
    assert_eq!(error_name(&execution), "TimeoutError");
    assert!(execution["error"]["value"].as_str().unwrap().contains("was killed"), "{execution}");
    assert_eq!(log(&execution, "stdout"), "before\n");
    let next = run(&server, &id, "x").await;
    assert_eq!((error_name(&next), &next["execution_count"]), ("NameError", &json!(1)));
    assert_eq!(text(&run_with(&server, &id, "kept", json!({ "context": other })).await), "5");
    assert_eq!(text(&run(&server, &id, "6 * 7").await), "42");
}

#[server_test]
async fn dead_interpreters_are_reported_and_replaced() {
    let server = Server::start();
    let id = server.create().await;
    let other = new_context(&server, &id, json!({})).await;
    run_with(&server, &id, "kept = 5", json!({ "context": other })).await;
    for (code, cause) in [
        ("import os; os._exit(3)", "exited with code 3"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "killed by signal 9"),
        ("import ctypes; ctypes.string_at(0)", "killed by signal 11"),
        (
            "import os; os.write(98, b'{\"type\": \"end\"}'); import time; time.sleep(60)",
            "was killed",
        ),
        (
            "import os; os.write(98, b'p\\xff\\xff\\xff\\x7f'); import time; time.sleep(60)",
            "was killed",
        ),
        ("import os; os.closerange(3, 200); import time; time.sleep(60)", "was killed"),
        ("import os; os.closerange(3, 200)\n1", "exited with code"),
    ] {
        let execution =
            run(&server, &id, &format!("x = 1\nprint('shown', flush=True)\n{code}")).await;
        assert_eq!(error_name(&execution), "ContextDied", "{code}: {execution}");
        let value = execution["error"]["value"].as_str().unwrap();
        assert!(value.contains(cause), "{code}: {value}");
        assert_eq!(log(&execution, "stdout"), "shown\n", "{code}");
        assert_eq!(status_of(&server, &id, "default").await.unwrap(), "dead", "{code}");
        assert_eq!(error_name(&run(&server, &id, "x").await), "NameError", "{code}");
    }
    // An event that is not valid JSON, in a valid frame.
    let code = "import os\nos.write(98, b'p\\x02\\0\\0\\0{]')\nimport time; time.sleep(60)";
    let execution = run(&server, &id, code).await;
    assert_eq!(error_name(&execution), "ContextDied", "{execution}");
    wait_for_status(&server, &id, "default", "idle").await;
    assert_eq!(text(&run(&server, &id, "1").await), "1");
    // An interpreter that dies between two cells.
    let code = "import os, threading, time\nthreading.Timer(0.1, lambda: os._exit(1)).start()";
    run(&server, &id, code).await;
    wait_for_status(&server, &id, "default", "dead").await;
    assert_eq!(text(&run(&server, &id, "2").await), "2");
    assert_eq!(text(&run_with(&server, &id, "kept", json!({ "context": other })).await), "5");
}

#[server_test]
async fn hostile_results_cost_only_themselves() {
    let server = Server::start();
    let id = server.create_with(json!({ "mem_mib": 2048 })).await;
    let big = run(
        &server,
        &id,
        "display({'image/png': 'A' * 100_000_000, 'text/plain': 'small'}, raw=True); 'end'",
    )
    .await;
    assert_eq!(text(&big), "'end'");
    let result = &big["results"][0];
    assert_eq!(result["data"], json!({ "text/plain": "small" }));
    let omitted = result["metadata"]["omitted"]["image/png"].as_str().unwrap();
    assert!(omitted.contains("over the limit of 8388608"), "{omitted}");
    let long = run(&server, &id, "'z' * 100_000_000").await;
    assert!(text(&long).len() <= 8 << 20 && text(&long).starts_with("'zzz"));
    let escaped = run(&server, &id, "display({'text/html': '\\x01' * 8_000_000}, raw=True)").await;
    assert!(escaped["results"][0]["metadata"]["omitted"]["text/html"].is_string());
    // Many results, over the limit of one response.
    let code = "for n in range(12): display({'text/html': str(n % 10) * 8_000_000}, raw=True)";
    let many = run(&server, &id, code).await;
    let results = many["results"].as_array().unwrap();
    let kept = results.iter().filter(|result| result["data"]["text/html"].is_string()).count();
    assert_eq!((results.len(), kept), (12, 8));
    assert!(
        results[11]["metadata"]["omitted"]["text/html"].as_str().unwrap().contains("all results")
    );

    let code = "class Raises:\n    def _repr_html_(self): raise ValueError('no')\nclass Loops:\n    \
                def _repr_html_(self):\n        while True: pass\nx = 1\nRaises()";
    let raised = run(&server, &id, code).await;
    assert!(text(&raised).contains("Raises object"));
    assert_eq!(raised["results"][0]["metadata"]["errors"]["text/html"], "ValueError: no");
    let looped = run_with(&server, &id, "Loops()", json!({ "timeout": 0.3 })).await;
    assert_eq!(error_name(&looped), "TimeoutError");
    assert_eq!(text(&run(&server, &id, "x").await), "1");
    // A child that continues with the cell does not answer in its place.
    let forked =
        run(&server, &id, "import os\npid = os.fork()\nif pid == 0: display('child')\npid > 0")
            .await;
    assert_eq!((text(&forked), forked["results"].as_array().unwrap().len()), ("True", 1));
}

#[server_test]
async fn disconnecting_interrupts_the_cell() {
    let server = Server::start();
    let id = server.create().await;
    run(&server, &id, "x = 1; import time").await;
    let path = format!("/v1/runs/{id}/code/stream");
    let body = json!({ "code": "print('started')\ntime.sleep(600)\nx = 2", "timeout": 0 });
    let response = server.request(Method::POST, &path).json(&body).send().await.unwrap();
    let mut chunks = response.bytes_stream();
    let first = chunks.next().await.unwrap().unwrap();
    assert!(String::from_utf8_lossy(&first).contains("started"));
    drop(chunks);
    wait_for_status(&server, &id, "default", "idle").await;
    assert_eq!(text(&run(&server, &id, "x").await), "1");
}

#[server_test]
async fn contexts_survive_hibernation_and_snapshots() {
    let server = Server::start();
    let id = server.create().await;
    let other = new_context(&server, &id, json!({ "language": "javascript" })).await;
    run(&server, &id, "x = [1]").await;
    run_with(&server, &id, "const y = 2", json!({ "context": other })).await;
    let snapshot = server.snapshot(&id).await;
    for _ in 0..2 {
        server.change(&id, "hibernate").await;
        refused(&try_run(&server, &id, "x", json!({})).await, 409, "run_hibernated", "resume");
        server.change(&id, "resume").await;
        let grown = run(&server, &id, "x.append(len(x)); x").await;
        assert!(text(&grown).starts_with("[1, 1"), "{grown}");
        assert_eq!(text(&run_with(&server, &id, "y", json!({ "context": other })).await), "2");
    }
    let restored = server.restore(&snapshot).await;
    assert_eq!(text(&run(&server, &restored, "x").await), "[1]");
    assert_eq!(text(&run_with(&server, &restored, "y", json!({ "context": other })).await), "2");
    assert_eq!(contexts(&server, &restored).await.len(), 2);
    let interrupted =
        run_with(&server, &restored, "while True: pass", json!({ "timeout": 0.3 })).await;
    assert_eq!(error_name(&interrupted), "TimeoutError");
    assert_eq!(text(&run(&server, &restored, "x").await), "[1]");
}

#[server_test]
async fn fork_in_the_middle_of_a_cell_finishes_it_in_both() {
    let server = Server::start();
    let id = server.create().await;
    run(&server, &id, "import os, time").await;
    let code = "print('one')\nwhile not os.path.exists('/tmp/go'): time.sleep(0.01)\n\
                print('two')\nx = 7\nx";
    let running = run(&server, &id, code);
    let forking = async {
        wait_for_status(&server, &id, "default", "busy").await;
        let forks = server.fork(&id, 1).await;
        server.text(&id, "touch /tmp/go").await;
        forks
    };
    let (execution, forks) = tokio::join!(running, forking);
    assert_eq!((text(&execution), &*log(&execution, "stdout")), ("7", "one\ntwo\n"));
    // No client waits for the cell of the fork, which continues; its output is dropped.
    let fork = &forks[0];
    assert_eq!(status_of(&server, fork, "default").await.unwrap(), "busy");
    refused(&try_run(&server, fork, "1", json!({})).await, 409, "context_busy", "runs a cell");
    server.text(fork, "touch /tmp/go").await;
    wait_for_status(&server, fork, "default", "idle").await;
    let after = run(&server, fork, "x").await;
    assert_eq!((text(&after), &*log(&after, "stdout")), ("7", ""));
    assert_eq!(text(&run(&server, &id, "x").await), "7");
}

#[server_test]
async fn invalid_requests_are_refused() {
    let server = Server::start();
    let id = server.create().await;
    for (body, cause) in [
        (json!({}), "code"),
        (json!({ "code": 5 }), "code"),
        (json!({ "code": "1", "timeout": -5 }), "timeout"),
        (json!({ "code": "1", "mood": "good" }), "mood"),
    ] {
        for path in ["code", "code/stream"] {
            let refusal = server.post(&format!("/v1/runs/{id}/{path}"), body.clone()).await;
            refused(&refusal, 400, "invalid_request", cause);
        }
    }
    let unknown = try_run(&server, &id, "1", json!({ "context": "nope" })).await;
    refused(&unknown, 404, "context_not_found", "POST /v1/runs/{id}/contexts");
    let stranger = server.tenant().await;
    refused(&try_run(&stranger, &id, "1", json!({})).await, 404, "run_not_found", &id);
}

#[server_test]
async fn command_runs_code_and_saves_results() {
    let server = Server::start();
    let id = server.create().await;
    let code = async |args: &[&str], text: &str| {
        let mut command = server.command();
        command.arg("code").arg(&id).args(args);
        let output = with_input(command, text.as_bytes()).await;
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    assert_eq!(code(&[], "x = 41; print('out')").await, (Some(0), "out\n".into(), String::new()));
    assert_eq!(code(&["-"], "x + 1").await, (Some(0), "42\n".into(), String::new()));
    let (status, stdout, stderr) = code(&[], "1 / 0").await;
    assert_eq!((status, &*stdout), (Some(1), ""));
    assert!(stderr.ends_with("ZeroDivisionError: division by zero\n"), "{stderr}");
    let (status, _, stderr) = code(&["--timeout", "300ms"], "while True: pass").await;
    assert!(status == Some(1) && stderr.starts_with("TimeoutError: "), "{stderr}");
    let js = code(&["--language", "js", "--json"], "console.log(1); 2").await;
    assert_eq!(js.0, Some(0), "{js:?}");
    let execution: Value = serde_json::from_str(&js.1).unwrap();
    assert_eq!((text(&execution), &execution["logs"]["stdout"]), ("2", &json!(["1\n"])));

    let dir = tempfile::tempdir().unwrap();
    let (saved, file) = (dir.path().join("saved"), dir.path().join("cell.py"));
    let shown = "display({'image/png': b'\\x89PNG', 'text/html': '<b>', '../x/y': 'no'}, raw=True)";
    std::fs::write(&file, shown).unwrap();
    let saving = ["--save-results", saved.to_str().unwrap(), file.to_str().unwrap()];
    let (status, _, stderr) = code(&saving, "").await;
    assert_eq!(status, Some(0), "{stderr}");
    assert_eq!(std::fs::read(saved.join("result-1.png")).unwrap(), b"\x89PNG");
    assert_eq!(std::fs::read_to_string(saved.join("result-1.html")).unwrap(), "<b>");
    assert_eq!(std::fs::read_dir(&saved).unwrap().count(), 2);
    let (status, _, stderr) = code(&["--context", "nope"], "1").await;
    assert!(status == Some(125) && stderr.contains("there is no context"), "{stderr}");
    assert_eq!(code(&["/nowhere.py"], "").await.0, Some(125));
}
