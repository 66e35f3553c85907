use super::*;

const TABLE: &str = "\
# What this is.

[newer]
# Mended later.
test_a.C.x
test_a.D.*
test_a.E.x[*]

[hangs: not run]
test_a.C.hangs
test_gone

[load: either]
test_a.C.timed

[skips]
# Who knows.
1 no threads here

[modules]
# The tests of each module, and how many of them skip themselves.
test_a 11 1
test_b skips itself: no threads
";

fn failed() -> Test {
    Test::Failed("why".to_owned())
}

fn skipped() -> Test {
    Test::Skipped("no threads here".to_owned())
}

/// Returns the outcomes that the table expects, with some changes.
fn outcomes(changes: &[(&str, Test)]) -> Outcomes {
    let expected = [
        ("test_a.C.x", failed()),
        ("test_a.C.fine", Test::Passed),
        ("test_a.C.hangs", Test::NotRun),
        ("test_a.C.skips", skipped()),
        ("test_a.C.timed", failed()),
        ("test_a.D.x", failed()),
        ("test_a.D.y", failed()),
        ("test_a.D.z", failed()),
        ("test_a.E.x[1.5]", failed()),
        ("test_a.E.x[a b]", failed()),
        ("test_a.E.x[c[0]]", failed()),
    ];
    let tests = expected.iter().chain(changes);
    let tests = tests.map(|(name, test)| ((*name).to_owned(), test.clone())).collect();
    let skipped = ModuleOutcome::Skipped("no threads".to_owned());
    BTreeMap::from([
        ("test_a".to_owned(), ModuleOutcome::Ran(tests)),
        ("test_b".to_owned(), skipped),
    ])
}

#[track_caller]
fn check(changes: &[(&str, Test)], expected: &[&str]) {
    let found = Table::parse(TABLE).unwrap().compare(&outcomes(changes));
    assert_eq!(found, expected);
}

#[test]
fn what_is_expected_is_no_difference() {
    check(&[], &[]);
    check(&[("test_a.C.timed", Test::Passed)], &[]);
}

#[test]
fn differences_are_found_in_both_directions() {
    check(&[("test_a.C.fine", failed())], &["test_a.C.fine: fails, and no reason is given: why"]);
    check(&[("test_a.C.x", Test::Passed)], &["[newer] test_a.C.x: passes"]);
    check(&[("test_a.D.y", Test::Passed)], &["[newer] test_a.D.y: passes"]);
    check(&[("test_a.E.x[a b]", Test::Passed)], &["[newer] test_a.E.x[a b]: passes"]);
    check(&[("test_a.C.hangs", Test::Passed)], &["[hangs] test_a.C.hangs: was run"]);
    check(
        &[("test_a.C.fine", skipped())],
        &[
            "test_a: has 11 tests, of which 2 skip themselves; expected: has 11 tests, of which 1 \
             skip themselves",
            "2 tests skip themselves; expected: 1: no threads here",
        ],
    );
}

#[test]
fn modules_that_come_and_go_are_found() {
    let table = Table::parse(TABLE).unwrap();
    let mut outcomes = outcomes(&[]);
    let skipped = outcomes.remove("test_b").unwrap();
    outcomes.insert("test_c".to_owned(), skipped);
    assert_eq!(
        table.compare(&outcomes),
        [
            "test_c: is not in the table; it skips itself: no threads",
            "test_b: is in the table, and there is no such module",
        ]
    );
}

#[test]
fn modules_and_tests_can_be_left_out() {
    let table = Table::parse(TABLE).unwrap();
    assert!(table.excludes("test_gone"));
    assert!(!table.excludes("test_a"));
    assert_eq!(table.excluded_tests("test_a").collect::<Vec<_>>(), ["test_a.C.hangs"]);
}

#[test]
fn a_table_is_written_as_it_was_read() {
    let mut table = Table::parse(TABLE).unwrap();
    assert_eq!(table.text(), TABLE);
    table.update(&outcomes(&[]));
    assert_eq!(table.text(), TABLE);
}

#[test]
fn committed_tables_are_as_they_would_be_written() {
    for name in ["python-tests.txt", "numpy-tests.txt"] {
        let path = crate::workspace::root().join("crates/isola/tests").join(name);
        let text = std::fs::read_to_string(path).unwrap();
        let table = Table::parse(&text).unwrap();
        assert!(table.reasons.iter().all(|reason| reason.name != UNEXPLAINED), "{name}");
        for reason in &table.reasons {
            assert!(!reason.explanation.is_empty(), "{name}: {}", reason.name);
        }
        assert_eq!(table.text(), text, "{name}");
    }
}

#[test]
fn what_fails_anew_is_refused_until_it_has_a_reason() {
    let mut table = Table::parse(TABLE).unwrap();
    let now = outcomes(&[("test_a.C.fine", failed()), ("test_a.C.x", Test::Passed)]);
    table.update(&now);
    let text = table.text();
    assert!(text.contains("[unexplained]\n# "), "{text}");
    assert!(text.contains("\ntest_a.C.fine  # why\n"), "{text}");
    assert!(!text.contains("\ntest_a.C.x\n"), "{text}");
    let table = Table::parse(&text).unwrap();
    assert_eq!(table.compare(&now), ["test_a.C.fine: fails, and no reason is given: why"]);
}
