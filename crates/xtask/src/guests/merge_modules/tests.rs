//! Tests that run components before and after the merge.

use anyhow::Context as _;
use wasmparser::Operator;
use wasmtime::component::{Component, Linker};
use wasmtime::{Engine, Store};

use super::guard::NO_CHANGES;
use super::{Changes, Guard};

/// Libraries as linked: each imports functions, data and table entries of the
/// others; `$middle` needs the program and is needed by the library; `$late` imports
/// the shared memory, and fills another table, through which the library calls it.
const LINKED: &str = r#"
(component
  (import "tick" (func $tick (result u32)))
  (core module $shim
    (type $f (func (param i32) (result i32)))
    (table (export "$imports") 1 1 funcref)
    (func (export "0") (param i32) (result i32)
      (call_indirect (type $f) (local.get 0) (i32.const 0))))
  (core instance $shim (instantiate $shim))
  (core module $main
    (type $get (func (result i32)))
    (memory (export "memory") 1)
    (table (export "table") 8 funcref)
    (global (export "sp") (mut i32) (i32.const 1024))
    (global (export "lib:memory") i32 (i32.const 16))
    (global (export "lib:table") i32 (i32.const 3))
    (global (export "GOT:entry") (mut i32) (i32.const 4))
    (global (export "GOT:data") (mut i32) (i32.const 20))
    (data (i32.const 0) "\07")
    (func (export "__wasilibc_reset_preopens"))
    (func (export "through") (param i32) (result i32)
      (call_indirect (type $get) (local.get 0)))
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 256)))
  (core instance $main (instantiate $main))
  (alias core export $main "memory" (core memory $memory))
  (core module $middle
    (import "main" "memory" (memory 1))
    (import "main" "through" (func $through (param i32) (result i32)))
    (func (export "first") (result i32)
      (i32.add (i32.load8_u (i32.const 0)) (call $through (i32.const 3)))))
  (core instance $middle (instantiate $middle (with "main" (instance $main))))
  (core func $tick (canon lower (func $tick)))
  (alias core export $main "table" (core table $table))
  (alias core export $main "sp" (core global $sp))
  (alias core export $main "lib:memory" (core global $base))
  (alias core export $main "lib:table" (core global $first))
  (alias core export $main "GOT:entry" (core global $entry))
  (alias core export $main "GOT:data" (core global $data))
  (alias core export $main "through" (core func $through))
  (alias core export $middle "first" (core func $middle))
  (alias core export $shim "0" (core func $later))
  (core instance $env
    (export "memory" (memory $memory)) (export "table" (table $table))
    (export "sp" (global $sp)) (export "memory_base" (global $base))
    (export "table_base" (global $first)) (export "through" (func $through))
    (export "middle" (func $middle)) (export "tick" (func $tick))
    (export "later" (func $later)))
  (core instance $got (export "entry" (global $entry)) (export "data" (global $data)))
  (core module $lib
    (type $unused (func (param f64)))
    (type $get (func (result i32)))
    (import "env" "memory" (memory 1))
    (import "env" "table" (table 5 funcref))
    (import "env" "tick" (func $tick (result i32)))
    (import "env" "through" (func $through (param i32) (result i32)))
    (import "env" "middle" (func $middle (result i32)))
    (import "env" "later" (func $later (param i32) (result i32)))
    (import "env" "sp" (global $sp (mut i32)))
    (import "env" "memory_base" (global $base i32))
    (import "env" "table_base" (global $first i32))
    (import "GOT" "entry" (global $entry (mut i32)))
    (import "GOT" "data" (global $data (mut i32)))
    (global $calls (mut i32) (i32.const 0))
    (global $never (mut i64) (i64.const 5000000000))
    (elem (offset (global.get $first)) func $own $other)
    (data (offset (global.get $base)) "\2a\00\00\00\64\00\00\00")
    (func $own (type $get) (i32.load (global.get $base)))
    (func $other (type $get) (i32.load (global.get $data)))
    (func (export "run") (result i32)
      (global.set $calls (i32.add (global.get $calls) (i32.const 1)))
      (global.set $sp (i32.sub (global.get $sp) (i32.const 16)))
      (i32.store (global.get $data) (i32.add (i32.load (global.get $data)) (i32.const 1)))
      (i32.add (call $tick)
      (i32.add (call $later (global.get $sp))
      (i32.add (i32.wrap_i64 (i64.div_u (global.get $never) (i64.const 1000000000)))
      (i32.add (i32.mul (global.get $calls) (i32.const 100000))
      (i32.add (call $middle)
               (call $through (global.get $entry)))))))))
  (core instance $lib (instantiate $lib
    (with "env" (instance $env)) (with "GOT" (instance $got))))
  (core module $late
    (import "env" "memory" (memory 1))
    (import "env" "$imports" (table 1 1 funcref))
    (elem (i32.const 0) func $read)
    (func $read (param i32) (result i32)
      (i32.add (local.get 0) (i32.load8_u (i32.const 16)))))
  (alias core export $shim "$imports" (core table $imports))
  (core instance $args (export "memory" (memory $memory)) (export "$imports" (table $imports)))
  (core instance $late (instantiate $late (with "env" (instance $args))))
  (alias core export $lib "run" (core func $run))
  (func (export "run") (result u32) (canon lift (core func $run) (memory $memory))))
