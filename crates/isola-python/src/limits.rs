//! Limits, converted from Python.

use std::time::Duration;

use isola::{Call, Limits};
use pyo3::prelude::*;

use crate::failure;

/// The fields of `isola.Limits`. `None` leaves a limit unchanged; an infinite
/// time means no limit.
#[derive(FromPyObject)]
pub struct LimitOptions {
    max_memory: Option<usize>,
    cpu_timeout: Option<f64>,
    timeout: Option<f64>,
    max_value_size: Option<usize>,
    max_output_size: Option<usize>,
    max_recursion: Option<u32>,
    max_pending_hostcalls: Option<usize>,
    max_held_memory: Option<usize>,
    max_storage: Option<usize>,
    max_handles: Option<usize>,
    max_requests: Option<usize>,
}

impl LimitOptions {
    /// Returns `limits` with the limits that are set here replaced.
    pub fn applied_to(&self, mut limits: Limits) -> PyResult<Limits> {
        for (given, limit) in [
            (self.max_memory, &mut limits.max_memory),
            (self.max_value_size, &mut limits.max_value_size),
            (self.max_output_size, &mut limits.max_output_size),
            (self.max_pending_hostcalls, &mut limits.max_pending_hostcalls),
            (self.max_held_memory, &mut limits.max_held_memory),
            (self.max_storage, &mut limits.max_storage),
            (self.max_handles, &mut limits.max_handles),
            (self.max_requests, &mut limits.max_requests),
        ] {
            if let Some(number) = given {
                *limit = number;
            }
        }
        if let Some(depth) = self.max_recursion {
            limits.max_recursion = depth;
        }
        if let Some(seconds) = self.cpu_timeout {
            limits.cpu_timeout = duration("cpu_timeout", seconds)?;
        }
        if let Some(seconds) = self.timeout {
            limits.timeout = duration("timeout", seconds)?;
        }
        Ok(limits)
    }
}

/// The wall time and the CPU time of one call, in seconds.
pub type CallLimits = (Option<f64>, Option<f64>);

/// Applies limits to a call.
pub fn limited(mut call: Call, (wall, cpu): CallLimits) -> PyResult<Call> {
    if let Some(seconds) = wall {
        call = call.timeout(duration("timeout", seconds)?.unwrap_or(Duration::MAX));
    }
    if let Some(seconds) = cpu {
        call = call.cpu_timeout(duration("cpu_timeout", seconds)?.unwrap_or(Duration::MAX));
    }
    Ok(call)
}

/// Converts seconds to a duration; `None` means no limit.
pub fn duration(option: &str, seconds: f64) -> PyResult<Option<Duration>> {
    match Duration::try_from_secs_f64(seconds) {
        Ok(duration) if !duration.is_zero() => Ok(Some(duration)),
        Err(_) if seconds > 0.0 => Ok(None),
        _ => Err(failure::raise(
            "invalid_argument",
            &format!("{option} is {seconds:?}: give a number of seconds above 0"),
        )),
    }
}
