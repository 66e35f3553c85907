"""Hostcalls: started with a plain call, ended by the event loop."""

from isola_guest import own_builtins as __builtins__  # noqa: A004

from itertools import count

from wit_world.imports import host

from . import values


class HostcallError(RuntimeError):
    """The host refused or failed. The message is the host's."""

    __module__ = "sandbox.asyncio"


# The futures of hostcalls that are under way, by their number.
pending = {}

_numbers = count(1)


def start(loop, name, payload):
    """Starts a hostcall and returns the future of its result."""
    if not isinstance(name, str):
        raise TypeError(f"a hostcall's name is a str, not {type(name).__name__}")
    number = next(_numbers)
    text = values.encode(payload)
    try:
        host.hostcall(number, name, text)
    except Exception as refusal:
        raise HostcallError(getattr(refusal, "value", str(refusal))) from None
    future = loop.create_future()
    future.add_done_callback(lambda future: _forget(number, future))
    pending[number] = future
    return future


def settle(completions):
    """Ends the futures whose hostcalls ended."""
    for completion in completions:
        future = pending.pop(completion.id, None)
        if future is None or future.done():
            continue
        outcome = completion.outcome
        if hasattr(outcome, "value") and type(outcome).__name__ == "Ok":
            future.set_result(values.decode(outcome.value))
        else:
            future.set_exception(HostcallError(outcome.value))


def _forget(number, future):
    # Cancelled while it was under way: the host need not go on.
    if pending.pop(number, None) is not None and future.cancelled():
        host.abandon(number)
