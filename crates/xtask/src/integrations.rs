//! `cargo xtask test integrations`: tests the adapters to other frameworks, each on the
//! real framework from its registry.
//!
//! Frameworks that cannot be installed side by side are in different groups, which have an
//! environment and a lock file each.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, bail};

use crate::{guests, linux, process, sdk, setup, wheel, workspace};

/// Frameworks that are installed in one environment.
struct FrameworkGroup {
    name: &'static str,
    /// The oldest Python that the newest versions of the frameworks support.
    min_python: (u32, u32),
    /// The lock file, relative to the root.
    requirements: &'static str,
    label: &'static str,
    /// The suites of tests that run in the environment.
    suites: &'static [AdapterSuite],
}

/// Tests of the adapters of one package.
struct AdapterSuite {
    package: AdapterPackage,
    /// The directory of the tests, relative to that of the package.
    tests: &'static str,
}

/// A Python package that has adapters.
#[derive(Clone, Copy, PartialEq, Eq)]
enum AdapterPackage {
    Isola,
    Isorun,
}

const GROUPS: &[FrameworkGroup] = &[
    FrameworkGroup {
        name: "agents",
        min_python: (3, 11),
        requirements: "sdk/python/tests/integrations/agents/requirements.txt",
        label: "pydantic-ai, deepagents, inspect-ai, openai-agents and mini-swe-agent",
        suites: &[AdapterSuite {
            package: AdapterPackage::Isorun,
            tests: "tests/integrations/agents",
        }],
    },
    FrameworkGroup {
        name: "adk",
        min_python: (3, 11),
        requirements: "sdk/python/tests/integrations/adk/requirements.txt",
        label: "google-adk and strands-agents",
        suites: &[
            AdapterSuite { package: AdapterPackage::Isorun, tests: "tests/integrations/adk" },
            AdapterSuite { package: AdapterPackage::Isola, tests: "tests/integrations/adk" },
        ],
    },
    FrameworkGroup {
        name: "harbor",
        min_python: (3, 12),
        requirements: "sdk/python/tests/integrations/harbor/requirements.txt",
        label: "harbor",
        suites: &[AdapterSuite {
            package: AdapterPackage::Isorun,
            tests: "tests/integrations/harbor",
        }],
    },
    FrameworkGroup {
        name: "code",
        min_python: (3, 11),
        requirements: "crates/isola-python/tests/integrations/code/requirements.txt",
        label: "fastmcp, smolagents and dspy",
        suites: &[AdapterSuite {
            package: AdapterPackage::Isola,
            tests: "tests/integrations/code",
        }],
    },
];

/// Runs the tests with a server that was built before. `groups` are names of groups, all of
/// them by default, and `args` are passed to pytest.
pub fn test(groups: &[String], args: &[String]) -> Result<()> {
    if let Some(unknown) = groups.iter().find(|name| GROUPS.iter().all(|g| g.name != **name)) {
        let known: Vec<_> = GROUPS.iter().map(|group| group.name).collect();
        bail!("there is no group {unknown}: choose from {}", known.join(", "));
    }
    let chosen =
        |group: &&FrameworkGroup| groups.is_empty() || groups.iter().any(|name| name == group.name);
    let chosen: Vec<&FrameworkGroup> = GROUPS.iter().filter(chosen).collect();
    let uses = |package| chosen.iter().flat_map(|group| group.suites).any(|s| s.package == package);
    let isola = if uses(AdapterPackage::Isola) { Some(isola_package()?) } else { None };
    let isorun = if uses(AdapterPackage::Isorun) { Some(isorun_package()?) } else { None };
    for group in chosen {
        let python =
            setup::frameworks(group.name, group.requirements, group.label, group.min_python)?;
        for suite in group.suites {
            let (directory, site) = match suite.package {
                AdapterPackage::Isola => ("crates/isola-python", &isola),
                AdapterPackage::Isorun => ("sdk/python", &isorun),
            };
            eprintln!("==> pytest {directory}/{} ({})", suite.tests, group.label);
            let mut pytest = Command::new(&python);
            pytest.current_dir(workspace::root().join(directory));
            pytest.args(["-m", "pytest", suite.tests]).args(args);
            if let Some(site) = site {
                pytest.env("PYTHONPATH", site);
            }
            pytest.env("PYTHONDONTWRITEBYTECODE", "1").env("ISORUN_COMMAND", sdk::command()?);
            // Images contain programs of this machine, and the Python that belongs to them.
            pytest.env("ISORUN_IMAGE_PYTHON", setup::python()?.program);
            // The runtimes are those in the wheel.
            pytest.env_remove("ISOLA_RUNTIME_DIR");
            process::run(pytest)?;
        }
    }
    Ok(())
}

/// Builds the package `isola`, and returns the directory into which it is installed.
fn isola_package() -> Result<PathBuf> {
    guests::ensure()?;
    let site = workspace::root().join("target/python-site");
    wheel::install(&setup::python_tests()?, &[&wheel::build("dev")?], &site)?;
    Ok(site)
}

/// Builds the package `isorun`, and returns the directory into which it is installed.
fn isorun_package() -> Result<PathBuf> {
    linux::ensure()?;
    sdk::install(&setup::sdk_tests()?)
}
