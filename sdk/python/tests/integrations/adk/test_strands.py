"""The adapter to Strands Agents, on its own agent with a scripted model."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from isorun import AsyncSandbox, IsorunConnectionError, IsorunError, Sandbox, SandboxInfo
from isorun.integrations.strands import IsorunSandbox
from strands import Agent, SandboxPathNotFoundError, SandboxTimeoutError
from strands.models import Model
from strands.sandbox import ExecutionResult, FileInfo, StreamChunk
from strands.sandbox import Sandbox as StrandsSandbox
from support import IMPORT_WITHOUT, relayed

ROOT = Path(__file__).parents[5]

BINARY = bytes(range(256)) * 40


@pytest.fixture
def sandbox(configured: None) -> Iterator[IsorunSandbox]:
    with IsorunSandbox("host", working_dir="/workspace") as sandbox:
        yield sandbox


class ScriptedModel(Model):
    """A model that calls tools in a given order, and says at last what they returned."""

    def __init__(self, *calls: tuple[str, dict[str, Any]]) -> None:
        self.calls = list(calls)
        self.results: list[str] = []
        self.tool_names: list[str] = []

    def update_config(self, **model_config: Any) -> None:
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        return {}

    def structured_output(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError

    async def stream(
        self, messages: Any, tool_specs: Any = None, *args: Any, **kwargs: Any
    ) -> AsyncIterator[Any]:
        self.tool_names = [spec["name"] for spec in tool_specs or []]
        for block in messages[-1]["content"]:
            if "toolResult" in block:
                self.results += [part["text"] for part in block["toolResult"]["content"]]
        yield {"messageStart": {"role": "assistant"}}
        if self.calls:
            name, arguments = self.calls.pop(0)
            start = {"toolUse": {"name": name, "toolUseId": f"call-{len(self.results)}"}}
            yield {"contentBlockStart": {"start": start}}
            delta = {"toolUse": {"input": json.dumps(arguments)}}
            yield {"contentBlockDelta": {"delta": delta}}
            yield {"contentBlockStop": {}}
            yield {"messageStop": {"stopReason": "tool_use"}}
            return
        yield {"contentBlockStart": {"start": {}}}
        yield {"contentBlockDelta": {"delta": {"text": self.results[-1] if self.results else ""}}}
        yield {"contentBlockStop": {}}
        yield {"messageStop": {"stopReason": "end_turn"}}


def agent(sandbox: StrandsSandbox, model: Model) -> Agent:
    return Agent(model=model, sandbox=sandbox, callback_handler=None)


# Commands.


async def test_a_command_returns_its_output_and_exit_code(sandbox: IsorunSandbox) -> None:
    done = await sandbox.execute("echo out; echo err >&2; exit 42")
    assert done == ExecutionResult(42, "out\n", "err\n")
    killed = await sandbox.execute("kill -9 $$")
    assert killed.exit_code == 137


async def test_output_is_streamed_as_it_arrives(sandbox: IsorunSandbox) -> None:
    seen: list[StreamChunk] = []
    results: list[ExecutionResult] = []
    # The command ends only when the first chunk of its output was seen.
    command = "echo one; echo two >&2; until [ -e go ]; do sleep 0.05; done; echo three"
    async with aclosing(sandbox.execute_streaming(command)) as items:
        async for item in items:
            if isinstance(item, StreamChunk):
                seen.append(item)
                if len(seen) == 1:
                    await sandbox.write_file("go", b"")
            else:
                results.append(item)
    assert results == [ExecutionResult(0, "one\nthree\n", "two\n")]
    assert "".join(chunk.data for chunk in seen if chunk.stream_type == "stderr") == "two\n"
    assert "".join(chunk.data for chunk in seen if chunk.stream_type == "stdout") == "one\nthree\n"


async def test_a_command_has_the_given_directory_and_variables(sandbox: IsorunSandbox) -> None:
    assert (await sandbox.execute("pwd")).stdout == "/workspace\n"
    assert (await sandbox.execute("pwd", cwd="/usr")).stdout == "/usr\n"
    await sandbox.write_file("sub/file", b"")
    assert (await sandbox.execute("pwd", cwd="sub")).stdout == "/workspace/sub\n"
    value = "$(whoami) `id` 'quoted' \"double\"\nline"
    done = await sandbox.execute("printenv MY_VAR; echo | printenv MY_VAR", env={"MY_VAR": value})
    assert done.stdout == f"{value}\n" * 2
    with pytest.raises(ValueError, match="A=B"):
        await sandbox.execute("true", env={"A=B": "x"})
    # Variables of the agent's own process are not in the sandbox.
    assert "ISORUN_COMMAND" not in (await sandbox.execute("env")).stdout


async def test_a_directory_that_does_not_exist_is_the_result(sandbox: IsorunSandbox) -> None:
    done = await sandbox.execute("echo started", cwd="/no/such/directory")
    assert done.exit_code == 127
    assert done.stdout == ""
    assert "/no/such/directory" in done.stderr


async def test_a_command_is_killed_after_its_timeout(sandbox: IsorunSandbox) -> None:
    with pytest.raises(SandboxTimeoutError) as caught:
        await sandbox.execute("echo before; echo error >&2; sleep 60 & sleep 60", timeout=0.7)
    assert str(caught.value) == "Execution timed out after 0.7 seconds"
    assert (caught.value.stdout, caught.value.stderr) == ("before\n", "error\n")
    assert "sleep" not in (await sandbox.execute("cat /proc/[0-9]*/cmdline")).stdout
    for timeout in (0, -1):
        with pytest.raises(ValueError, match="more than 0 seconds"):
            await sandbox.execute("true", timeout=timeout)


async def test_no_timeout_is_no_timeout(configured: None) -> None:
    short = Sandbox("host", timeout=0.5)
    async with IsorunSandbox(short) as other:
        assert (await other.execute("sleep 1; echo done")).stdout == "done\n"


async def test_a_cancelled_command_is_killed(sandbox: IsorunSandbox) -> None:
    running = asyncio.create_task(sandbox.execute("touch started; sleep 61"))
    while not [info for info in await sandbox.list_files(".") if info.name == "started"]:
        await asyncio.sleep(0.05)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await until_killed(sandbox, "61")


async def test_a_command_is_killed_when_its_stream_is_closed(sandbox: IsorunSandbox) -> None:
    async with aclosing(sandbox.execute_streaming("echo started; sleep 62")) as items:
        async for item in items:
            assert item == StreamChunk("started\n")
            break
    await until_killed(sandbox, "62")


async def test_a_stream_is_closed_while_output_waits(sandbox: IsorunSandbox) -> None:
    async with aclosing(sandbox.execute_streaming("yes; sleep 63")) as items:
        async for item in items:
            assert isinstance(item, StreamChunk)
            # The queue of chunks is full by then, and the command waits.
            await asyncio.sleep(0.5)
            break
    await until_killed(sandbox, "yes")


async def until_killed(sandbox: IsorunSandbox, argument: str) -> None:
    for _ in range(200):
        done = await sandbox.execute("cat /proc/[0-9]*/cmdline | tr '\\0' '\\n'")
        if argument not in done.stdout.splitlines():
            return
        await asyncio.sleep(0.05)
    pytest.fail("the command was not killed")


async def test_the_output_of_a_result_is_limited(configured: None) -> None:
    async with IsorunSandbox("host", max_output=1000) as small:
        command = "head -c 500000 /dev/zero | tr '\\0' x; echo end >&2"
        length = 0
        async with aclosing(small.execute_streaming(command)) as items:
            async for item in items:
                if isinstance(item, ExecutionResult):
                    result = item
                elif item.stream_type == "stdout":
                    length += len(item.data)
        assert length == 500000
        assert result.stdout == "x" * 1000
        assert result.stderr.startswith("end\n[isorun: the end of standard output is missing")
        with pytest.raises(SandboxTimeoutError) as caught:
            await small.execute(f"{command}; sleep 60", timeout=2)
        assert caught.value.stdout == "x" * 1000


async def test_output_that_is_not_text_is_replaced(sandbox: IsorunSandbox) -> None:
    done = await sandbox.execute("printf 'a\\377b'")
    assert done.stdout == "a\N{REPLACEMENT CHARACTER}b"


async def test_code_runs_in_its_interpreter(sandbox: IsorunSandbox) -> None:
    code = "import os, sys\nprint('it''s $HOME `x`', os.environ['A'], os.getcwd())\nsys.exit(3)"
    done = await sandbox.execute_code(code, "python3", env={"A": "b"}, cwd="/usr")
    assert done == ExecutionResult(3, "its $HOME `x` b /usr\n", "")
    assert (await sandbox.execute_code("echo $((6 * 7))", "sh")).stdout == "42\n"
    missing = await sandbox.execute_code("1", "no-such-language")
    assert missing.exit_code == 127
    assert "no-such-language" in missing.stderr
    for language in ("python3; id", "../sh", "sh\n", ""):
        with pytest.raises(ValueError, match="interpreter"):
            await sandbox.execute_code("1", language)
    with pytest.raises(SandboxTimeoutError):
        await sandbox.execute_code("while True: pass", "python3", timeout=0.5)


# Files.


async def test_files_keep_their_bytes(sandbox: IsorunSandbox) -> None:
    await sandbox.write_text("deep/er/note.txt", "h\u00e9llo")
    assert await sandbox.read_text("/workspace/deep/er/note.txt") == "h\u00e9llo"
    await sandbox.write_file("it's a $file", BINARY)
    assert await sandbox.read_file("./deep/../it's a $file") == BINARY
    await sandbox.write_file("empty", b"")
    assert await sandbox.read_file("empty") == b""
    large = BINARY * 500
    await sandbox.write_file("large", large)
    assert await sandbox.read_file("large") == large


async def test_an_edited_file_keeps_its_permissions(sandbox: IsorunSandbox) -> None:
    await sandbox.write_text("run.sh", "#!/bin/sh\necho one\n")
    assert (await sandbox.execute("chmod 755 run.sh; ./run.sh")).stdout == "one\n"
    await sandbox.write_text("run.sh", "#!/bin/sh\necho two\n")
    assert (await sandbox.execute("./run.sh")).stdout == "two\n"


async def test_files_that_cannot_be_read_or_written(sandbox: IsorunSandbox) -> None:
    with pytest.raises(FileNotFoundError, match="none"):
        await sandbox.read_file("none")
    with pytest.raises(OSError, match="directory"):
        await sandbox.read_file("/usr")
    with pytest.raises(OSError, match="/proc/none") as refused:
        await sandbox.write_file("/proc/none", b"x")
    assert not isinstance(refused.value, IsorunError)


async def test_a_file_without_end_is_not_read(configured: None) -> None:
    async with IsorunSandbox("host", max_file_bytes=100_000) as small:
        await small.execute("truncate -s 4G /huge; truncate -s 100000 /limit")
        with pytest.raises(OSError, match="more than 100000 bytes"):
            await small.read_file("/huge")
        assert await small.read_file("/limit") == bytes(100_000)


async def test_a_directory_is_listed(sandbox: IsorunSandbox) -> None:
    assert await sandbox.list_files(".") == []
    await sandbox.write_file("b.bin", b"12345")
    await sandbox.write_file(".hidden", b"")
    await sandbox.write_file("dir with space/x", b"")
    await sandbox.execute("touch -- '-n' '*' '..x' \"$(printf 'new\\nline')\"")
    await sandbox.execute("ln -s b.bin link; ln -s 'dir with space' dirlink; ln -s none broken")
    infos = {info.name: info for info in await sandbox.list_files("/workspace")}
    assert list(infos) == sorted(infos)
    assert infos.pop("dir with space").is_dir is True
    assert infos.pop("dirlink").is_dir is True
    assert infos == {
        info.name: info
        for info in [
            FileInfo("b.bin", False, 5),
            FileInfo(".hidden", False, 0),
            FileInfo("-n", False, 0),
            FileInfo("*", False, 0),
            FileInfo("..x", False, 0),
            FileInfo("new\nline", False, 0),
            FileInfo("link", False, 5),
            FileInfo("broken", False, None),
        ]
    }
    for path in ("none", "b.bin"):
        with pytest.raises(SandboxPathNotFoundError, match=path):
            await sandbox.list_files(path)


async def test_names_that_are_not_text_can_be_sent_to_a_model(sandbox: IsorunSandbox) -> None:
    await sandbox.execute("touch \"$(printf 'a\\377')\"")
    (info,) = await sandbox.list_files(".")
    assert info.name.encode() == "a\N{REPLACEMENT CHARACTER}".encode()


async def test_directories_are_known_without_the_program_stat(configured: None) -> None:
    # The image of the tests has a shell and few programs beside it.
    async with IsorunSandbox("python:3.12") as small:
        assert (await small.execute("stat /")).exit_code == 127
        await small.write_file("/d/e/f", b"")
        await small.write_file("/d/g", b"")
        assert await small.list_files("/d") == [FileInfo("e", True), FileInfo("g", False)]


async def test_a_file_is_removed(sandbox: IsorunSandbox) -> None:
    await sandbox.write_file("-rf", b"x")
    await sandbox.remove_file("-rf")
    with pytest.raises(FileNotFoundError, match="-rf"):
        await sandbox.remove_file("-rf")
    await sandbox.execute("mkdir d; ln -s none broken; touch readonly; chmod 0 readonly")
    await sandbox.remove_file("broken")
    await sandbox.remove_file("readonly")
    with pytest.raises(OSError, match="d cannot be removed"):
        await sandbox.remove_file("d")
    assert [info.name for info in await sandbox.list_files(".")] == ["d"]


async def test_relative_paths_start_in_the_directory_of_the_image(server: object) -> None:
    async with IsorunSandbox("host") as other:
        directory = (await other.execute("pwd")).stdout.strip()
        await other.write_file("relative.txt", b"x")
        assert await other.read_file(f"{directory.rstrip('/')}/relative.txt") == b"x"
    with pytest.raises(ValueError, match="absolute"):
        IsorunSandbox("host", working_dir="relative")


# The life of the sandbox.


def test_the_sandbox_is_destroyed_on_exit(server: Any) -> None:
    with IsorunSandbox("host") as sandbox:
        first = sandbox.id
        assert first is not None
        sandbox.create()
        assert sandbox.id == first
    assert sandbox.id is None
    server.wait_until_gone(first)
    sandbox.destroy()
    with pytest.raises(IsorunError, match="not created"):
        asyncio.run(sandbox.execute("true"))
    # It can be used again, with another sandbox.
    with sandbox:
        assert sandbox.id not in (None, first)


def test_a_sandbox_that_exists_is_left_alone(server: Any) -> None:
    with Sandbox("host") as existing:
        with IsorunSandbox(existing, working_dir="/job") as sandbox:
            assert sandbox.id == existing.id
            assert asyncio.run(sandbox.execute("echo kept > file; pwd")).stdout == "/job\n"
        assert existing.download("/job/file") == b"kept\n"
    with pytest.raises(IsorunError, match="destroyed"):
        IsorunSandbox(existing).create()


def test_options_are_those_of_the_given_sandbox(server: Any) -> None:
    described = AsyncSandbox("host", env={"NAME": "value"}, mem_mib=512)
    with IsorunSandbox(described) as sandbox:
        assert asyncio.run(sandbox.execute("echo $NAME")).stdout == "value\n"
        assert sandbox.id is not None
    assert described.id is None


def test_a_working_directory_that_cannot_be_created(server: Any) -> None:
    sandbox = IsorunSandbox("host", working_dir="/dev/null/x")
    with pytest.raises(IsorunError, match="/dev/null/x cannot be created"):
        sandbox.create()
    assert sandbox.id is None
    # An image with little more than a shell.
    with IsorunSandbox("python:3.12", working_dir="/a/b") as small:
        assert asyncio.run(small.execute("pwd")).stdout == "/a/b\n"


def test_each_call_may_have_its_own_event_loop(sandbox: IsorunSandbox) -> None:
    for number in range(3):
        done = asyncio.run(sandbox.execute(f"echo {number}"))
        assert done.stdout == f"{number}\n"
    threads = [
        threading.Thread(target=lambda n=n: asyncio.run(sandbox.write_file(f"t{n}", b"x")))
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    infos = asyncio.run(sandbox.list_files("."))
    assert [info.name for info in infos] == ["t0", "t1", "t2", "t3"]


# Failures.


async def test_no_server_is_reached(configured: None) -> None:
    away = AsyncSandbox("host", api_url="http://127.0.0.1:9", api_key="isorun_live_x")
    with pytest.raises(IsorunConnectionError, match="isorun serve"):
        IsorunSandbox(away).create()


async def test_the_server_goes_away(server: Any) -> None:
    async with relayed(server.url) as relay:
        sandbox = IsorunSandbox(AsyncSandbox("host", api_url=relay.url, api_key=server.key))
        await asyncio.to_thread(sandbox.create)
        running = asyncio.create_task(sandbox.execute("touch /started; sleep 60"))
        while not [info for info in await sandbox.list_files("/") if info.name == "started"]:
            await asyncio.sleep(0.05)
        await relay.stop()
        for failed in (running, sandbox.execute("true"), sandbox.execute_code("1", "python3")):
            with pytest.raises(IsorunConnectionError, match=re.escape(relay.url)):
                await failed
        for refused in (
            sandbox.read_file("/etc/hostname"),
            sandbox.read_file("relative"),
            sandbox.write_file("/x", b""),
            sandbox.list_files("/"),
            sandbox.remove_file("/x"),
        ):
            with pytest.raises(ConnectionError, match=re.escape(relay.url)):
                await refused
        with pytest.raises(IsorunConnectionError):
            await asyncio.to_thread(sandbox.destroy)
        with pytest.raises(ZeroDivisionError):
            async with sandbox:
                print(1 // 0)
    assert sandbox.id is not None
    Sandbox.connect(sandbox.id).destroy()


async def test_a_sandbox_that_is_not_awaited_any_more_is_destroyed(
    server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox = IsorunSandbox("host", working_dir="/workspace")
    entered, created = threading.Event(), asyncio.Queue[str]()
    loop, create = asyncio.get_running_loop(), Sandbox.create

    def observed(self: Sandbox) -> SandboxInfo:
        entered.set()
        info = create(self)
        loop.call_soon_threadsafe(created.put_nowait, info.id)
        return info

    async def enter() -> None:
        async with sandbox:
            pytest.fail("the block has begun")

    monkeypatch.setattr(Sandbox, "create", observed)
    entering = asyncio.create_task(enter())
    assert await asyncio.to_thread(entered.wait, 60)
    entering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await entering
    await asyncio.to_thread(server.wait_until_gone, await created.get())
    assert sandbox.id is None


async def test_a_program_of_the_sandbox_is_not_trusted(
    configured: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("isorun.integrations._anyloop.SCRIPT_TIMEOUT", 1.0)
    async with IsorunSandbox("python:3.12", working_dir="/w") as small:
        # The programs that the adapter uses are replaced.
        stat = "#!/bin/sh\nprintf '%05000d/f/' 7; printf 'x/g/-1/h/'\n"
        await small.write_file("/bin/stat", stat.encode())
        await small.write_file("/bin/rm", b"#!/bin/sh\nsleep 600\n")
        await small.write_file("f", b"")
        code = "import os\nfor name in ('stat', 'rm'): os.chmod('/bin/' + name, 0o755)"
        assert (await small.execute_code(code, "python3")).exit_code == 0
        assert FileInfo("f", False, None) in await small.list_files(".")
        with pytest.raises(TimeoutError):
            await small.remove_file("f")


async def test_the_sandbox_is_destroyed_while_it_is_used(server: Any) -> None:
    async with IsorunSandbox("host") as sandbox:
        running = asyncio.create_task(sandbox.execute("touch /started; sleep 60"))
        while not [info for info in await sandbox.list_files("/") if info.name == "started"]:
            await asyncio.sleep(0.05)
        assert sandbox.id is not None
        other = await AsyncSandbox.connect(sandbox.id)
        await other.destroy()
        with pytest.raises(IsorunError, match="destroyed"):
            await running
        with pytest.raises(OSError, match="destroyed"):
            await sandbox.read_file("/etc/hostname")


# An agent.


def test_an_agent_works_in_the_sandbox(sandbox: IsorunSandbox) -> None:
    program = "import sys\nprint(sum(range(int(sys.argv[1]))))\n"
    model = ScriptedModel(
        ("sandbox_file_editor", {"command": "create", "path": "/workspace/sum.py", "file_text": program}),
        ("sandbox_shell", {"command": "python3 sum.py 11 && ls"}),
        ("sandbox_file_editor", {"command": "str_replace", "path": "/workspace/sum.py", "old_str": "sum(", "new_str": "2 * sum("}),
        ("sandbox_file_editor", {"command": "view", "path": "/workspace"}),
        ("sandbox_file_editor", {"command": "view", "path": "/workspace/sum.py"}),
        ("sandbox_shell", {"command": "python3 sum.py 11"}),
    )  # fmt: skip
    # An agent that is called without `await` has an event loop for each call.
    answer = agent(sandbox, model)("Sum the numbers up to ten, and double the sum.")
    assert model.tool_names == ["sandbox_file_editor", "sandbox_shell"]
    created, first, replaced, listed, viewed, last = model.results
    assert "created successfully" in created
    assert "55\\nsum.py\\n" in first or "55\nsum.py\n" in first
    assert "has been edited" in replaced
    assert "sum.py" in listed
    assert "2 * sum(" in viewed
    assert "110" in last
    assert "110" in str(answer)
    assert asyncio.run(sandbox.read_text("sum.py")) == program.replace("sum(", "2 * sum(")


async def test_an_agent_sees_what_went_wrong(sandbox: IsorunSandbox) -> None:
    model = ScriptedModel(
        ("sandbox_shell", {"command": "echo partial; sleep 60", "timeout": 1}),
        ("sandbox_shell", {"command": "ls none"}),
        ("sandbox_file_editor", {"command": "view", "path": "/workspace/none"}),
        ("sandbox_shell", {"command": "echo still here"}),
    )
    await agent(sandbox, model).invoke_async("Try.")
    timed_out, failed, missing, last = model.results
    assert "timed out after 1 seconds" in timed_out
    assert "partial" in timed_out
    assert "No such file" in failed
    assert "does not exist" in missing
    assert "still here" in last


async def test_an_agent_sees_that_the_sandbox_is_gone(server: Any) -> None:
    async with IsorunSandbox("host") as sandbox:
        assert sandbox.id is not None
        await (await AsyncSandbox.connect(sandbox.id)).destroy()
        model = ScriptedModel(("sandbox_shell", {"command": "true"}))
        await agent(sandbox, model).invoke_async("Try.")
        assert "destroyed" in model.results[0]
        assert server.key not in model.results[0]


def test_the_sample_of_the_page(server: Any) -> None:
    page = (ROOT / "docs/integrations/strands.md").read_text("utf-8")
    (sample,) = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    assert 'model = "' in sample
    program = "print([n for n in range(2, 30) if all(n % d for d in range(2, n))])"
    model = ScriptedModel(("sandbox_shell", {"command": f"python3 -c '{program}'"}))
    # The page names a model of a provider; the test has no network.
    code = re.sub(r'^model = ".*$', "", sample, flags=re.M)
    printed: list[str] = []
    exec(code, {"model": model, "print": lambda value: printed.append(str(value))})
    assert "23, 29]" in printed[0]


def test_the_import_says_what_to_install() -> None:
    code = IMPORT_WITHOUT.format(missing=["strands"], module="isorun.integrations.strands")
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert 'pip install "isorun[strands]"' in done.stdout
