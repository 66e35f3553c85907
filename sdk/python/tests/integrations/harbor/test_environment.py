"""The environment alone: commands, files, limits and the life of the sandbox."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from harbor.environments.factory import EnvironmentFactory
from harbor.models.task.config import (
    EnvironmentConfig,
    HealthcheckConfig,
    NetworkMode,
    NetworkPolicy,
)
from harbor.models.trial.config import ResourceMode
from harbor.models.trial.paths import TrialPaths
from isorun import AsyncSandbox, IsorunConnectionError, IsorunError
from isorun.integrations.harbor import IsorunEnvironment
from support import IMPORT_WITHOUT, LiveSandboxes, relayed

BINARY = bytes(range(256)) * 40

ALLOW_EXAMPLE = NetworkPolicy(
    network_mode=NetworkMode.ALLOWLIST,
    allowed_hosts=["example.com", "*.example.org", "203.0.113.5", "198.51.100.0/24"],
)
NO_NETWORK = NetworkPolicy(network_mode=NetworkMode.NO_NETWORK)


def build(directory: Path, image: str | None, config: Any = None, **options: Any) -> Any:
    """Returns an environment that is not started."""
    (directory / "environment").mkdir(exist_ok=True)
    return IsorunEnvironment(
        environment_dir=directory / "environment",
        environment_name="task",
        session_id="task__1__env",
        trial_paths=TrialPaths(trial_dir=directory / "trial"),
        task_env_config=EnvironmentConfig(docker_image=image, **(config or {})),
        **options,
    )


@asynccontextmanager
async def started(
    directory: Path, image: str | None, config: Any = None, **options: Any
) -> AsyncIterator[IsorunEnvironment]:
    environment = build(directory, image, config, **options)
    await environment.start(force_build=False)
    try:
        yield environment
    finally:
        await environment.stop(delete=True)


@pytest.fixture
def image(images: dict[str, str], live_sandboxes: LiveSandboxes) -> str:
    return images["root"]


# Commands.


async def test_a_command_returns_its_output_and_exit_code(image: str, tmp_path: Path) -> None:
    async with started(tmp_path, image) as environment:
        result = await environment.exec("pwd; echo err >&2; exit 42")
        assert (result.stdout, result.stderr, result.return_code) == ("/srv\n", "err\n", 42)
        # As with Docker, the shell is bash.
        result = await environment.exec("set -o pipefail; false | true; echo ${BASH_VERSION%%.*}")
        assert result.stdout == "5\n"
        assert (await environment.exec("false | true")).return_code == 0


async def test_a_command_has_a_directory_and_variables(image: str, tmp_path: Path) -> None:
    config = {"workdir": "/job/it's", "env": {"FROM_TASK": "a $b", "BOTH": "task"}}
    trial = {"BOTH": "trial", "CALL": "trial"}
    async with started(tmp_path, image, config, persistent_env=trial) as environment:
        command = 'pwd; echo "$FROM_TASK $BOTH $CALL $SCOPE"'
        with environment.scoped_exec_env({"SCOPE": "scope"}):
            result = await environment.exec(command, env={"CALL": "call"})
        assert result.stdout == "/job/it's\na $b trial call scope\n"
        assert (await environment.exec("pwd", cwd="/tmp")).stdout == "/tmp\n"
        # Variables of Harbor's own process are not in the sandbox.
        assert "ISORUN_COMMAND" not in str((await environment.exec("env")).stdout)


async def test_a_command_runs_as_another_user(image: str, tmp_path: Path) -> None:
    async with started(tmp_path, image) as environment:
        command = 'echo "$(id -u) $HOME"'
        assert (await environment.exec(command)).stdout == "0 /root\n"
        assert (await environment.exec(command, user="agent")).stdout == "1000 /home/agent\n"
        given = await environment.exec(command, user=1000, env={"HOME": "/tmp/it's"})
        assert given.stdout == "1000 /tmp/it's\n"
        with environment.with_default_user("agent"):
            assert (await environment.exec("id -u")).stdout == "1000\n"
            assert (await environment.exec("id -u", user="root")).stdout == "0\n"
            assert (await environment.exec("id -u", user=0)).stdout == "0\n"
        missing = await environment.exec("id", user="bob")
        assert (missing.return_code, missing.stdout) == (126, "")
        assert "there is no user bob" in str(missing.stderr)


async def test_a_command_of_any_length_runs(image: str, tmp_path: Path) -> None:
    async with started(tmp_path, image) as environment:
        command = f"x='{'a' * 2_000_000}'; echo ${{#x}}"
        for user in (None, "agent"):
            assert (await environment.exec(command, user=user)).stdout == "2000000\n"
        assert (await environment.exec("ls -A /tmp")).stdout == ""


async def test_a_command_is_killed_after_its_timeout(image: str, tmp_path: Path) -> None:
    async with started(tmp_path, image) as environment:
        result = await environment.exec(
            "echo out; echo err >&2; sleep 60 & sleep 61", timeout_sec=1
        )
        assert (result.return_code, result.stdout) == (124, "out\n")
        assert str(result.stderr).startswith("err\n") and "1" in str(result.stderr)
        assert "sleep" not in await commands_in(environment)
        # No timeout is no timeout, whatever is the default of the package.
        assert (await environment.exec("sleep 1; echo done")).stdout == "done\n"


async def test_a_cancelled_command_is_killed(image: str, tmp_path: Path) -> None:
    async with started(tmp_path, image) as environment:
        running = asyncio.create_task(environment.exec("touch started; sleep 62"))
        while not await environment.is_file("/srv/started"):
            await asyncio.sleep(0.05)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        while "62" in (await commands_in(environment)).split():
            await asyncio.sleep(0.05)


async def test_output_is_streamed_to_callbacks(image: str, tmp_path: Path) -> None:
    chunks: list[tuple[str, str]] = []
    first = asyncio.Event()

    async def collect(text: str, stream: str) -> None:
        chunks.append((stream, text))
        first.set()

    async with started(tmp_path, image) as environment:
        with environment.scoped_output_callback(collect):
            command = "echo one; until [ -e go ]; do sleep 0.05; done; echo two >&2"
            running = asyncio.create_task(environment.exec(command))
        await first.wait()
        assert not running.done()
        await environment.exec("touch go")
        result = await running
        assert (result.stdout, result.stderr, result.return_code) == ("one\n", "two\n", 0)
        assert chunks == [("stdout", "one\n"), ("stderr", "two\n")]

        # One that fails ends the command.
        async def fail(text: str, stream: str) -> None:
            raise KeyError(text)

        with environment.scoped_output_callback(fail), pytest.raises(KeyError, match="one"):
            await environment.exec("echo one; sleep 63")
        while "63" in (await commands_in(environment)).split():
            await asyncio.sleep(0.05)


async def test_output_beyond_the_limit_is_noted(image: str, tmp_path: Path) -> None:
    async def ignore(text: str, stream: str) -> None:
        pass

    async with started(tmp_path, image) as environment:
        command = "head -c 9000000 /dev/zero | tr '\\0' x; echo end >&2"
        for callback in (None, ignore):
            with environment.scoped_output_callback(callback):
                result = await environment.exec(command)
            assert result.return_code == 0
            assert str(result.stdout).strip("x") == "" and len(str(result.stdout)) == 8 << 20
            assert str(result.stderr).startswith("end\n[isorun: the end of standard output is")


async def test_a_command_that_cannot_be_started_is_a_result(image: str, tmp_path: Path) -> None:
    async with started(tmp_path, image) as environment:
        result = await environment.exec("echo started", cwd="/none")
        assert (result.return_code, result.stdout) == (127, "")
        assert "/none" in str(result.stderr)


async def test_an_image_needs_neither_bash_nor_setpriv(
    images: dict[str, str], tmp_path: Path, live_sandboxes: LiveSandboxes
) -> None:
    async with started(tmp_path, images["plain"]) as environment:
        assert (await environment.exec("echo $0")).stdout == "/bin/sh\n"
        with pytest.raises(RuntimeError, match="'agent': the image has no `setpriv`"):
            await environment.exec("true", user="agent")
        (tmp_path / "files").mkdir()
        with pytest.raises(RuntimeError, match="needs `tar`"):
            await environment.upload_dir(tmp_path / "files", "/files")
        with pytest.raises(RuntimeError, match="needs `tar`"):
            await environment.download_dir("/srv", tmp_path / "files")


async def test_a_healthcheck_repeats_a_command_that_hangs(image: str, tmp_path: Path) -> None:
    async with started(tmp_path, image) as environment:
        check = HealthcheckConfig(
            command="[ -e tried ] || { touch tried; sleep 60; }", timeout_sec=1, interval_sec=0.1
        )
        await environment.run_healthcheck(check)
        assert await environment.is_file("/srv/tried")


# Files.


async def test_files_keep_their_bytes_and_permissions(image: str, tmp_path: Path) -> None:
    async with started(tmp_path, image) as environment:
        local = tmp_path / "local"
        local.write_bytes(BINARY)
        local.chmod(0o750)
        await environment.upload_file(local, "/new/it's a $file")
        stat = await environment.exec("stat -c '%a %u %s' '/new/it'\\''s a $file'")
        assert stat.stdout == f"750 0 {len(BINARY)}\n"
        await environment.exec("chmod 777 /new/*")
        await environment.download_file("/new/it's a $file", tmp_path / "deep/er/copy")
        copy = tmp_path / "deep/er/copy"
        assert copy.read_bytes() == BINARY
        # Other users may not write to a file of this machine because a sandbox says so.
        assert copy.stat().st_mode & 0o777 == 0o755
        await environment.exec("printf short > /new/short")
        await environment.download_file("/new/short", copy)
        assert copy.read_bytes() == b"short"


async def test_files_that_cannot_be_copied(image: str, tmp_path: Path) -> None:
    async with started(tmp_path, image, max_download_mib=1) as environment:
        target = tmp_path / "target"
        target.write_text("old")
        with pytest.raises(FileNotFoundError, match="/none"):
            await environment.download_file("/none", target)
        with pytest.raises(IsorunError, match="directory"):
            await environment.download_file("/usr", target)
        await environment.exec(
            "mkdir big; truncate -s 4G big/file || head -c 3M /dev/zero > big/file"
        )
        with pytest.raises(IsorunError, match="more than 1 MiB: raise `max_download_mib`"):
            await environment.download_file("/srv/big/file", target)
        assert target.read_text() == "old"
        await environment.exec("rm big/file; head -c 3M /dev/zero > big/file")
        with pytest.raises(IsorunError, match="more than 1 MiB"):
            await environment.download_dir("/srv/big", tmp_path / "big")
        with pytest.raises(FileNotFoundError, match="/none"):
            await environment.download_dir("/none", tmp_path / "none")
        with pytest.raises(FileNotFoundError):
            await environment.upload_file(tmp_path / "none", "/srv/none")
        with pytest.raises(FileNotFoundError):
            await environment.upload_dir(tmp_path / "none", "/srv/none")
        with pytest.raises(RuntimeError, match="cannot be uploaded to /srv/big/file"):
            await environment.upload_dir(tmp_path / "environment", "/srv/big/file")
        assert (await environment.exec("ls -A /tmp")).stdout == ""
        assert sorted(path.name for path in tmp_path.iterdir()) == ["environment", "target"]


async def test_directories_keep_their_content(image: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "sub/empty").mkdir(parents=True)
    (source / "sub/run.sh").write_text("#!/bin/sh\necho ran\n")
    (source / "sub/run.sh").chmod(0o755)
    (source / "link").symlink_to("sub/run.sh")
    (source / "it's a $file").write_bytes(BINARY)
    os.chown(source / "sub/run.sh", 4711, 4711)
    async with started(tmp_path, image) as environment:
        await environment.exec(
            "mkdir /dir && chmod 711 /dir && echo old > /dir/link; echo > /dir/kept"
        )
        await environment.upload_dir(source, "/dir")
        # The directory itself keeps its permissions.
        found = await environment.exec("./link; stat -c '%a %u' /dir sub/run.sh; ls -A", cwd="/dir")
        assert found.stdout == "ran\n711 0\n755 0\nit's a $file\nkept\nlink\nsub\n"
        target = tmp_path / "target"
        target.mkdir()
        (target / "kept").write_text("old")
        await environment.download_dir("/dir", target)
        assert (target / "it's a $file").read_bytes() == BINARY
        assert os.readlink(target / "link") == "sub/run.sh"
        assert (target / "sub/empty").is_dir() and (target / "kept").read_text() == "\n"
        assert os.access(target / "sub/run.sh", os.X_OK)
        assert (await environment.exec("ls -A /tmp")).stdout == ""


async def test_a_directory_of_a_sandbox_cannot_escape(image: str, tmp_path: Path) -> None:
    async with started(tmp_path, image) as environment:
        await environment.exec(
            "mkdir evil; cd evil; ln -s /etc abs; ln -s ../../.. up; mkfifo pipe; echo x > file; "
            "chmod 6777 file"
        )
        # A program of the agent in place of `tar`.
        target = tmp_path / "target"
        await environment.download_dir("/srv/evil", target)
        assert sorted(os.listdir(target)) == ["file"]
        assert (target / "file").stat().st_mode & 0o7777 == 0o755
        fake = (
            "import io, sys, tarfile\n"
            "with tarfile.open(sys.argv[sys.argv.index('-f') + 1], 'w') as archive:\n"
            "    for name in ('../outside', '/tmp/outside', 'inside'):\n"
            "        archive.addfile(tarfile.TarInfo(name), io.BytesIO())\n"
        )
        script = tmp_path / "fake"
        script.write_text(f"#!/usr/local/bin/python3\n{fake}")
        script.chmod(0o755)
        await environment.upload_file(script, "/usr/bin/tar")
        await environment.download_dir("/srv/evil", tmp_path / "other")
        # An absolute name is one in the directory.
        assert not (tmp_path / "outside").exists()
        assert sorted(os.listdir(tmp_path / "other")) == ["inside", "tmp"]


async def test_filtered_downloads_of_the_framework(image: str, tmp_path: Path) -> None:
    async with started(tmp_path, image) as environment:
        await environment.exec("mkdir -p logs/sub; touch logs/a.txt logs/b.bin logs/sub/c.txt")
        await environment.download_dir_filtered(
            source_dir="/srv/logs", target_dir=tmp_path / "txt", include=["*.txt"], exclude=None
        )
        assert (tmp_path / "txt/a.txt").exists() and not (tmp_path / "txt/b.bin").exists()
        await environment.download_dir_with_exclusions(
            source_dir="/srv/logs", target_dir=tmp_path / "rest", exclude=["sub"]
        )
        assert sorted(os.listdir(tmp_path / "rest")) == ["a.txt", "b.bin"]


async def test_directories_of_the_framework(image: str, tmp_path: Path) -> None:
    mounts = [{"type": "bind", "source": str(tmp_path), "target": "/logs/agent"}]
    async with started(tmp_path, image, auto_mounts=mounts) as environment:
        assert (await environment.exec("stat -c %a /logs/agent")).stdout == "777\n"
        await environment.exec("touch /logs/agent/x", user="agent")
        await environment.empty_dirs(["/logs/agent"])
        assert (await environment.exec("ls -A /logs/agent")).stdout == ""
        assert await environment.is_dir("/logs/agent")
        assert not await environment.is_dir("/none")


async def test_the_files_of_the_task_are_uploaded(image: str, tmp_path: Path) -> None:
    (tmp_path / "environment").mkdir()
    (tmp_path / "environment/data").write_text("of the task")
    async with started(tmp_path, image) as environment:
        assert (await environment.exec("cat data")).stdout == "of the task"
    async with started(tmp_path, image, {"workdir": "/made"}) as environment:
        assert (await environment.exec("cat /made/data")).stdout == "of the task"
    async with started(tmp_path, image, enable_environment_dir_upload=False) as environment:
        assert not await environment.is_file("/srv/data")


# Resources and the network.


async def test_resources_are_limits(image: str, tmp_path: Path) -> None:
    config = {"cpus": 2, "memory_mb": 512, "storage_mb": 2048}
    async with started(tmp_path, image, config) as environment:
        assert environment.sandbox is not None and environment.sandbox.info is not None
        info = environment.sandbox.info
        assert (info.vcpus, info.mem_mib, info.disk_mib) == (2, 512, 2048)
    async with started(
        tmp_path,
        image,
        config,
        override_cpus=1.0,
        override_storage_mb=1024,
        memory_enforcement_policy=ResourceMode.IGNORE,
    ) as environment:
        assert environment.sandbox is not None and environment.sandbox.info is not None
        info = environment.sandbox.info
        assert (info.vcpus, info.mem_mib, info.disk_mib) == (1, 1024, 1024)


@pytest.mark.parametrize(
    ("config", "options", "message"),
    [
        ({"cpus": 0.5}, {}, "whole CPU cores"),
        ({"cpus": 1}, {"cpu_enforcement_policy": "guarantee"}, "CPU resource requests"),
        ({"gpus": 1}, {}, "GPU"),
        ({"os": "windows"}, {}, "Windows"),
        ({}, {"stream": True}, "stream"),
        ({}, {"auto_mounting": True}, "automatic host mounts"),
        ({}, {"credentials": {}}, "Unknown option 'credentials'"),
        ({}, {"max_download_mib": 0}, "max_download_mib"),
        ({}, {"mounts": [{"type": "bind", "source": "/etc", "target": "/x"}]}, "mounted at /x"),
        ({"docker_image": None}, {}, "no `docker_image`"),
        (
            {},
            {
                "network_policy": NetworkPolicy(
                    network_mode=NetworkMode.ALLOWLIST, allowed_hosts=["2001:db8::1"]
                )
            },
            "IPv6",
        ),
    ],
)
def test_what_is_not_supported_is_refused(
    config: dict[str, Any], options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    full = {"docker_image": "python:3.12", **config}
    with pytest.raises((ValueError, RuntimeError), match=message):
        build(tmp_path, full.pop("docker_image"), full, **options)


async def test_definitions_that_need_a_build_are_refused(image: str, tmp_path: Path) -> None:
    environment = build(tmp_path, image)
    (tmp_path / "environment/Dockerfile").write_text("FROM python:3.12\n")
    with pytest.raises(ValueError, match="Dockerfile cannot be built"):
        await environment.start(force_build=True)
    await environment.start(force_build=False)
    await environment.stop(delete=True)
    (tmp_path / "environment/docker-compose.yaml").write_text("services: {}\n")
    with pytest.raises(ValueError, match="without Docker Compose"):
        build(tmp_path, image)


async def test_the_network_follows_the_policy(image: str, tmp_path: Path, server: Any) -> None:
    def policy(environment: IsorunEnvironment) -> tuple[Any, ...]:
        assert environment.sandbox is not None
        shown = httpx.get(
            f"{server.url}/v1/runs/{environment.sandbox.id}/network",
            headers={"authorization": f"Bearer {server.key}"},
        ).json()
        return shown["profile"], shown["rest"], sorted(shown["allow"])

    allowed = (None, "denied", sorted(ALLOW_EXAMPLE.allowed_hosts))
    empty = NetworkPolicy(network_mode=NetworkMode.ALLOWLIST)
    async with started(tmp_path, image) as environment:
        assert policy(environment) == ("internet", "allowed", [])
        for given, expected in (
            (NO_NETWORK, ("locked-down", "denied", [])),
            (ALLOW_EXAMPLE, allowed),
            (empty, ("locked-down", "denied", [])),
            (NetworkPolicy(), ("internet", "allowed", [])),
        ):
            await environment.set_network_policy(given)
            assert policy(environment) == expected
            assert environment.network_policy == given
    async with started(tmp_path, image, network_policy=ALLOW_EXAMPLE) as environment:
        assert policy(environment) == allowed
    async with started(tmp_path, image, network_policy=NO_NETWORK) as environment:
        assert policy(environment) == ("locked-down", "denied", [])
        # A connection that is not allowed is reset.
        connect = "import socket; socket.create_connection(('192.0.2.1', 80), 5).recv(1)"
        result = await environment.exec(f'python3 -c "{connect}"')
        assert result.return_code == 1 and "ConnectionRe" in str(result.stderr)


# The life of the sandbox.


async def test_the_sandbox_is_created_and_destroyed(
    image: str, tmp_path: Path, live_sandboxes: LiveSandboxes
) -> None:
    environment = build(tmp_path, image)
    with pytest.raises(RuntimeError, match="not started"):
        await environment.exec("true")
    await environment.stop(delete=True)
    await environment.start(force_build=False)
    first = environment.sandbox.id
    assert first in live_sandboxes.ids()
    with pytest.raises(RuntimeError, match="started already"):
        await environment.start(force_build=False)
    await environment.stop(delete=True)
    await environment.stop(delete=True)
    assert environment.sandbox is None and first not in live_sandboxes.ids()
    await environment.start(force_build=False)
    second = environment.sandbox
    assert second is not None and second.id != first
    await environment.stop(delete=True)


async def test_a_sandbox_that_is_not_deleted_hibernates(
    image: str, tmp_path: Path, live_sandboxes: LiveSandboxes
) -> None:
    environment = build(tmp_path, image)
    await environment.start(force_build=False)
    await environment.exec("echo kept > note")
    left = environment.sandbox.id
    await environment.stop(delete=False)
    assert live_sandboxes.status(left) == "hibernated"
    async with await AsyncSandbox.connect(left) as sandbox:
        await sandbox.resume()
        assert (await sandbox.exec("cat note")).stdout == "kept\n"


async def test_an_image_whose_user_is_not_root_is_refused(
    images: dict[str, str], tmp_path: Path, live_sandboxes: LiveSandboxes
) -> None:
    environment = build(tmp_path, images["user"])
    with pytest.raises(RuntimeError, match="number 1000, but Harbor runs commands as root"):
        await environment.start(force_build=False)
    assert environment.sandbox is None


async def test_a_start_that_fails_leaves_no_sandbox(
    image: str, tmp_path: Path, live_sandboxes: LiveSandboxes
) -> None:
    with pytest.raises(RuntimeError, match="/etc/passwd/below cannot be created"):
        await build(tmp_path, image, {"workdir": "/etc/passwd/below"}).start(force_build=False)
    with pytest.raises(IsorunError, match="missing:1"):
        await build(tmp_path, "missing:1").start(force_build=False)
    with pytest.raises(IsorunError, match="mem_mib"):
        await build(tmp_path, image, {"memory_mb": 1}).start(force_build=False)


@pytest.mark.parametrize("delay", [0.0, 0.01, 0.05, 0.1, 0.2, 0.4])
async def test_a_cancelled_start_leaves_no_sandbox(
    delay: float, image: str, tmp_path: Path, live_sandboxes: LiveSandboxes
) -> None:
    before = live_sandboxes.ids()
    environment = build(tmp_path, image)
    starting = asyncio.create_task(environment.start(force_build=False))
    await asyncio.sleep(delay)
    starting.cancel()
    await asyncio.wait([starting])
    await environment.stop(delete=True)
    # The server notices that the client of a sandbox that it creates is gone.
    while live_sandboxes.ids() != before:
        await asyncio.sleep(0.05)


async def test_the_sandbox_is_destroyed_while_it_is_used(
    image: str, tmp_path: Path, live_sandboxes: LiveSandboxes
) -> None:
    async with started(tmp_path, image) as environment:
        running = asyncio.create_task(environment.exec("touch started; sleep 60"))
        while not await environment.is_file("/srv/started"):
            await asyncio.sleep(0.05)
        assert environment.sandbox is not None
        await (await AsyncSandbox.connect(str(environment.sandbox.id))).destroy()
        with pytest.raises(IsorunError, match="destroyed"):
            await running
        local = tmp_path / "local"
        local.write_text("x")
        for operation in (
            environment.exec("true"),
            environment.upload_file(local, "/srv/x"),
            environment.upload_dir(tmp_path, "/srv/x"),
            environment.download_file("/srv/started", tmp_path / "x"),
            environment.download_dir("/srv", tmp_path / "x"),
            environment.set_network_policy(NO_NETWORK),
        ):
            with pytest.raises(IsorunError, match="destroyed"):
                await operation
        # It is no error that it is gone already.


async def test_the_server_goes_away(image: str, tmp_path: Path, server: Any) -> None:
    async with relayed(server.url) as relay:
        environment = build(tmp_path, image, api_url=relay.url)
        await environment.start(force_build=False)
        running = asyncio.create_task(environment.exec("touch started; sleep 60"))
        while not await environment.is_file("/srv/started"):
            await asyncio.sleep(0.05)
        await relay.stop()
        with pytest.raises(IsorunConnectionError):
            await running
        with pytest.raises(IsorunConnectionError):
            await environment.download_dir("/srv", tmp_path / "x")
        with pytest.raises(IsorunConnectionError):
            await environment.stop(delete=True)
        # It can be stopped again when the server is back.
        sandbox = environment.sandbox
        assert sandbox is not None
    await (await AsyncSandbox.connect(sandbox.id)).destroy()


def test_a_job_checks_the_server_first(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = "isorun.integrations.harbor:IsorunEnvironment"
    EnvironmentFactory.run_preflight(None, import_path=path, kwargs={"sandbox_timeout": 60})
    with pytest.raises(ValueError, match="Unknown option 'api_key'"):
        EnvironmentFactory.run_preflight(None, import_path=path, kwargs={"api_key": "x"})
    away = {"api_url": "http://127.0.0.1:9"}
    with pytest.raises(SystemExit, match="127.0.0.1:9"):
        EnvironmentFactory.run_preflight(None, import_path=path, kwargs=away)
    monkeypatch.setenv("ISORUN_API_KEY", "isorun_live_wrong")
    with pytest.raises(SystemExit, match="key"):
        EnvironmentFactory.run_preflight(None, import_path=path, kwargs=None)


async def test_attach_needs_the_command(
    image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with started(tmp_path, image) as environment:
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(RuntimeError, match="`isorun` is not installed"):
            await environment.attach()


async def test_attach_is_a_shell(image: str, tmp_path: Path, live_sandboxes: LiveSandboxes) -> None:
    program = tmp_path / "attach.py"
    program.write_text(
        "import asyncio, pathlib, sys\n"
        "import test_environment\n"
        f"environment = test_environment.build(pathlib.Path({str(tmp_path)!r}), {image!r})\n"
        "async def main():\n"
        "    await environment.start(force_build=False)\n"
        "    await environment.attach()\n"
        "asyncio.run(main())\n"
    )
    commands = tmp_path / "bin"
    commands.mkdir()
    (commands / "isorun").symlink_to(os.environ["ISORUN_COMMAND"])
    python_path = [str(Path(__file__).parent), *sys.path]
    variables = os.environ | {
        "PATH": f"{commands}:{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(python_path),
    }
    with subprocess.Popen(
        ["script", "-qec", f"{sys.executable} {program}", "/dev/null"],
        env=variables,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as terminal:
        assert terminal.stdin is not None and terminal.stdout is not None
        try:
            # The prompt of the shell ends with `# `.
            shown = b""
            while not shown.endswith(b"#"):
                assert terminal.poll() is None, shown
                shown += await asyncio.to_thread(terminal.stdout.read, 1)
            terminal.stdin.write(b"echo $((6 * 7))\nexit\n")
            terminal.stdin.flush()
            output = await asyncio.to_thread(terminal.stdout.read)
        finally:
            terminal.kill()
    assert b"\r\n42\r\n" in output


def test_the_import_says_what_to_install() -> None:
    code = IMPORT_WITHOUT.format(missing=["harbor"], module="isorun.integrations.harbor")
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert 'pip install "isorun[harbor]"' in done.stdout


async def commands_in(environment: IsorunEnvironment) -> str:
    """Returns the arguments of all processes in the sandbox."""
    listed = await environment.exec("cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
    return str(listed.stdout)
