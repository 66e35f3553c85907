//! ES modules and TypeScript.

use std::time::Duration;

use isola::{Error, Handlers, Limits, Runtime, Sandbox, Value, args};
use serde_json::json;

use crate::fixture::{started, started_with};

async fn loaded(name: &str, source: &str) -> Sandbox {
    let sandbox = started(Runtime::JavaScript).await;
    let outcome = sandbox.load_script_as(name, source).await;
    outcome.unwrap_or_else(|error| panic!("{source}: {error}"));
    sandbox
}

/// Returns the message and the position of the error in a source.
async fn fault(name: &str, source: &str) -> String {
    let sandbox = started(Runtime::JavaScript).await;
    match sandbox.load_script_as(name, source).await {
        Err(Error::Guest(exception)) => {
            assert!(!sandbox.is_closed(), "{source}");
            let position = exception.traceback.lines().nth(1).unwrap_or_default().trim();
            format!("{}: {} {position}", exception.name, exception.message)
        }
        other => panic!("{source}: {other:?}"),
    }
}

#[tokio::test]
async fn exported_functions_are_callable_by_name() {
    let sandbox = loaded(
        "all.mjs",
        "#!/usr/bin/env node
export function plain(a) { return a + 1 }
export async function later(a) { return a + 2 }
export function* items(a) { yield a; return 'end' }
export const arrow = (a) => a + 3, { inner, deep: [nested = (a) => a + 5] } = { inner: (a) => a + 4, deep: [] };
function renamed(a) { return a + 6 }
const quoted = (a) => a + 7
export { renamed as other, quoted as 'any name' };
export class Thing { static make(a) { return a + 8 } }
export default async (a) => a + 9
export let replaced = () => 'before';
replaced = () => 'after';
const hidden = () => 'hidden';",
    )
    .await;
    for (name, result) in [
        ("plain", 2),
        ("later", 3),
        ("arrow", 4),
        ("inner", 5),
        ("nested", 6),
        ("other", 7),
        ("any name", 8),
        ("default", 10),
    ] {
        assert_eq!(sandbox.run(name, args![1]).await.unwrap(), json!(result), "{name}");
    }
    assert_eq!(sandbox.run("replaced", args![]).await.unwrap(), json!("after"));
    for name in ["hidden", "renamed", "missing"] {
        let error = sandbox.run(name, args![]).await.unwrap_err().to_string();
        let expected =
            format!("ReferenceError: {name} is not defined: all.mjs exports plain, later,");
        assert!(error.starts_with(&expected), "{error}");
    }
}

#[tokio::test]
async fn modules_can_await_at_their_top_level() {
    let host = Handlers::new()
        .hostcall("config", |_: Value| async { Ok(Value::from(json!({ "factor": 3 }))) });
    let sandbox = started_with(Runtime::JavaScript, Limits::default(), host).await;
    sandbox
        .load_script_as(
            "main.mjs",
            "const { factor } = await hostcall('config');
            await new Promise((resolve) => setTimeout(resolve, 5));
            let sum = 0;
            for await (const n of [Promise.resolve(1), 2]) sum += n;
            export const main = (a) => a * factor + sum;",
        )
        .await
        .unwrap();
    assert_eq!(sandbox.run("main", args![2]).await.unwrap(), json!(9));
    let error = fault("never.mjs", "\nawait new Promise(() => {});\nexport {}").await;
    assert!(error.contains("the promise can never settle"), "{error}");
    let error = fault("lost.mjs", "Promise.reject(new Error('lost'));\nexport {}").await;
    assert!(error.contains("Error: lost at lost.mjs:1:16"), "{error}");
}

#[tokio::test]
async fn modules_have_a_separate_scope_and_are_strict() {
    let sandbox = loaded(
        "own.mjs",
        "var a = 1; let b = 2; function c() {}
        export const main = () => [typeof globalThis.a, typeof globalThis.b, typeof globalThis.c,
            (function () { return this === undefined })(), import.meta.url];
        export const top = typeof this;",
    )
    .await;
    let seen = sandbox.run("main", args![]).await.unwrap();
    assert_eq!(seen, json!(["undefined", "undefined", "undefined", true, "own.mjs"]));
    let error = fault("strict.mjs", "export const a = 1;\nundeclared = 1;").await;
    assert!(error.starts_with("ReferenceError: assignment to undeclared variable"), "{error}");
}