"#;

/// Merges without an optimizer.
fn merge_component(
    bytes: &[u8],
    changes: &Changes,
    patches: &[super::FunctionPatch],
) -> anyhow::Result<Vec<u8>> {
    super::merge_component(bytes, changes, patches, |module| Ok(module.to_vec()))
}

/// Returns the results of three calls of `run`.
fn run(component: &[u8]) -> [u32; 3] {
    run_with(component, || 1_000_000)
}

fn run_with(component: &[u8], tick: impl Fn() -> u32 + Send + Sync + 'static) -> [u32; 3] {
    let engine = Engine::default();
    let component = Component::new(&engine, component).unwrap();
    let mut linker = Linker::new(&engine);
    linker.root().func_wrap("tick", move |_, (): ()| Ok((tick(),))).unwrap();
    let mut store = Store::new(&engine, ());
    let instance = linker.instantiate(&mut store, &component).unwrap();
    let run = instance.get_typed_func::<(), (u32,)>(&mut store, "run").unwrap();
    std::array::from_fn(|_| run.call(&mut store, ()).unwrap().0)
}

/// Returns the number of core modules of a component, and the sizes of their tables.
fn modules(component: &[u8]) -> (usize, Vec<u64>) {
    let component = super::Component::parse(component).unwrap();
    let tables = component.modules.iter().flat_map(|module| &module.tables);
    (component.modules.len(), tables.map(|table| table.ty.initial).collect())
}

#[test]
fn what_is_fused_does_the_same() {
    let linked = wat::parse_str(LINKED).unwrap();
    let merged = merge_component(&linked, &NO_CHANGES, &[]).unwrap();
    assert_eq!(modules(&linked), (5, vec![1, 8]));
    // The shim, the merged module and `$late`.
    assert_eq!(modules(&merged), (3, vec![1, 8]));
    let expected = run(&linked);
    // tick + (sp + data) + never + calls + (main's data + own) + data of `$other`
    assert_eq!(expected[0], 1_000_000 + (1008 + 42) + 5 + 100_000 + (7 + 42) + 101);
    assert_eq!(run(&merged), expected);
    // The result is reproducible.
    assert_eq!(merge_component(&linked, &NO_CHANGES, &[]).unwrap(), merged);
}

#[test]
fn globals_that_nobody_sets_are_constants() {
    let merged = merge_component(&wat::parse_str(LINKED).unwrap(), &NO_CHANGES, &[]).unwrap();
    let component = super::Component::parse(&merged).unwrap();
    let globals: usize = component.modules.iter().map(|module| module.globals.len()).sum();
    assert_eq!(globals, 2, "the stack pointer and the counter");
}

#[test]
fn what_a_snapshot_needs_stays() {
    let merged = merge_component(&wat::parse_str(LINKED).unwrap(), &NO_CHANGES, &[]).unwrap();
    let component = super::Component::parse(&merged).unwrap();
    let key = ("__wasilibc_reset_preopens", super::module::Kind::Function);
    assert!(component.modules.iter().any(|module| module.exports.contains_key(&key)));
}

#[test]
fn what_it_does_not_know_is_refused() {
    const GLOBALS: &str = "(global $calls (mut i32) (i32.const 0))";
    const ELEMENTS: &str = "(elem (offset (global.get $first)) func $own $other)";
    for (old, new, message) in [
        (GLOBALS, "(global $calls (mut i32) (i32.const 0)) (func $s) (start $s)", "start function"),
        (
            GLOBALS,
            "(global $calls (mut i32) (i32.const 0)) (type (array i32))",
            "not a function type",
        ),
        (GLOBALS, "(global $calls (mut i32) (i32.const 0)) (tag)", "exceptions"),
        (GLOBALS, "(global $calls (mut i32) (i32.const 0)) (data \"x\")", "passive data"),
        (GLOBALS, "(global $calls (mut i32) (i32.const 0)) (elem func)", "passive elements"),
        (ELEMENTS, "(elem (global.get $first) funcref (ref.null func))", "not a function"),
        ("(i32.const 1024)", "(i32.mul (i32.const 2) (i32.const 512))", "constant expression"),
    ] {
        assert!(LINKED.contains(old), "{old}");
        let changed = wat::parse_str(LINKED.replacen(old, new, 1)).unwrap();
        let error = format!("{:#}", merge_component(&changed, &NO_CHANGES, &[]).unwrap_err());
        assert!(error.contains(message), "{new}: {error}");
    }
    for (text, message) in [
        ("(module)", "not a component"),
        ("(component)", "0 modules have a memory"),
        (
            "(component (core module $m (memory 1)) (core instance (instantiate $m)))",
            "no modules share a table",
        ),
    ] {
        let error = format!(
            "{:#}",
            merge_component(&wat::parse_str(text).unwrap(), &NO_CHANGES, &[]).unwrap_err()
        );
        assert!(error.contains(message), "{text}: {error}");
    }
    assert!(merge_component(b"nonsense", &NO_CHANGES, &[]).is_err());
}

