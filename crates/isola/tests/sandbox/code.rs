//! Code in contexts: values, rich results, output, errors, and the verbs of contexts.

use std::time::Duration;

use futures_util::StreamExt as _;
use isola::{CodeEvent, Error, Execution, Language, Limits, Runtime, Sandbox, args};
use serde_json::{Value as Json, json};
use test_macros::each_runtime;

use crate::fixture::{started, started_with, template};

/// Runs code that must not end in an exception.
async fn run(sandbox: &Sandbox, code: &str) -> Execution {
    let execution = sandbox.run_code(code).await.unwrap();
    assert_eq!(execution.error, None, "{code}");
    execution
}

async fn text(sandbox: &Sandbox, code: &str) -> Option<String> {
    run(sandbox, code).await.text()
}

fn json_of(execution: &Execution) -> Json {
    serde_json::to_value(execution).unwrap()
}

#[each_runtime]
async fn values_are_shown_and_state_is_kept(runtime: Runtime) {
    let rows: &[(&str, Option<&str>)] = match runtime.language() {
        Language::Python => &[
            ("x = 20", None),
            ("x + 1", Some("21")),
            ("x + 2;", None),
            ("import asyncio\nawait asyncio.sleep(0, 'slept')", Some("'slept'")),
            (
                "import asyncio\nasync def f():\n    return 4\ntask = \
                 asyncio.create_task(f())\nawait task",
                Some("4"),
            ),
            ("def f(): return [x]", None),
            ("f()", Some("[20]")),
            ("_", Some("[20]")),
            ("None", None),
        ],
        Language::JavaScript => &[
            ("const x = 20", None),
            ("x + 1", Some("21")),
            ("x + 2;", Some("22")),
            ("const s = await Promise.resolve('slept')\ns", Some("'slept'")),
            ("function f() { return [x] }", None),
            ("f()", Some("[ 20 ]")),
            ("s", Some("'slept'")),
            ("const x = 21; x", Some("21")),
            ("({ a: 1 })", Some("{ a: 1 }")),
            ("{ a: 1 }", Some("{ a: 1 }")),
            ("undefined", None),
        ],
    };
    let sandbox = started(runtime).await;
    for (number, (code, value)) in (1..).zip(rows) {
        let execution = run(&sandbox, code).await;
        assert_eq!(execution.text().as_deref(), *value, "{code}");
        assert_eq!(execution.execution_count, number, "{code}");
    }
    // Scripts and calls share the globals of the default context.
    assert_eq!(
        sandbox.run("f", args![]).await.unwrap().as_str(),
        match runtime.language() {
            Language::Python => "[20]",
            Language::JavaScript => "[21]",
        }
    );
}

#[each_runtime]
async fn executions_have_the_form_of_the_documentation(runtime: Runtime) {
    let sandbox = started(runtime).await;
    let code = match runtime.language() {
        Language::Python => "import sys; print('out'); print('err', file=sys.stderr); 1 / 0",
        Language::JavaScript => "console.log('out'); console.error('err'); missing",
    };
    let execution = sandbox.run_code(code).await.unwrap();
    let name = match runtime.language() {
        Language::Python => "ZeroDivisionError",
        Language::JavaScript => "ReferenceError",
    };
    let error = execution.error.clone().unwrap();
    assert_eq!(error.name, name);
    assert!(error.traceback.contains("cell-1."), "{error}");
    assert!(!error.traceback.contains("isola_guest"), "{error}");
    assert_eq!(
        json_of(&execution),
        json!({
            "results": [],
            "logs": {"stdout": ["out\n"], "stderr": ["err\n"]},
            "error": {"name": name, "value": error.value, "traceback": error.traceback},
            "execution_count": 1,
        })
    );
    let execution = run(&sandbox, "1 + 1").await;
    assert_eq!(
        json_of(&execution)["results"],
        json!([{"data": {"text/plain": "2"}, "metadata": {}, "is_main_result": true}])
    );
}

