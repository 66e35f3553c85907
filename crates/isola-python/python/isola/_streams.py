"""The names that host and guest use for calls with a `StreamArg`. How they work together,
and the guest's side, is in `crates/isola/src/stream_calls.rs`.
"""

from __future__ import annotations

HOSTCALL = "isola.stream"
"""The hostcall that returns the next batch of a stream."""

FUNCTION = "__isola_call__"
"""The function in the guest that calls another one with its streams."""