#[tokio::test]
async fn modules_import_modules_that_were_loaded_before() {
    let sandbox = started(Runtime::JavaScript).await;
    for (name, source) in [
        (
            "lib/counter.mjs",
            "export let count = 0; export function bump() { return ++count } export default 'the default';",
        ),
        ("lib/more.mjs", "export * from './counter.mjs'; export { default as original } from './counter.mjs'; export * as all from './counter.mjs'; export const own = 1;"),
        (
            "main.mjs",
            "import text, { count, bump as increment } from './lib/counter.mjs';
            import * as more from './lib/more.mjs';
            import './lib/more.mjs';
            export async function main() {
                const before = count;
                increment();
                const assigned = (() => { try { count = 7 } catch (error) { return error.name } })();
                const dynamic = await import('./lib/../lib/counter.mjs');
                return [text, before, count, more.count, more.original, more.all.count, more.own,
                    assigned, dynamic.count, Object.keys(more), Object.prototype.toString.call(more)];
            }",
        ),
    ] {
        sandbox.load_script_as(name, source).await.unwrap_or_else(|e| panic!("{name}: {e}"));
    }
    let seen = sandbox.run("main", args![]).await.unwrap();
    assert_eq!(
        seen,
        json!([
            "the default",
            0,
            1,
            1,
            "the default",
            1,
            1,
            "TypeError",
            1,
            ["count", "bump", "original", "all", "own"],
            "[object Module]"
        ])
    );
}

#[tokio::test]
async fn missing_modules_cannot_be_imported() {
    const MISSING: &str = "a module can only import modules that were loaded before it";
    for (source, expected) in [
        (
            "import x from 'fs'",
            format!(
                "TypeError: cannot find the module 'fs', which m.mjs imports: {MISSING} at m.mjs:1:1"
            ),
        ),
        (
            "\n  import { a } from './lib.mjs';",
            format!(
                "TypeError: cannot find the module './lib.mjs', which m.mjs imports: {MISSING} at m.mjs:2:3"
            ),
        ),
        (
            "export * from 'node:path'",
            format!(
                "TypeError: cannot find the module 'node:path', which m.mjs imports: {MISSING} at m.mjs:1:1"
            ),
        ),
        (
            "import 'https://example.test/x.js'",
            format!(
                "TypeError: cannot find the module 'https://example.test/x.js', which m.mjs imports: {MISSING} at m.mjs:1:1"
            ),
        ),
        (
            "import 'isola:sandbox/host@0.1.0'",
            format!(
                "TypeError: cannot find the module 'isola:sandbox/host@0.1.0', which m.mjs imports: {MISSING} at m.mjs:1:1"
            ),
        ),
        (
            "import x from './y.json' with { type: 'json' }",
            "SyntaxError: import attributes are not supported at m.mjs:1:30".to_owned(),
        ),
        ("import { from 'x'", "SyntaxError: module syntax: expected , at m.mjs:1:15".to_owned()),
        (
            "await import('./gone.mjs'); export {}",
            format!(
                "TypeError: cannot find the module './gone.mjs', which m.mjs imports: {MISSING} at m.mjs:1:7"
            ),
        ),
    ] {
        assert_eq!(fault("m.mjs", source).await, expected);
    }
    let sandbox = loaded("lib.mjs", "export const a = 1").await;
    let error =
        sandbox.load_script_as("m.mjs", "import { a, b } from './lib.mjs'").await.unwrap_err();
    assert!(
        error.to_string().starts_with("SyntaxError: the module './lib.mjs' does not export b"),
        "{error}"
    );
}