#[each_runtime]
async fn rich_results_have_the_types_that_values_tell(runtime: Runtime) {
    let code = match runtime.language() {
        Language::Python => {
            "class Picture:
    def __repr__(self): return 'picture'
    def _repr_png_(self): return b'png'
    def _repr_html_(self): return '<b>'
    def _repr_json_(self): return {'a': [1]}
    def _repr_svg_(self): raise ValueError('no')
display(Picture())
'last'"
        }
        Language::JavaScript => {
            "display({
  'text/plain': 'picture',
  'image/png': new TextEncoder().encode('png'),
  'text/html': '<b>',
  'application/json': { a: [1] },
  'image/svg+xml': 5,
});
'last'"
        }
    };
    let sandbox = started(runtime).await;
    let execution = run(&sandbox, code).await;
    let [shown, last] = &execution.results[..] else { panic!("{execution:?}") };
    assert_eq!(shown.text().as_deref(), Some("picture"));
    assert_eq!(shown.png().as_deref(), Some("cG5n"));
    assert_eq!(shown.html().as_deref(), Some("<b>"));
    assert_eq!(shown.json().unwrap().as_str(), r#"{"a":[1]}"#);
    assert!(!shown.is_main_result && last.is_main_result);
    assert_eq!(last.text().as_deref(), Some("'last'"));
    let errors: Json = shown.metadata["errors"].to().unwrap();
    let message = match runtime.language() {
        Language::Python => "ValueError: no",
        Language::JavaScript => "TypeError: image/svg+xml is text, not number",
    };
    assert_eq!(errors, json!({"image/svg+xml": message}));
}

#[each_runtime]
async fn events_are_in_order(runtime: Runtime) {
    let code = match runtime.language() {
        Language::Python => "print('a'); display(1); print('b'); display(2); print('c'); 3",
        Language::JavaScript => {
            "console.log('a'); display(1); console.log('b'); display(2); console.log('c'); 3"
        }
    };
    let sandbox = started(runtime).await;
    let events: Vec<Json> = sandbox
        .run_code(code)
        .stream()
        .unwrap()
        .map(|event| match event.unwrap() {
            CodeEvent::Result(result) => json!(result.text()),
            other => serde_json::to_value(other).unwrap(),
        })
        .collect()
        .await;
    let out = |text: &str| json!({"type": "stdout", "text": format!("{text}\n")});
    let end = json!({"type": "end", "execution_count": 1});
    assert_eq!(events, [out("a"), json!("1"), out("b"), json!("2"), out("c"), json!("3"), end]);
}

#[each_runtime]
async fn contexts_have_their_own_globals(runtime: Runtime) {
    let sandbox = started(runtime).await;
    let (define, read) = match runtime.language() {
        Language::Python => ("x = 'default'", "x"),
        Language::JavaScript => ("const x = 'default'; var y = 1", "x"),
    };
    run(&sandbox, define).await;
    let context = sandbox.create_context(None).await.unwrap();
    assert_eq!((context.id.as_str(), context.execution_count), ("context-1", 0));
    let execution = sandbox.run_code(read).context(&context.id).await.unwrap();
    assert!(["NameError", "ReferenceError"].contains(&&*execution.error.unwrap().name));
    let code = define.replace("default", "other");
    sandbox.run_code(code).context(&context.id).await.unwrap();
    assert_eq!(text(&sandbox, read).await.as_deref(), Some("'default'"));
    let execution = sandbox.run_code(read).context(&context.id).await.unwrap();
    assert_eq!(execution.text().as_deref(), Some("'other'"));
    assert_eq!(execution.execution_count, 3);

    let listed = sandbox.contexts().await.unwrap();
    let ids: Vec<_> = listed.iter().map(|it| (it.id.as_str(), it.execution_count)).collect();
    assert_eq!(ids, [("default", 2), ("context-1", 3)]);
    let language = match runtime.language() {
        Language::Python => "python",
        Language::JavaScript => "javascript",
    };
    assert!(listed.iter().all(|context| context.language == language));

    sandbox.restart_context(&context.id).await.unwrap();
    let execution = sandbox.run_code(read).context(&context.id).await.unwrap();
    assert!(execution.error.is_some() && execution.execution_count == 1);
    sandbox.restart_context("default").await.unwrap();
    assert!(sandbox.run_code(read).await.unwrap().error.is_some());
    assert_eq!(text(&sandbox, "1 + 1").await.as_deref(), Some("2"));

    sandbox.remove_context(&context.id).await.unwrap();
    for (action, error) in [
        ("run", sandbox.run_code("1").context(&context.id).await.map(drop).unwrap_err()),
        ("restart", sandbox.restart_context(&context.id).await.unwrap_err()),
        ("remove", sandbox.remove_context(&context.id).await.unwrap_err()),
        ("remove default", sandbox.remove_context("default").await.unwrap_err()),
        ("invalid", sandbox.run_code("1").context("a b").await.map(drop).unwrap_err()),
        ("directory", sandbox.create_context(Some("/missing")).await.map(drop).unwrap_err()),
        ("language", sandbox.run_code("1").language("ruby").await.map(drop).unwrap_err()),
    ] {
        assert_eq!(error.code(), "invalid_argument", "{action}: {error}");
    }
    assert_eq!(sandbox.run_code("1").language(language).await.unwrap().results.len(), 1);
}

