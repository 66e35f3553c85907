//! Tests of the runtime `python-data`: numpy and pandas in the command.

use std::{fs, path::Path};

use crate::fixture::{TestDir, compile_data_once, run_with_input};

const TOTALS: &str = r#"
import pandas as pd

def main(path):
    sales = pd.read_csv(path)
    totals = sales.groupby("region")["amount"].sum()
    return {region: int(total) for region, total in totals.items()}
"#;

/// Returns the names of the packages that are compiled for the runtime.
pub(crate) fn packages() -> Vec<String> {
    let recipes = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../guests/python/packages");
    let paths = fs::read_dir(recipes).unwrap().map(|entry| entry.unwrap().path());
    let names: Vec<String> = paths
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    assert!(names.contains(&"numpy".to_owned()), "{names:?}");
    names
}

/// Returns the value of the first line `NAME = "VALUE"` of a recipe.
fn field(recipe: &str, name: &str) -> String {
    let start = format!("{name} = \"");
    let line = recipe.lines().find_map(|line| line.strip_prefix(start.as_str())).unwrap();
    line.strip_suffix('"').unwrap().to_owned()
}

#[test]
fn documented_packages_are_those_of_the_recipes() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let page = fs::read_to_string(root.join("docs/guest/python/data.md")).unwrap();
    let section = page.split("\n## ").find(|text| text.starts_with("Packages\n")).unwrap();
    let rows: Vec<&str> = section.lines().filter(|line| line.starts_with("| `")).collect();
    for name in packages() {
        let path = root.join(format!("guests/python/packages/{name}.toml"));
        let recipe = fs::read_to_string(path).unwrap();
        let [version, licence] = ["version", "licence"].map(|each| field(&recipe, each));
        let row = format!("| `{name}` | {version} | {licence} |");
        assert!(rows.contains(&row.as_str()), "data.md has no row {row:?}");
    }
    assert_eq!(rows.len(), packages().len(), "{rows:?}");
}

#[test]
fn csv_file_becomes_json() {
    compile_data_once();
    let dir = TestDir::with("totals.py", TOTALS);
    fs::create_dir(dir.path().join("data")).unwrap();
    let csv = "region,amount\nnorth,10\nsouth,5\nnorth,7\n";
    fs::write(dir.path().join("data/sales.csv"), csv).unwrap();
    let args = ["totals.py", "--runtime", "python-data", "--mount", "./data:/data"];
    let ran = dir.run(&[&args[..], &["--arg", "\"/data/sales.csv\""]].concat());
    assert_eq!(ran.succeeded(), "{\"north\":17,\"south\":5}\n");
    // The small runtime has neither.
    let error = dir.run(&["totals.py", "--arg", "\"x\""]).failed(1);
    assert!(error.contains("ModuleNotFoundError"), "{error}");
}

#[test]
fn snapshot_keeps_arrays() {
    compile_data_once();
    let dir = TestDir::with("load.py", "import numpy as np\nrows = np.arange(1000)")
        .file("ask.py", "def main():\n    return int(rows.sum())");
    let run = |args: &[&str]| dir.run(&[args, &["--runtime", "python-data"]].concat());
    run(&["load.py", "--save-snapshot", "./a.snapshot"]).succeeded();
    assert_eq!(run(&["ask.py", "--from-snapshot", "./a.snapshot"]).succeeded(), "499500\n");
    // It is one of this runtime.
    let error = dir.run(&["ask.py", "--from-snapshot", "./a.snapshot"]).failed(2);
    assert!(error.contains("python-data"), "{error}");
}

#[test]
fn interactive_session_has_the_packages() {
    compile_data_once();
    let dir = TestDir::new();
    let command = dir.command(&["repl", "--runtime", "python-data"]);
    let input = b"import numpy as np\nint(np.ones(4).sum())\n:fork\nnp.arange(3).tolist()\n";
    let ran = run_with_input(command, input);
    assert_eq!(ran.stdout, "4\n[0, 1, 2]\n", "{ran:?}");
}
