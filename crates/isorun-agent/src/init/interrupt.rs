//! Interrupts the command of a bash, so that the bash itself survives.
//!
//! The SIGINT handler of bash leaves the interrupted code with a long jump. There
//! are two periods in which that breaks bash, and under gVisor each takes
//! milliseconds:
//!
//! - While it forks a child, or starts to wait for it: it then waits for that child
//!   in a later command, or interrupts itself forever.
//! - A child before its exec, which is still a copy of bash, does not exit: it
//!   jumps to the loop of its parent that reads commands, and consumes them.
//!
//! So bash is interrupted when two consecutive polls find the same programs, none
//! of which is a child before its exec, and bash is waiting. If that does not
//! happen, since it starts one short program after the other, the running one is
//! stopped: then bash can only wait.

use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::Instant;

use super::cgroups::Cgroup;
use super::proc;

/// The number of interrupts, sent in about six seconds, after which the shell is
/// killed.
const MAX_ATTEMPTS: u32 = 60;
/// The number of interrupts after which programs are killed instead.
const MAX_SIGINT_ATTEMPTS: u32 = 3;
/// The number of interrupts that wait for a safe moment.
const MAX_TIMED_ATTEMPTS: u32 = 12;
/// The time that a child gets to reach its exec. An older one is a subshell.
const EXEC_GRACE: Duration = Duration::from_millis(250);
/// The time between two polls.
const POLL_INTERVAL: Duration = Duration::from_millis(4);
/// The number of polls after which the programs are stopped.
const POLLS_BEFORE_STOP: u32 = 6;
/// The time that bash gets to start waiting for a stopped program.
const STOP_POLL_INTERVAL: Duration = Duration::from_millis(8);
/// The number of polls after which bash is interrupted at any moment.
const MAX_POLLS: u32 = 60;

/// The bash to interrupt.
pub struct Target<'a> {
    pub bash: Pid,
    pub cgroup: &'a Cgroup,
    /// The processes that ran before the command, which are not interrupted.
    pub background: &'a [Pid],
}

/// One interruption, from its request until bash is ready again.
#[derive(Default)]
pub struct Interruption {
    attempts: u32,
    polls: u32,
    /// The programs that the latest poll found.
    last_programs: Vec<Pid>,
    stopped: bool,
    /// The processes, and the times when they were first seen.
    first_seen: Vec<(Pid, Instant)>,
}

/// The next step of the caller.
pub enum Step {
    /// Call again after that time.
    Wait(Duration),
    /// bash was interrupted. Query its exit code again now, since it has discarded its
    /// input, and call again after that time.
    Interrupted(Duration),
}

impl Interruption {
    /// Interrupts the command, at a safe moment, and kills its programs after a few
    /// attempts.
    pub fn attempt(&mut self, target: &Target<'_>) -> Step {
        if self.attempts < MAX_TIMED_ATTEMPTS
            && let Some(pause) = self.poll_delay(target)
        {
            return Step::Wait(pause);
        }
        let pause = self.next_attempt();
        // bash first: it has to receive the interrupt before a program that it waits
        // for is killed by one. Otherwise it continues with the next command.
        let signal = if self.attempts > MAX_ATTEMPTS { Signal::KILL } else { Signal::INT };
        let _ = kill_process(target.bash, signal);
        self.signal_programs(target);
        Step::Interrupted(pause)
    }

    /// Ends the programs that keep bash from responding after it was interrupted. There
    /// are rarely any.
    pub fn clear(&mut self, target: &Target<'_>) -> Duration {
        if self.stopped {
            // The command ended by itself meanwhile, and left some of them stopped.
            for pid in self.programs(target).0 {
                let _ = kill_process(pid, Signal::CONT);
            }
        }
        let pause = self.next_attempt();
        if self.attempts > MAX_ATTEMPTS {
            let _ = kill_process(target.bash, Signal::KILL);
        }
        if self.attempts > 1 {
            self.signal_programs(target);
        }
        pause
    }

    /// Starts counting attempts again, after bash has responded.
    pub fn reset(&mut self) {
        self.attempts = 0;
    }

    fn next_attempt(&mut self) -> Duration {
        self.attempts += 1;
        self.polls = 0;
        self.last_programs.clear();
        self.stopped = false;
        Duration::from_millis(u64::from((self.attempts + 2).min(10)) * 10)
    }

    /// Returns the time until the next poll if bash cannot be interrupted safely now.
    fn poll_delay(&mut self, target: &Target<'_>) -> Option<Duration> {
        let (programs, pre_exec) = self.programs(target);
        self.polls += 1;
        if self.polls > MAX_POLLS {
            return None;
        }
        let steady =
            !pre_exec && programs == self.last_programs && proc::state(target.bash) == Some('S');
        self.last_programs.clone_from(&programs);
        if pre_exec || self.polls == 1 {
            return Some(POLL_INTERVAL);
        }
        if steady || (self.polls >= POLLS_BEFORE_STOP && programs.is_empty()) {
            return None;
        }
        if self.polls < POLLS_BEFORE_STOP && !self.stopped {
            return Some(POLL_INTERVAL);
        }
        for pid in programs {
            let _ = kill_process(pid, Signal::STOP);
        }
        self.stopped = true;
        Some(STOP_POLL_INTERVAL)
    }

    fn signal_programs(&mut self, target: &Target<'_>) {
        let signal = if self.attempts <= MAX_SIGINT_ATTEMPTS { Signal::INT } else { Signal::KILL };
        let (programs, _) = self.programs(target);
        // A stopped process does not handle the signal before it is continued.
        for signal in [Signal::CONT, signal] {
            for pid in &programs {
                let _ = kill_process(*pid, signal);
            }
        }
    }

    /// Returns the programs that the command has started, and whether there is a child
    /// before its exec.
    fn programs(&mut self, target: &Target<'_>) -> (Vec<Pid>, bool) {
        let now = Instant::now();
        let members: Vec<Pid> = target
            .cgroup
            .members()
            .into_iter()
            .filter(|pid| *pid != target.bash && !target.background.contains(pid))
            .collect();
        self.first_seen.retain(|(pid, _)| members.contains(pid));
        let bash = proc::command_line(target.bash);
        let mut programs = Vec::new();
        let mut pre_exec = false;
        for pid in members {
            let first = match self.first_seen.iter().find(|(seen, _)| *seen == pid) {
                Some((_, first)) => *first,
                None => {
                    self.first_seen.push((pid, now));
                    now
                }
            };
            if now < first + EXEC_GRACE && proc::command_line(pid) == bash {
                pre_exec = true;
            } else {
                programs.push(pid);
            }
        }
        (programs, pre_exec)
    }
}