#[each_runtime]
async fn contexts_are_copied_by_forks_and_snapshots(runtime: Runtime) {
    let sandbox = started(runtime).await;
    let context = sandbox.create_context(None).await.unwrap();
    let define = match runtime.language() {
        Language::Python => "x = [1]",
        Language::JavaScript => "const x = [1]",
    };
    sandbox.run_code(define).context(&context.id).await.unwrap();
    let fork = sandbox.fork(1).await.unwrap().remove(0);
    let change = match runtime.language() {
        Language::Python => "x.append(2)",
        Language::JavaScript => "x.push(2)",
    };
    fork.run_code(change).context(&context.id).await.unwrap();
    let snapshot = fork.snapshot().await.unwrap();
    let copy = snapshot.create_sandbox().await.unwrap();
    let read = async |sandbox: &Sandbox| {
        let code = match runtime.language() {
            Language::Python => "len(x)",
            Language::JavaScript => "x.length",
        };
        let execution = sandbox.run_code(code).context(&context.id).await.unwrap();
        (execution.text().unwrap(), execution.execution_count)
    };
    assert_eq!(read(&sandbox).await, ("1".to_owned(), 2));
    assert_eq!(read(&fork).await, ("2".to_owned(), 3));
    assert_eq!(read(&copy).await, ("2".to_owned(), 3));
}

#[tokio::test]
async fn contexts_have_their_own_working_directories() {
    let sandbox = started(Runtime::Python).await;
    let code = "import os\nos.makedirs('/tmp/a/b')\nopen('note.txt', 'w').write('x')\nos.getcwd()";
    let home = text(&sandbox, code).await.unwrap();
    let context = sandbox.create_context(Some("/tmp/a")).await.unwrap();
    assert_eq!(context.cwd, "/tmp/a");
    let run_there = async |code: &str| {
        sandbox.run_code(code).context(&context.id).await.unwrap().text().unwrap()
    };
    assert_eq!(run_there("import os\nos.listdir()").await, "['b']");
    assert_eq!(run_there("os.chdir('b')\nos.getcwd()").await, "'/tmp/a/b'");
    assert_eq!(text(&sandbox, "os.getcwd()").await.unwrap(), home);
    assert_eq!(text(&sandbox, "os.listdir()").await.unwrap(), "['note.txt']");
    assert_eq!(run_there("os.getcwd()").await, "'/tmp/a/b'");
    let cwds: Vec<_> = sandbox.contexts().await.unwrap().into_iter().map(|it| it.cwd).collect();
    assert_eq!(cwds, [home.trim_matches('\''), "/tmp/a/b"]);
    sandbox.restart_context(&context.id).await.unwrap();
    assert_eq!(run_there("import os; os.getcwd()").await, "'/tmp/a'");
    // One that was removed does not keep the code from running.
    text(&sandbox, "import shutil\nshutil.rmtree('/tmp/a')").await;
    sandbox.restart_context(&context.id).await.unwrap();
    assert_eq!(run_there("1").await, "1");
}

#[tokio::test]
async fn a_context_has_its_own_main_module_and_calls_those_of_scripts() {
    let sandbox = started(Runtime::Python).await;
    let context = sandbox.create_context(None).await.unwrap();
    let code = "import __main__\n__main__.y = 5\nclass A: pass\nimport pickle\n(y, pickle.loads(pickle.dumps(A)) is A)";
    let execution = sandbox.run_code(code).context(&context.id).await.unwrap();
    assert_eq!(execution.text().as_deref(), Some("(5, True)"), "{execution:?}");
    sandbox.load_script("import __main__\ndef f(): return hasattr(__main__, 'y')").await.unwrap();
    assert_eq!(sandbox.run("f", args![]).await.unwrap().as_str(), "false");
}