#[tokio::test]
async fn errors_have_file_line_and_column() {
    for (name, source, expected) in [
        ("a.mjs", "export const a = ;", "SyntaxError: expected expression, got ';' at a.mjs:1:18"),
        (
            "a.mjs",
            "export const a = 1;\nconst b = (1;\n",
            "SyntaxError: missing ) in parenthetical at a.mjs:2:13",
        ),
        (
            "a.mjs",
            "export const a = 1;\nconst a = 2;",
            "SyntaxError: redeclaration of const a at a.mjs:2:7",
        ),
        (
            "a.mjs",
            "export { nope };",
            "SyntaxError: nope is exported, but not declared at a.mjs:1:1",
        ),
        (
            "a.mjs",
            "const a = 1;\nexport { a };\nexport { a };",
            "SyntaxError: a is exported twice at a.mjs:3:1",
        ),
        (
            "a.mjs",
            "export function f() {\n",
            "SyntaxError: missing } after function body at a.mjs:2",
        ),
        (
            "a.mjs",
            "throw new RangeError('first line'); export {}",
            "RangeError: first line at a.mjs:1:7",
        ),
        (
            "a.mjs",
            "export {};\n\n  null.x;",
            "TypeError: can't access property \"x\" of null at a.mjs:3:3",
        ),
        (
            "a.cjs",
            "export const a = 1",
            "SyntaxError: export declarations may only appear at top level of a module at a.cjs:1:1",
        ),
        ("a.ts", "let a: = 1", "SyntaxError: Unexpected token at a.ts:1:8"),
        ("a.ts", "\ninterface {", "SyntaxError"),
        (
            "a.ts",
            "const a: number = 1;\nnope();",
            "ReferenceError: nope is not defined at a.ts:2:1",
        ),
        (
            "a.mts",
            "const a: { b: number } = null; a.b;",
            "TypeError: can't access property \"b\", a is null at a.mts:1:32",
        ),
        ("a.tsx", "const a = <p/>", "SyntaxError: a.tsx: JSX is not supported "),
        ("a.js", "const a: number = 1", "SyntaxError: missing = in const declaration at a.js:1:7"),
        (
            "a.js",
            "const a = 'export' +",
            "SyntaxError: expected expression, got end of script at a.js:1",
        ),
    ] {
        let told = fault(name, source).await;
        assert!(told.starts_with(expected), "{source}: {told}");
    }
}

#[tokio::test]
async fn syntax_decides_if_the_name_does_not() {
    for source in [
        "export const main = () => true",
        "const main = () => true;\nexport { main }",
        "const url = import.meta.url; export function main() { return url === 'script.js' }",
        // A module that only awaits is called like a script.
        "const v = await Promise.resolve(true); function main() { return v }",
        "const o = { v: await Promise.resolve(true) }; const main = async () => o.v",
        // These are scripts, not modules.
        "const text = 'import x from y; export default 1'; function main() { return true }",
        "// export const a = 1\nvar main = async () => await true",
        "const exported = { export: 1, import: 2 }; const main = () => exported.export === 1",
    ] {
        let sandbox = loaded("script.js", source).await;
        let value = sandbox.run("main", args![]).await;
        assert_eq!(value.unwrap_or_else(|e| panic!("{source}: {e}")), json!(true), "{source}");
    }
    // A script that throws such an error has run, and does not run again.
    let sandbox = started(Runtime::JavaScript).await;
    let error = sandbox
        .load_script("globalThis.runs = (globalThis.runs ?? 0) + 1;\neval('export const a = 1')")
        .await
        .unwrap_err();
    assert!(error.to_string().starts_with("SyntaxError: export declarations"), "{error}");
    sandbox.load_script("const main = () => runs").await.unwrap();
    assert_eq!(sandbox.run("main", args![]).await.unwrap(), json!(1));
}

