//! The conformance suite of engines.
//!
//! The tests of an engine call [`conformance!`](crate::conformance) with an expression
//! that opens the engine; each case becomes a test of its own.
// A failed expectation is a failed test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod execs;
pub mod files;
pub mod limits;
pub mod lives;
pub mod sessions;
pub mod shells;
pub mod stops;

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use isorun_agent::client::{self, ClientError, ExecHandle, Output};
use isorun_agent::protocol;

use crate::engine::{AgentStream, Engine, Root, SandboxId, SandboxSpec};

/// Timeout of a case: longer than any takes on a busy machine.
pub const CASE_TIMEOUT: Duration = Duration::from_secs(60);

/// Creates a test of each case that needs a shared handle of the engine.
#[macro_export]
macro_rules! conformance_of_shells {
    ($open:expr) => {
        $crate::conformance_of_shells!(@ $open;
            a_shell_remembers, a_shell_cannot_be_confused, a_timeout_leaves_the_shell, a_shell_survives_any_interrupt,
            a_shell_can_be_attached_to, what_runs_goes_on_across_a_checkpoint
        );
        $crate::conformance_of_shells!(@@ $open; sessions:
            redirections_last, what_is_stopped_ends_no_shell,
            what_is_set_up_for_a_person_does_not_show, commands_may_be_long,
            time_limits_do_not_run_in_a_checkpoint, a_program_that_was_killed_is_not_kept
        );
    };
    (@ $open:expr; $($case:ident),+) => {
        $crate::conformance_of_shells!(@@ $open; shells: $($case),+);
    };
    (@@ $open:expr; $module:ident: $($case:ident),+) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $case() {
            let scratch = $open.await;
            let engine = scratch.shared();
            let case = $crate::conformance::$module::$case(&engine);
            tokio::time::timeout($crate::conformance::CASE_TIMEOUT, case).await.unwrap();
            $crate::conformance::clean_up(&*engine).await;
        })+
    };
}

/// Creates a test of each case. The expression is an `async` block that opens an engine
/// with a state directory of its own.
#[macro_export]
macro_rules! conformance {
    ($open:expr) => {
        $crate::conformance!(@ $open;
            execs: output_and_codes, output_arrives_as_it_is_written, stdin_is_empty_or_fed,
                a_timeout_kills_the_whole_tree, a_client_that_leaves_takes_its_program_along,
                what_runs_in_the_background_stays, what_cannot_start_says_why,
                environment_folder_and_user, shared_memory_of_every_user, long_arguments, a_terminal, signals, a_hundred_at_once,
                a_slow_reader_slows_the_program, garbage_harms_only_its_connection;
            files: files_go_in_and_out, folders, what_cannot_be_is_refused,
                a_broken_upload_leaves_nothing, nothing_inside_keeps_the_agent_waiting,
                folders_that_become_links_are_not_given_away, trees_of_any_depth_are_removed;
            limits: too_many_processes, a_bomb_ends_at_its_timeout, a_full_disk, too_much_memory, cpu_time,
                cpu_time_is_divided_by_weight,
                cpus_are_those_of_the_spec, processes_are_counted;
            stops: what_is_stopped_ends_nothing, no_program_is_left_stopped,
                jobs_of_a_shell_on_a_terminal, a_timeout_touches_no_other_command;
            lives: names_are_unique_and_gone_when_destroyed, specs_are_checked,
                a_sandbox_that_dies_is_noticed, nothing_of_the_machine_is_visible,
                sandboxes_are_apart, a_checkpoint_is_restored_any_number_of_times;
        );
    };
    (@ $open:expr; $($module:ident: $($case:ident),+;)+) => {
        $(mod $module {
            #[allow(unused_imports)]
            use super::*;
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let engine = $open.await;
                let case = $crate::conformance::$module::$case(&*engine);
                tokio::time::timeout($crate::conformance::CASE_TIMEOUT, case).await.unwrap();
                $crate::conformance::clean_up(&*engine).await;
            })+
        })+
    };
}

/// Destroys all sandboxes and shuts the engine down.
pub async fn clean_up(engine: &dyn Engine) {
    for id in engine.list().await.unwrap() {
        engine.destroy(&id).await.unwrap();
    }
    engine.shutdown().await;
}

/// Returns the spec of a small sandbox with the machine's own programs and a unique id.
pub fn spec() -> SandboxSpec {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let id: SandboxId = format!("case{}", NEXT.fetch_add(1, Ordering::Relaxed)).parse().unwrap();
    let hostname = hostname(&id);
    let spec = SandboxSpec::new(id, Root::Host);
    SandboxSpec { hostname, mem_mib: 192, disk_mib: 128, pids: 128, ..spec }
}

/// Returns the hostname of a sandbox that was created from a [`spec`].
pub fn hostname(id: &SandboxId) -> String {
    format!("host-of-{id}")
}

/// A sandbox, with helpers to use it.
pub struct Sandbox<'a> {
    /// The engine of the sandbox.
    pub engine: &'a dyn Engine,
    /// The id of the sandbox.
    pub id: SandboxId,
}

impl<'a> Sandbox<'a> {
    /// Creates a sandbox with the default [`spec`].
    pub async fn new(engine: &'a dyn Engine) -> Self {
        Self::with_spec(engine, spec()).await
    }

    /// Creates a sandbox.
    pub async fn with_spec(engine: &'a dyn Engine, spec: SandboxSpec) -> Self {
        let id = spec.id.clone();
        engine.create(spec).await.unwrap();
        Self { engine, id }
    }

    /// Opens a connection to its agent.
    pub async fn connect(&self) -> AgentStream {
        self.engine.connect(&self.id).await.unwrap()
    }

    /// Starts a program.
    pub async fn exec(&self, exec: protocol::Exec) -> Result<ExecHandle<AgentStream>, ClientError> {
        client::exec(self.connect().await, exec).await
    }

    /// Runs a shell command to its end.
    pub async fn sh(&self, command: &str) -> Output {
        self.exec(shell(command)).await.unwrap().output(64 << 20).await.unwrap()
    }

    /// Returns the output of a shell command, which has to succeed.
    pub async fn text(&self, command: &str) -> String {
        let output = self.sh(command).await;
        assert_eq!(output.status, protocol::Status::Code(0), "{command}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Waits until a shell command succeeds in the sandbox.
    pub async fn until(&self, command: &str) {
        self.text(&format!("until {command}; do sleep 0.02; done")).await;
    }
}

/// Returns the request for a shell command.
pub fn shell(command: &str) -> protocol::Exec {
    argv(&["/bin/sh", "-c", command])
}

/// Returns the request for a program with its arguments.
pub fn argv(words: &[&str]) -> protocol::Exec {
    let argv = words.iter().map(|word| (*word).to_owned()).collect();
    protocol::Exec { argv, ..protocol::Exec::default() }
}