#[each_runtime]
async fn large_results_are_left_out_and_named(runtime: Runtime) {
    let limits = Limits { max_value_size: 100_000, ..Limits::default() };
    let sandbox = started_with(runtime, limits, isola::DenyAll).await;
    let code = match runtime.language() {
        Language::Python => {
            "class A:
    def _repr_html_(self): return 'x' * 100_001
    def _repr_png_(self): return bytes(10 ** 8)
    def _repr_svg_(self): return '<svg/>'
display(A())
'x' * 10 ** 6"
        }
        Language::JavaScript => {
            "display({
  'text/html': 'x'.repeat(100_001),
  'image/png': new Uint8Array(10 ** 7),
  'image/svg+xml': '<svg/>',
});
'x'.repeat(10 ** 6)"
        }
    };
    let execution = run(&sandbox, code).await;
    let [shown, last] = &execution.results[..] else { panic!("{execution:?}") };
    assert_eq!(shown.svg().as_deref(), Some("<svg/>"));
    assert!(shown.html().is_none() && shown.png().is_none());
    let omitted: Json = shown.metadata["omitted"].to().unwrap();
    assert_eq!(omitted.as_object().unwrap().len(), 2, "{omitted}");
    assert!(omitted["text/html"].as_str().unwrap().starts_with("100001 bytes, over the limit of"));
    let text = last.text().unwrap();
    assert!(text.len() <= 100_000 && text.contains("characters"), "{}", text.len());
    // The size of the escaped text exceeds the limit.
    let code = match runtime.language() {
        Language::Python => "display({'text/html': '\\n' * 90_000, 'a/b': 'c'}, raw=True)",
        Language::JavaScript => "display({'text/html': '\\n'.repeat(90_000), 'a/b': 'c'})",
    };
    let execution = run(&sandbox, code).await;
    assert_eq!(execution.results[0].formats().collect::<Vec<_>>(), ["a/b"]);
    assert!(execution.results[0].metadata.contains_key("omitted"));
}

