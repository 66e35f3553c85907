"""The checks that Inspect ships for sandbox environments, as root and as a user."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from inspect_ai.util._sandbox import self_check
from inspect_ai.util._sandbox.self_check import *  # noqa: F403

from isorun.integrations.inspect_ai import IsorunSandboxConfig, IsorunSandboxEnvironment

pytestmark = pytest.mark.anyio

ROOT_READS = "permissions do not apply to root"
# The checks that cannot pass with an image, which pass with the other one.
EXPECTED = {
    "root": {
        "test_read_file_not_allowed": ROOT_READS,
        "test_write_text_file_without_permissions": ROOT_READS,
        "test_write_binary_file_without_permissions": ROOT_READS,
    },
    "user": {
        "test_exec_as_user": "only root can become another user",
    },
}


def test_every_check_passes_with_an_image() -> None:
    assert set(EXPECTED["root"]) & set(EXPECTED["user"]) == set()
    assert set(EXPECTED["root"]) | set(EXPECTED["user"]) <= set(self_check.__all__)


@pytest.fixture(scope="module", params=["root", "user"])
async def environment(
    request: pytest.FixtureRequest, images: dict[str, str]
) -> AsyncIterator[IsorunSandboxEnvironment]:
    environment = await IsorunSandboxEnvironment.create(
        IsorunSandboxConfig(image=images[request.param])
    )
    yield environment
    await environment.sandbox.destroy()


@pytest.fixture
async def sandbox_env(
    request: pytest.FixtureRequest, environment: IsorunSandboxEnvironment
) -> IsorunSandboxEnvironment:
    image = request.node.callspec.params["environment"]
    if reason := EXPECTED[image].get(request.node.originalname):
        request.node.add_marker(pytest.mark.xfail(reason=reason, strict=True))
    return environment
