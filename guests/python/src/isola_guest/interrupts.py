"""Interruption of code by the host: it sets a bit of the guest's memory, upon which the
interpreter raises a `KeyboardInterrupt` at the next opportunity."""

from isola_guest import own_builtins as __builtins__  # noqa: A004

import _isola_interrupt
from wit_world.imports import host


def arm():
    """Allows the host to interrupt the code that runs next."""
    host.interrupt_word(*_isola_interrupt.arm())


def disarm():
    """Ends that. An interrupt that has not arrived is dropped."""
    host.interrupt_word(0, 0)
    _isola_interrupt.disarm()