/// Returns a component in which the library is an interpreter with a stack of the
/// given size. The garbage collector adds 1,000 to the result of `$other`.
fn interpreter(stack: u32) -> Vec<u8> {
    const OWN: &str = "(func $own (type $get)";
    const FUNCTIONS: &str = r#"
    (data (i32.const 400) " while calling a Python object\00")
    (func $Py_EnterRecursiveCall (export "Py_EnterRecursiveCall") (param i32) (result i32)
      (i32.and (i32.eqz (i32.load8_u (local.get 0)))
        (i32.lt_u (global.get $sp) (i32.const 16384))))
    (func $PyGC_Collect (export "PyGC_Collect") (result i32)
      (i32.store (global.get $data)
        (i32.add (i32.load (global.get $data)) (i32.const 1000)))
      (i32.const 0))
    "#;
    let text = LINKED
        .replace("\"sp\"", "\"__stack_pointer\"")
        .replace("(i32.const 1024)", &format!("(i32.const {stack})"))
        .replace(OWN, &format!("{FUNCTIONS}{OWN}"));
    wat::parse_str(text).unwrap()
}

#[test]
fn a_guarded_function_does_the_same_until_the_stack_is_at_its_end() {
    const CHANGES: Changes = Changes {
        checks: &[],
        frame: 0,
        guards: &[
            Guard { name: "own", frame: 1024, error_value: Some(9) },
            Guard { name: "other", frame: 64, error_value: None },
        ],
        allocators: &[],
        replaced: &[],
        expected: &[],
        without_result: &[],
    };
    let linked = interpreter(60_000);
    let expected = run(&linked);
    assert_eq!(run(&merge_component(&linked, &NO_CHANGES, &[]).unwrap()), expected);
    assert_eq!(run(&merge_component(&linked, &CHANGES, &[]).unwrap()), expected);
    // It needs at least 12 KiB and the frame.
    for (stack, refuses) in [(20_000, false), (13_000, true), (1024, true)] {
        let linked = interpreter(stack);
        let own = if refuses { 42 - 9 } else { 0 };
        let expected = run(&linked).map(|sum| sum - own);
        assert_eq!(run(&merge_component(&linked, &CHANGES, &[]).unwrap()), expected, "{stack}");
    }
}

#[test]
fn who_calls_a_check_takes_of_the_stack() {
    const CHANGES: Changes = Changes {
        checks: &["other"],
        frame: 64,
        guards: &[],
        allocators: &[],
        replaced: &[],
        expected: &[],
        without_result: &[],
    };
    // `other` is called only through the table: no function is changed.
    let linked = interpreter(60_000);
    let unchanged = merge_component(&linked, &NO_CHANGES, &[]).unwrap();
    assert_eq!(merge_component(&linked, &CHANGES, &[]).unwrap(), unchanged);
    let calling = Changes { checks: &["Py_EnterRecursiveCall"], ..CHANGES };
    assert_eq!(merge_component(&linked, &calling, &[]).unwrap(), unchanged);
    let missing = Changes { checks: &["nonsense"], ..CHANGES };
    let error = format!("{:#}", merge_component(&linked, &missing, &[]).unwrap_err());
    assert!(error.contains("no function nonsense"), "{error}");
}

#[test]
fn a_refused_allocation_is_tried_again_after_a_collection() {
    use std::sync::atomic::{AtomicU32, Ordering};

    const CHANGES: Changes = Changes {
        checks: &[],
        frame: 0,
        guards: &[],
        allocators: &["tick"],
        replaced: &[],
        expected: &[],
        without_result: &[],
    };
    let linked = interpreter(60_000);
    let changed = merge_component(&linked, &CHANGES, &[]).unwrap();
    let expected = run(&linked);
    assert_eq!(run(&changed), expected);
    // The first allocation fails: one collection in the first of three runs.
    let asked = AtomicU32::new(0);
    let refusing = move || if asked.fetch_add(1, Ordering::Relaxed) == 0 { 0 } else { 1_000_000 };
    assert_eq!(run_with(&changed, refusing), expected.map(|sum| sum + 1000));
}

