//! The conformance suite of engines.
//!
//! The tests of an engine call [`conformance!`](crate::conformance) with an expression
//! that opens the engine; each case becomes a test of its own. The value has to destroy
//! its sandboxes when it is dropped, so that a failed case leaves none: see
//! [`CleanUpOnDrop`].
// A failed expectation is a failed test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod cpu;
pub mod execs;
pub mod files;
pub mod lifecycle;
pub mod limits;
pub mod sessions;
pub mod shells;
pub mod stopped;

use std::ops::Deref;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use isorun_agent::client::{self, ClientError, ExecHandle, Output};
use isorun_agent::protocol;
use tokio::runtime::Handle;
use tokio::sync::RwLock;
use tokio::task::block_in_place;
use tokio::time::timeout;

use crate::engine::{AgentStream, Engine, Error, Root, SandboxId, SandboxSpec};

/// Timeout of a case: longer than any takes on a busy machine.
pub const CASE_TIMEOUT: Duration = Duration::from_secs(60);

/// Creates a test of each case that needs a shared handle of the engine.
#[macro_export]
macro_rules! conformance_of_shells {
    ($open:expr) => {
        $crate::conformance_of_shells!(@ $open; shells:
            shell_keeps_its_state, output_cannot_forge_the_end_of_a_command,
            timeout_keeps_the_shell, shell_survives_interrupts_at_any_moment,
            shell_can_be_reattached, commands_continue_across_a_checkpoint
        );
        $crate::conformance_of_shells!(@ $open; sessions:
            redirections_persist, stopped_process_does_not_end_the_shell,
            interactive_settings_do_not_change_output, long_commands_are_accepted,
            time_limits_are_paused_in_a_checkpoint, killed_program_is_not_kept
        );
    };
    (@ $open:expr; $module:ident: $($case:ident),+) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $case() {
            let scratch = $open.await;
            let engine = scratch.shared();
            let case = $crate::conformance::$module::$case(&engine);
            $crate::conformance::run_case(case).await;
        })+
    };
}

/// Creates a test of each case. The expression is an `async` block that opens an engine
/// with a state directory of its own.
#[macro_export]
macro_rules! conformance {
    ($open:expr) => {
        $crate::conformance!(@ $open;
            cpu by run_case_alone:
                cpu_quota_is_enforced, cpu_time_is_divided_by_weight;
            execs by run_case:
                output_and_exit_status, output_is_available_before_the_exit,
                stdin_is_empty_or_sent, timeout_kills_all_descendants,
                dropped_exec_kills_its_program, background_programs_keep_running,
                start_failures_name_the_cause, environment_directory_and_user,
                shared_memory_is_available_to_every_user, argument_length_limit_is_enforced,
                terminal_has_a_size_and_an_interrupt_key, signals_reach_the_program,
                hundred_concurrent_commands_keep_their_output, unread_output_blocks_the_program,
                invalid_data_ends_only_its_connection;
            files by run_case:
                files_are_stored_unchanged, directories_are_created_listed_and_removed,
                invalid_requests_are_refused, incomplete_upload_leaves_no_file,
                special_files_do_not_block_the_agent, link_race_does_not_change_ownership,
                deep_trees_are_removed;
            limits by run_case:
                process_limit_is_enforced, forks_beyond_the_limit_fail,
                fork_bomb_is_killed_at_its_timeout,
                disk_limit_is_enforced, memory_limit_is_enforced, cpu_count_matches_the_spec,
                processes_are_counted;
            stopped by run_case:
                stopped_process_does_not_end_its_command,
                programs_stopped_by_a_terminal_are_continued,
                shell_on_a_terminal_has_job_control, timeout_does_not_affect_other_commands;
            lifecycle by run_case:
                ids_are_unique_until_destroyed, invalid_specs_are_refused,
                death_of_a_sandbox_is_reported, machine_is_not_visible,
                sandboxes_are_isolated_from_each_other, checkpoint_can_be_restored_repeatedly,
                restored_sandbox_can_be_saved_at_once;
        );
    };
    (@ $open:expr; $($module:ident by $run:ident: $($case:ident),+;)+) => {
        $(mod $module {
            #[allow(unused_imports)]
            use super::*;
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let engine = $open.await;
                let case = $crate::conformance::$module::$case(&*engine);
                $crate::conformance::$run(case).await;
            })+
        })+
    };
}

/// Held by each case that runs; exclusively by those that run alone.
static TURNS: RwLock<()> = RwLock::const_new(());

/// Runs a case, and fails it if it exceeds [`CASE_TIMEOUT`].
pub async fn run_case(case: impl Future<Output = ()>) {
    let _turn = TURNS.read().await;
    run_in_time(case).await;
}

/// Runs a case like [`run_case`], while no other case of this process runs.
pub async fn run_case_alone(case: impl Future<Output = ()>) {
    let _turn = TURNS.write().await;
    run_in_time(case).await;
}

async fn run_in_time(case: impl Future<Output = ()>) {
    timeout(CASE_TIMEOUT, case).await.expect("the case exceeded its time limit");
}

/// Destroys all sandboxes and shuts the engine down.
pub async fn clean_up(engine: &dyn Engine) {
    try_clean_up(engine).await.unwrap();
}

async fn try_clean_up(engine: &dyn Engine) -> Result<(), Error> {
    for id in engine.list().await? {
        engine.destroy(&id).await?;
    }
    engine.shutdown().await;
    Ok(())
}

/// An engine whose sandboxes are destroyed, and which is shut down, when this is dropped;
/// also when a test fails. It has to be dropped in a runtime with several threads.
pub struct CleanUpOnDrop<E: Engine>(pub E);

impl<E: Engine> Deref for CleanUpOnDrop<E> {
    type Target = E;

    fn deref(&self) -> &E {
        &self.0
    }
}

impl<E: Engine> Drop for CleanUpOnDrop<E> {
    fn drop(&mut self) {
        let cleaning = async { timeout(CASE_TIMEOUT, try_clean_up(&self.0)).await };
        let outcome = block_in_place(|| Handle::current().block_on(cleaning));
        // A second panic would abort the process, and with it the other tests.
        if std::thread::panicking() {
            return eprintln!("clean-up: {outcome:?}");
        }
        outcome.expect("the clean-up exceeded its time limit").unwrap();
    }
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

    /// Restores a checkpoint.
    pub async fn restore(engine: &'a dyn Engine, spec: SandboxSpec, from: &Path) -> Self {
        let id = spec.id.clone();
        engine.restore(spec, from).await.unwrap();
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
