"""The options of a sandbox, which adapters pass on to `Sandbox` and `AsyncSandbox`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict


class SandboxOptions(TypedDict, total=False):
    """The keyword arguments of `Sandbox` and `AsyncSandbox`, where they are described.

    An adapter has its own parameter for what it handles itself, such as the image.
    """

    vcpus: int | None
    mem_mib: int | None
    disk_mib: int | None
    sandbox_timeout: float
    network_profile: str
    allow: Sequence[str] | None
    deny: Sequence[str] | None
    env: Mapping[str, str] | None
    credentials: Mapping[str, Any] | None
    on_idle: str
    auto_resume: bool
    api_url: str | None
    api_key: str | None