#[test]
fn a_function_is_changed_by_its_name() {
    fn one_more<'a>(
        function: &super::Function<'_>,
        mut code: Vec<Operator<'a>>,
    ) -> anyhow::Result<Vec<Operator<'a>>> {
        let end = code.pop().context("a function without an end")?;
        // Another function is called by its index in the same module.
        code.push(Operator::Call { function_index: function.named("other")? });
        code.push(Operator::Drop);
        code.extend([Operator::I32Const { value: 1 }, Operator::I32Add, end]);
        Ok(code)
    }
    fn fails<'a>(
        _: &super::Function<'_>,
        _: Vec<Operator<'a>>,
    ) -> anyhow::Result<Vec<Operator<'a>>> {
        anyhow::bail!("not as it was")
    }
    let linked = wat::parse_str(LINKED).unwrap();
    let changed = merge_component(&linked, &NO_CHANGES, &[("own", one_more)]).unwrap();
    assert_eq!(run(&changed), run(&linked).map(|result| result + 1));
    let rows: [(&[super::FunctionPatch], &str); 3] = [
        (&[("nowhere", one_more)], "0 functions were changed instead of 1"),
        (&[("own", one_more), ("nowhere", one_more)], "1 functions were changed instead of 2"),
        (&[("own", fails)], "changing own: not as it was"),
    ];
    for (patches, message) in rows {
        let Err(error) = merge_component(&linked, &NO_CHANGES, patches) else {
            panic!("{message}")
        };
        assert!(format!("{error:#}").contains(message), "{message}: {error:#}");
    }
}

#[test]
fn other_libraries_call_the_function_that_replaces_one() {
    const CHANGES: Changes = Changes { replaced: &[("middle", "second")], ..NO_CHANGES };
    let second = r#"(func (export "second") (result i32) (i32.const 500))"#;
    let first = r#"(func (export "realloc")"#;
    let linked = LINKED.replacen(first, &format!("{second} {first}"), 1);
    let linked = wat::parse_str(linked).unwrap();
    let changed = merge_component(&linked, &CHANGES, &[]).unwrap();
    // The replaced function returns 7 and what `own` returns, 42.
    assert_eq!(run(&changed), run(&linked).map(|result| result + 500 - 49));
    let error = merge_component(&wat::parse_str(LINKED).unwrap(), &CHANGES, &[]).unwrap_err();
    let error = format!("{error:#}");
    assert!(error.contains("replacing middle: 0 libraries define second"), "{error}");
}

#[test]
fn an_indirect_call_of_the_expected_function_is_direct() {
    const CHANGES: Changes = Changes { expected: &[(&["through"], "own")], ..NO_CHANGES };
    let linked =
        LINKED.replacen(r#"(func (export "through")"#, r#"(func $through (export "through")"#, 1);
    let linked = wat::parse_str(linked).unwrap();
    let merged = merge_component(&linked, &NO_CHANGES, &[]).unwrap();
    let changed = merge_component(&linked, &CHANGES, &[]).unwrap();
    assert_eq!(run(&changed), run(&linked), "both pointers are called");
    let calls = |component: &[u8]| {
        let component = super::Component::parse(component).unwrap();
        let bodies = component.modules.iter().flat_map(|module| &module.bodies);
        let operators = bodies.flat_map(|body| body.get_operators_reader().unwrap());
        operators.filter(|operator| matches!(operator, Ok(Operator::Call { .. }))).count()
    };
    assert_eq!(calls(&changed), calls(&merged) + 1);

    const UNKNOWN: Changes = Changes { expected: &[(&["through"], "nowhere")], ..NO_CHANGES };
    const OTHER: Changes = Changes { expected: &[(&["own"], "other")], ..NO_CHANGES };
    for (changes, message) in
        [(UNKNOWN, "0 functions are named nowhere"), (OTHER, "no call is of the type")]
    {
        let error = format!("{:#}", merge_component(&linked, &changes, &[]).unwrap_err());
        assert!(error.contains(message), "{error}");
    }
}

#[test]
fn a_function_without_the_expected_result_returns_0() {
    const CHANGES: Changes = Changes { without_result: &["own"], ..NO_CHANGES };
    let without = LINKED.replacen(
        "(func $own (type $get) (i32.load (global.get $base)))",
        "(func $own (i32.store offset=8 (global.get $base) (i32.const 1)))",
        1,
    );
    let linked = wat::parse_str(without).unwrap();
    let changed = merge_component(&linked, &CHANGES, &[]).unwrap();
    // Without the change the call of `own` by its pointer would fail.
    assert_eq!(run(&changed), run(&wat::parse_str(LINKED).unwrap()).map(|result| result - 42));
    let error = merge_component(&wat::parse_str(LINKED).unwrap(), &CHANGES, &[]).unwrap_err();
    assert!(format!("{error:#}").contains("has a result"), "{error:#}");
}
