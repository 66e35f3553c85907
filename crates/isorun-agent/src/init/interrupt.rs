//! Interrupting what a bash does, so that the bash lives on.
//!
//! bash is a program of long jumps: its handler of an interrupt leaves what it
//! interrupts. Two moments are bad for that, and under gVisor each takes
//! milliseconds:
//!
//! - While it makes a child, or begins to wait for it, it is left waiting for that
//!   child in a later command, or interrupting itself for ever.
//! - A child that is still bash itself, before its exec, does not end: it jumps to
//!   where its parent reads commands, and takes them away from it.
//!
//! So it is interrupted when the same programs run at two looks, none of which is
//! a child on its way to its exec, and bash waits. If that does not happen, since
//! it starts one short program after the other, the one that runs is stopped: then
//! bash can do nothing but wait.

use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::Instant;

use super::groups::Group;
use super::proc;

/// After so many interrupts, about six seconds, the shell is past help.
const HOPELESS: u32 = 60;
/// Interrupts after which programs are killed instead.
const GENTLE: u32 = 3;
/// Interrupts before which a good moment is looked for.
const CAREFUL: u32 = 12;
/// How long a child may be on its way to its exec. One that is older is a
/// subshell.
const YOUTH: Duration = Duration::from_millis(250);
/// Between two looks.
const GLANCE: Duration = Duration::from_millis(4);
/// Looks after which the programs are stopped.
const LOOKS: u32 = 6;
/// How long bash may take to wait for what was stopped.
const STANDSTILL: Duration = Duration::from_millis(8);
/// Looks after which there is no good moment.
const MOST_LOOKS: u32 = 60;

/// What is interrupted.
pub struct Target<'a> {
    pub bash: Pid,
    pub group: &'a Group,
    /// What ran before the command, and is none of its.
    pub before: &'a [Pid],
}

/// One interruption, from its request until bash is ready again.
#[derive(Default)]
pub struct Interruption {
    round: u32,
    looks: u32,
    /// What ran at the latest look.
    ran: Vec<Pid>,
    stopped: bool,
    /// Processes, and when they were seen first.
    seen: Vec<(Pid, Instant)>,
}

/// What to do next.
pub enum Step {
    /// Come back after that time.
    Wait(Duration),
    /// bash was interrupted: it is to be asked for the outcome now, since it
    /// forgets what it has read, and this is to go on after that time.
    Struck(Duration),
}

impl Interruption {
    /// Interrupts the command, at a good moment and harder each time.
    pub fn press(&mut self, target: &Target<'_>) -> Step {
        if self.round < CAREFUL
            && let Some(pause) = self.too_early(target)
        {
            return Step::Wait(pause);
        }
        let pause = self.next_round();
        // bash first: it has to know of an interrupt when a program that it waits
        // for dies of one, or else it goes on with the next command.
        let signal = if self.round > HOPELESS { Signal::KILL } else { Signal::INT };
        let _ = kill_process(target.bash, signal);
        self.strike(target);
        Step::Struck(pause)
    }

    /// Ends what keeps bash from answering after it was interrupted: mostly nothing
    /// does.
    pub fn clear(&mut self, target: &Target<'_>) -> Duration {
        if self.stopped {
            // The command ended by itself meanwhile, and left some of them.
            for pid in self.programs(target).0 {
                let _ = kill_process(pid, Signal::CONT);
            }
        }
        let pause = self.next_round();
        if self.round > HOPELESS {
            let _ = kill_process(target.bash, Signal::KILL);
        }
        if self.round > 1 {
            self.strike(target);
        }
        pause
    }

    /// It was heard: what follows is gentle again.
    pub fn restart(&mut self) {
        self.round = 0;
    }

    fn next_round(&mut self) -> Duration {
        self.round += 1;
        self.looks = 0;
        self.ran.clear();
        self.stopped = false;
        Duration::from_millis(u64::from((self.round + 2).min(10)) * 10)
    }

    /// Whether this is no moment to interrupt bash, and when to look again.
    fn too_early(&mut self, target: &Target<'_>) -> Option<Duration> {
        let (programs, young) = self.programs(target);
        self.looks += 1;
        if self.looks > MOST_LOOKS {
            return None;
        }
        let steady = !young && programs == self.ran && proc::state(target.bash) == Some('S');
        self.ran.clone_from(&programs);
        if young || self.looks == 1 {
            return Some(GLANCE);
        }
        if steady || (self.looks >= LOOKS && programs.is_empty()) {
            return None;
        }
        if self.looks < LOOKS && !self.stopped {
            return Some(GLANCE);
        }
        for pid in programs {
            let _ = kill_process(pid, Signal::STOP);
        }
        self.stopped = true;
        Some(STANDSTILL)
    }

    fn strike(&mut self, target: &Target<'_>) {
        let signal = if self.round <= GENTLE { Signal::INT } else { Signal::KILL };
        let (programs, _) = self.programs(target);
        // What is stopped would not take the signal before it is continued.
        for signal in [Signal::CONT, signal] {
            for pid in &programs {
                let _ = kill_process(*pid, signal);
            }
        }
    }

    /// What the command has started; and whether there is more, on its way.
    fn programs(&mut self, target: &Target<'_>) -> (Vec<Pid>, bool) {
        let now = Instant::now();
        let members: Vec<Pid> = target
            .group
            .members()
            .into_iter()
            .filter(|pid| *pid != target.bash && !target.before.contains(pid))
            .collect();
        self.seen.retain(|(pid, _)| members.contains(pid));
        let bash = proc::command_line(target.bash);
        let mut programs = Vec::new();
        let mut young = false;
        for pid in members {
            let first = match self.seen.iter().find(|(seen, _)| *seen == pid) {
                Some((_, first)) => *first,
                None => {
                    self.seen.push((pid, now));
                    now
                }
            };
            if now < first + YOUTH && proc::command_line(pid) == bash {
                young = true;
            } else {
                programs.push(pid);
            }
        }
        (programs, young)
    }
}