#[tokio::test]
async fn errors_of_a_guest_end_the_code_and_not_the_context() {
    let sandbox = started(Runtime::Python).await;
    run(&sandbox, "x = 1").await;
    for (code, name) in [
        ("import sys; sys.exit(3)", "SystemExit"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("def f(): f()\nf()", "RecursionError"),
        ("x = = 1", "SyntaxError"),
        ("bytes(2 ** 30)", "MemoryError"),
        ("from sandbox.asyncio import hostcall\nawait hostcall('no')", "HostcallError"),
        ("import asyncio\nawait asyncio.Future()", "DeadlockError"),
        ("class E(Exception):\n def __str__(self): raise self\nraise E", "E"),
        ("class A:\n def _repr_html_(self): raise KeyboardInterrupt\nA()", "KeyboardInterrupt"),
    ] {
        let execution = sandbox.run_code(code).await.unwrap();
        let error = execution.error.unwrap();
        assert_eq!(error.name, name, "{code}: {error}");
        assert!(!error.traceback.contains("isola_guest"), "{error}");
    }
    assert_eq!(text(&sandbox, "x").await.as_deref(), Some("1"));
}

#[tokio::test]
async fn hostile_code_affects_only_its_own_sandbox() {
    for code in [
        "import builtins\nfor name in list(vars(builtins)): setattr(builtins, name, None)",
        "import sys\nsys.stdout = sys.stderr = None",
        "import sys\nsys.modules.clear()",
        "del display",
        "import json, linecache, traceback\njson.dumps = linecache.cache = traceback = None",
        "globals().clear()",
        "from isola_guest import code\ncode._contexts.clear()",
        "from isola_guest import cells\ncells.Cells.run = None",
    ] {
        let sandbox = started(Runtime::Python).await;
        // Anything but a panic or a hang.
        let _ = sandbox.run_code(code).await;
        let _ = sandbox.run_code("[1, 2]").await;
        let _ = sandbox.run_code("1 / 0").await;
    }
    let limits = Limits { max_value_size: 1 << 20, ..Limits::default() };
    for (event, is_fatal) in [
        (r#"{"type":"result","data":{"a/b":"c"},"metadata":{},"is_main_result":true}"#, false),
        (r#"{"type":"error","name":"E","value":"","traceback":""}"#, false),
        (r#"{"type":"end","execution_count":5}"#, true),
        (
            r#"{"type":"result","data":{"image/png":"no"},"metadata":{},"is_main_result":true}"#,
            true,
        ),
        ("[]", true),
        ("", true),
    ] {
        let sandbox = started_with(Runtime::Python, limits.clone(), isola::DenyAll).await;
        sandbox.load_script("from wit_world.imports import host").await.unwrap();
        let code = format!("host.code_event({event:?})");
        let outcome = sandbox.run_code(code.as_str()).await;
        match outcome {
            Err(error) => assert!(is_fatal && error.code() == "crash", "{event}: {error}"),
            Ok(_) => assert!(!is_fatal, "{event}"),
        }
        // Ignored if no code runs.
        if !is_fatal {
            sandbox.load_script(code).await.unwrap();
        }
    }
    let sandbox = started_with(Runtime::Python, limits, isola::DenyAll).await;
    sandbox.load_script("from wit_world.imports import host").await.unwrap();
    let code = "host.code_event('x' * (2 << 20))";
    let error = sandbox.run_code(code).await.unwrap_err();
    assert_eq!(error.code(), "value_size_limit", "{error}");
}

#[tokio::test]
async fn display_outside_of_code_writes_text() {
    let sandbox = started(Runtime::Python).await;
    run(&sandbox, "def f(): display([1])").await;
    let stream = sandbox.run("f", args![]).stream().unwrap();
    let events = crate::fixture::events(stream).await;
    assert!(format!("{events:?}").contains(r#"Stdout("[1]\n")"#), "{events:?}");
}

/// Code that runs until it is interrupted, after it has printed a line.
const ENDLESS: [&str; 5] = [
    "print('begun')\nwhile True: pass",
    "import time\nprint('begun')\ntime.sleep(60)",
    "import asyncio\nprint('begun')\nawait asyncio.sleep(60)",
    "from sandbox.asyncio import hostcall\nprint('begun')\nawait hostcall('forever')",
    "class A:\n  def _repr_html_(self):\n    print('begun')\n    while True: pass\nA()",
];

async fn interruptible() -> Sandbox {
    let host =
        isola::Handlers::new().hostcall("forever", |_| async { std::future::pending().await });
    started_with(Runtime::Python, Limits::default(), host).await
}

/// Runs code, interrupts it once it has printed something, and returns its execution.
async fn interrupted(sandbox: &Sandbox, code: &str) -> Result<Execution, Error> {
    let mut events = sandbox.run_code(code).stream().unwrap();
    let mut execution = Execution::default();
    while let Some(event) = events.next().await {
        let event = event?;
        if matches!(event, CodeEvent::Stdout { .. }) {
            assert!(sandbox.interrupt_context("default"));
        }
        execution.add(event);
    }
    Ok(execution)
}

#[tokio::test]
async fn python_code_is_interrupted_and_its_context_is_kept() {
    let sandbox = interruptible().await;
    run(&sandbox, "x = 7").await;
    for code in ENDLESS {
        let execution = interrupted(&sandbox, code).await.unwrap();
        let error = execution.error.unwrap();
        assert_eq!(error.name, "KeyboardInterrupt", "{code}: {error}");
        assert_eq!(text(&sandbox, "x").await.as_deref(), Some("7"), "{code}");
    }
    // Nothing is left of an interrupt.
    assert!(!sandbox.interrupt());
    assert_eq!(text(&sandbox, "sum(range(10 ** 6))").await.as_deref(), Some("499999500000"));
}

#[tokio::test]
async fn code_may_catch_an_interrupt() {
    let sandbox = interruptible().await;
    let code = "y = 0\ntry:\n  print('begun')\n  while True: y += 1\nexcept KeyboardInterrupt:\n  y = 'caught'\ny";
    let execution = interrupted(&sandbox, code).await.unwrap();
    assert_eq!(execution.text().as_deref(), Some("'caught'"));
    // Later waits are not cut short.
    for wait in ["time.sleep(0.1)", "await asyncio.sleep(0.1)"] {
        let code = format!(
            "import asyncio, time\ntry:\n  print('begun')\n  while True: pass\nexcept \
             KeyboardInterrupt:\n  start = time.monotonic()\n  {wait}\n\
             time.monotonic() - start >= 0.1"
        );
        let execution = interrupted(&sandbox, &code).await.unwrap();
        assert_eq!(execution.text().as_deref(), Some("True"), "{wait}: {execution:?}");
    }
    let code =
        "print('begun')\nwhile True:\n  try:\n    while True: pass\n  except BaseException: pass";
    let error = interrupted(&sandbox, code).await.unwrap_err();
    assert_eq!(error.code(), "closed", "{error}");
    assert!(error.to_string().contains("did not end after it was interrupted"), "{error}");
    assert!(sandbox.is_closed());
}

#[tokio::test]
async fn a_time_limit_interrupts_python_code() {
    let sandbox = interruptible().await;
    let limit = Duration::from_millis(50);
    run(&sandbox, "x = 7").await;
    for code in ENDLESS {
        let execution = sandbox.run_code(code).timeout(limit).await.unwrap();
        let error = execution.error.unwrap();
        assert_eq!(error.name, "TimeoutError", "{code}: {error}");
        assert_eq!(error.value, "the code ran longer than its limit of 50ms");
        assert_eq!(text(&sandbox, "x").await.as_deref(), Some("7"), "{code}");
    }
    let code = "while True:\n  try:\n    while True: pass\n  except BaseException: pass";
    let error = sandbox.run_code(code).timeout(limit).await.unwrap_err();
    assert_eq!(error.code(), "wall_time_limit", "{error}");
}

#[tokio::test]
async fn forks_and_snapshots_are_interrupted_too() {
    let sandbox = interruptible().await;
    let execution = interrupted(&sandbox, ENDLESS[0]).await.unwrap();
    assert_eq!(execution.error.unwrap().name, "KeyboardInterrupt");
    let fork = sandbox.fork(1).await.unwrap().remove(0);
    drop(sandbox);
    let execution = interrupted(&fork, ENDLESS[0]).await.unwrap();
    assert_eq!(execution.error.unwrap().name, "KeyboardInterrupt");
    assert_eq!(text(&fork, "'alive'").await.as_deref(), Some("'alive'"));
}

#[tokio::test]
async fn hostile_targets_of_interrupts_change_only_the_guest() {
    for target in ["0xffffffff, 1", "0xfffffffc, 0xffffffff", "0, 0xffffffff", "1 << 20, 0xff"] {
        let sandbox = interruptible().await;
        sandbox.load_script("from wit_world.imports import host").await.unwrap();
        let code = format!("host.interrupt_word({target})\nprint('begun')\nwhile True: pass");
        let outcome = interrupted(&sandbox, &code).await;
        if let Err(error) = outcome {
            assert!(["closed", "crash"].contains(&error.code()), "{target}: {error}");
        }
    }
}

#[tokio::test]
async fn javascript_is_interrupted_while_it_waits() {
    let sandbox = started(Runtime::JavaScript).await;
    let limit = Duration::from_millis(50);
    run(&sandbox, "var x = 7").await;
    let code = "console.log('begun'); await new Promise((done) => setTimeout(done, 60_000))";
    let execution = interrupted(&sandbox, code).await.unwrap();
    assert_eq!(execution.error.unwrap().name, "InterruptedError");
    assert_eq!(text(&sandbox, "x").await.as_deref(), Some("7"));
    let error = interrupted(&sandbox, "console.log('begun'); for (;;);").await.unwrap_err();
    assert_eq!(error.code(), "closed", "{error}");
    let sandbox = started(Runtime::JavaScript).await;
    let error = sandbox.run_code("for (;;);").timeout(limit).await.unwrap_err();
    assert_eq!(error.code(), "wall_time_limit", "{error}");
}

#[tokio::test]
async fn code_needs_a_started_sandbox_and_runs_alone() {
    let sandbox = template(Runtime::Python).await.sandbox().create().await.unwrap();
    assert_eq!(sandbox.run_code("1").await.unwrap_err().code(), "not_running");
    sandbox.start().await.unwrap();
    let running = sandbox.run_code("1").stream().unwrap();
    assert_eq!(sandbox.run_code("2").await.unwrap_err().code(), "busy");
    drop(running);
    assert_eq!(sandbox.run_code("3").await.unwrap_err().code(), "closed");
}