#[tokio::test]
async fn unusual_sources_are_parsed() {
    for source in [
        "export const main = () => true // export const b = 2",
        "/* export { a } */ export const main = () => true",
        "const t = `${`export ${ { a: 1 }.a } ${'`'}`} import`; export const main = () => t.length > 5",
        "const re = /[/}]export default {/.source; export const main = () => re.length === 20",
        "const half = 4 / 2 / 1; const s = ')'; export const main = () => half === 2",
        "if (true) /}/.test('}'); export const main = () => true",
        "const o = { a: 1 } / 2; export const main = () => Number.isNaN(o)",
        "let i = 4; const n = i++ / 2; export const main = () => n === 2",
        "const o = { import: 1, export() { return true } }; export const main = () => o.import && o.export()",
        "const $import = 1, export_ = 2; export const main = () => $import + export_ === 3",
        "let a = 1\nlet b = a\nexport default b\nexport const main = () => true",
        "export default function () { return 1 }\n(2)\nexport const main = () => true",
        "export default class { m() {} }\nexport const main = () => true",
        "export const f = (a = { b: [1, 2] }) => ({ a }), main = () => true",
        "export const text = 'a, b, c', list = [1, 2, { d: 3 }], main = () => list[2].d === 3",
        "export async function* gen() {} export const main = async () => (await gen().next()).done",
        "export const main = () => { for (const x of [1]) { if (x) return /1/.test(x) } }",
        "export const main = () => true;;;\n\n\n",
        "export\nconst\nmain\n=\n() => true",
        "export{a as main};const a=()=>true",
        "export const größe = 1; export const main = () => größe === 1",
        "const i0000 = 1, $i0000 = 2; const load = async () => import('x'); export const main = () => $i0000 === 2",
        "export function main() { return new.target === undefined }",
        "class A { static #x = true; static get import() { return A.#x } } export const main = () => A.import",
        "export const main = () => true\n<!-- html comment",
    ] {
        let sandbox = started(Runtime::JavaScript).await;
        if let Err(error) = sandbox.load_script_as("tricky.mjs", source).await {
            // Modules have no HTML comments.
            assert!(source.contains("<!--"), "{source}: {error}");
            continue;
        }
        let value = sandbox.run("main", args![]).await;
        assert_eq!(value.unwrap_or_else(|e| panic!("{source}: {e}")), json!(true), "{source}");
    }
}

#[tokio::test]
async fn scripts_and_modules_can_be_mixed() {
    let sandbox = loaded("one.js", "let shared = 1; function main() { return 'script' }").await;
    sandbox
        .load_script_as("two.mjs", "shared += 1; export const main = () => `module ${shared}`;")
        .await
        .unwrap();
    assert_eq!(sandbox.run("main", args![]).await.unwrap(), json!("module 2"));
    sandbox.load_script_as("three.js", "function main() { return 'script again' }").await.unwrap();
    assert_eq!(sandbox.run("main", args![]).await.unwrap(), json!("script again"));
}

const TYPESCRIPT: &str = "import type { Missing } from './missing';
import { OnlyAType } from './types';
interface Point { x: number; y?: number }
type Maybe<T extends object = {}> = T | undefined;
declare const ambient: string;
enum Color { Red, Green = 5, Blue = 'blue' }
abstract class Base<T> {
  constructor(private readonly name: string, protected size?: number) {}
  abstract area(): number;
  get<K extends keyof T>(this: Base<T>, key: K): T[K] { return (this as any)[key]! }
  describe(): string { return `${this.name}: ${this.area()}` }
}
class Square extends Base<Point> implements Iface {
  static #count: number = 0;
  declare ghost: string;
  side!: number;
  override area(): number { return (this.size ?? 0) ** 2 }
}
function over(a: string): string;
function over(a: number): number;
function over(a: any): any { return a }
const same = <T,>(a: T): T => a, w = { a: 1 } satisfies object as const;
function isPoint(p: unknown): p is Point { return typeof p === 'object' }
export async function main(p: Point, q?: string): Promise<unknown> {
  const f = p.x < 1 ? (q as string) : (z: number): number => z;
  return [new Square('square', 3).describe(), Color.Green, Color[0], Color.Blue, over(3), same<number>(4), w!.a, typeof f, isPoint(p)];
}
export function fail(a: number, b: Maybe<Point>): never { throw new Error(`at ${a as any}`) }
let unused: OnlyAType;
";

#[tokio::test]
async fn typescript_types_are_removed_and_lines_kept() {
    for name in ["shapes.ts", "shapes.mts"] {
        let sandbox = loaded(name, TYPESCRIPT).await;
        let seen = sandbox.run("main", args![json!({ "x": 1 })]).await.unwrap();
        assert_eq!(seen, json!(["square: 9", 5, "Red", "blue", 3, 4, 1, "function", true]));
        let Err(Error::Guest(exception)) = sandbox.run("fail", args![1]).await else { panic!() };
        let line = TYPESCRIPT.lines().position(|line| line.contains("throw")).unwrap();
        let column = TYPESCRIPT.lines().nth(line).unwrap().find("new Error").unwrap();
        let place = format!("{name}:{}:{}", line + 1, column + 1);
        assert!(exception.traceback.contains(&place), "{place}: {}", exception.traceback);
    }
    // Scripts too.
    let sandbox = loaded(
        "plain.ts",
        "let total: number = 1;\nfunction main(by: number): number { return total += by }",
    )
    .await;
    assert_eq!(sandbox.run("main", args![2]).await.unwrap(), json!(3));
    assert_eq!(sandbox.run("main", args![2]).await.unwrap(), json!(5));
}

#[tokio::test]
async fn hostile_source_affects_only_its_sandbox() {
    // Each level doubles the work of a backtracking parser.
    let sandbox = started(Runtime::JavaScript).await;
    let hostile = format!("{}d", "a?(b):c=>".repeat(60));
    let error = sandbox
        .load_script_as("slow.ts", hostile)
        .cpu_timeout(Duration::from_millis(500))
        .await
        .unwrap_err();
    assert_eq!(error.code(), "cpu_time_limit", "{error}");
    for (name, source) in [
        ("deep.ts", "(".repeat(100_000)),
        ("deep.ts", "[".repeat(100_000)),
        ("deep.ts", format!("let a: {}", "(".repeat(100_000))),
        ("deep.mts", "!".repeat(100_000)),
        ("deep.mjs", "{".repeat(100_000)),
        ("deep.mjs", "`${".repeat(50_000)),
        ("deep.mjs", format!("export {{ {}", "a, ".repeat(50_000))),
        ("long.mjs", format!("export const a = {}1", "1 + ".repeat(100_000))),
        ("open.mjs", "export /*".to_owned()),
        ("open.mjs", "import '".to_owned()),
        ("close.mjs", "}})});".to_owned()),
    ] {
        let sandbox = started(Runtime::JavaScript).await;
        let start: String = source.chars().take(10).collect();
        // With or without an error, this call ends, and so does the next one.
        let _ = sandbox.load_script_as(name, source).await;
        if !sandbox.is_closed() {
            sandbox.load_script("const next = () => 1").await.unwrap();
            assert_eq!(sandbox.run("next", args![]).await.unwrap(), json!(1), "{start}");
        }
    }
}

#[tokio::test]
async fn prelude_can_be_a_module() {
    let template = isola::Template::builder(Runtime::JavaScript)
        .prelude("const base = await Promise.resolve(40);\nexport const helper = (a) => base + a;")
        .build()
        .await
        .unwrap();
    let sandbox = template.sandbox().create().await.unwrap();
    sandbox.start().await.unwrap();
    sandbox
        .load_script_as(
            "main.mjs",
            "import { helper } from 'prelude'; export const main = () => helper(2);",
        )
        .await
        .unwrap();
    assert_eq!(sandbox.run("main", args![]).await.unwrap(), json!(42));
}

#[tokio::test]
async fn every_declared_global_exists() {
    let server = crate::server::Server::http(super::fetch::echo).await;
    let host = server.host().hostcall("echo", |payload: Value| async move { Ok(payload) });
    let sandbox = started_with(Runtime::JavaScript, Limits::default(), host).await;
    let source = include_str!("../../../../../guests/js/test/globals.ts");
    sandbox.load_script_as("globals.ts", source).await.unwrap();
    let seen: usize = sandbox.run("main", args![server.url("/")]).await.unwrap().to().unwrap();
    assert!(seen > 40, "{seen}");
}
