"""The files of a sandbox: operations of the host, errors, limits, copies, arguments."""

from __future__ import annotations

import errno
import pickle
from pathlib import Path
from typing import Any

import pytest

import isola
import isola.sync


async def test_host_and_guest_share_files(python: isola.SandboxTemplate) -> None:
    async with python.create() as sandbox:
        files = sandbox.files
        await files.write("data/in.bin", bytes(range(256)))
        await files.write("data/in.txt", "héllo")
        await sandbox.load_script(
            "import os\n"
            "def main():\n"
            "    with open('data/in.bin', 'rb') as file:\n"
            "        content = file.read()\n"
            "    with open('out.txt', 'w') as file:\n"
            "        file.write(open('data/in.txt', encoding='utf-8').read().upper())\n"
            "    os.chmod('out.txt', 0o640)\n"
            "    os.utime('out.txt', (5, 1.5))\n"
            "    os.symlink('out.txt', 'link')\n"
            "    return [len(content), os.getcwd()]\n"
        )
        assert await sandbox.run("main") == [256, "/root"]
        assert await files.read("data/in.bin") == bytes(range(256))
        assert await files.read_text("../root/link") == "HÉLLO"
        entries = await files.list()
        assert [(entry.name, entry.kind) for entry in entries] == [
            ("data", "directory"),
            ("link", "link"),
            ("out.txt", "file"),
        ]
        assert entries[2] == isola.FileEntry("out.txt", "file", 6, 0o640, 1.5)
        assert await files.stat("link") == isola.FileStat("file", 6, 0o640, 1.5)
        assert (await files.stat("/dev/null")).kind == "device"
        await files.make_dir("a/b/c")
        await files.rename("out.txt", "a/b/c/out.txt")
        assert await files.exists("a/b/c/out.txt")
        assert not await files.exists("out.txt")
        await files.remove("a")
        assert not await files.exists("a")
        for content in (bytearray(b"x"), memoryview(b"x"), b"x"):
            await files.write("x", content)
            assert await files.read("x") == b"x"


async def test_errors_are_those_of_the_operating_system(python: isola.SandboxTemplate) -> None:
    async with python.create(max_storage=1 << 20) as sandbox:
        files = sandbox.files
        await files.write("file", b"x")
        cases: list[tuple[Any, type[OSError], int, str]] = [
            (files.read("none"), FileNotFoundError, errno.ENOENT, "none"),
            (files.read("."), IsADirectoryError, errno.EISDIR, "."),
            (files.list("file"), NotADirectoryError, errno.ENOTDIR, "file"),
            (files.make_dir("file"), FileExistsError, errno.EEXIST, "file"),
            (files.write("file", bytes(2 << 20)), OSError, errno.ENOSPC, "file"),
            (files.write("x" * 300, b""), OSError, errno.ENAMETOOLONG, "x" * 300),
        ]
        for operation, kind, number, path in cases:
            with pytest.raises(kind) as caught:
                await operation
            error = caught.value
            assert isinstance(error, isola.FileError) and isinstance(error, isola.IsolaError)
            assert (error.code, error.errno, error.filename) == ("file", number, path)
            assert str(error).startswith(f'"{path}": ')
            copied = pickle.loads(pickle.dumps(error))
            assert type(copied) is type(error)
            assert (copied.errno, copied.filename, str(copied)) == (number, path, str(error))
        # What did not fit has changed nothing.
        assert await files.read("file") == b"x"
        wrong: list[tuple[Any, str]] = [
            (files.read(Path("x")), "path is PosixPath"),  # type: ignore[arg-type]
            (files.read("\udcff"), "without lone surrogates"),
            (files.write("x", 5), "content is a int"),  # type: ignore[arg-type]
            (files.rename("x", None), "new is None"),  # type: ignore[arg-type]
        ]
        for operation, why in wrong:
            with pytest.raises(isola.InvalidArgumentError, match=why):
                await operation


async def test_storage_is_limited_and_can_be_turned_off(python: isola.SandboxTemplate) -> None:
    fill = "def fill(): open('big', 'wb').write(bytes(2 << 20))\n"
    limited: list[dict[str, Any]] = [
        {"max_storage": 1 << 20},
        {"limits": isola.Limits(max_storage=1 << 20)},
    ]
    for options in limited:
        async with python.create(**options) as sandbox:
            await sandbox.load_script(fill)
            with pytest.raises(isola.GuestError, match="No space left|ENOSPC"):
                await sandbox.run("fill")
    template = await isola.build_template("python", max_storage=0)
    async with template.create() as sandbox:
        with pytest.raises(isola.FileError) as caught:
            await sandbox.files.write("x", b"")
        assert caught.value.errno == errno.EROFS
    async with template.create(max_storage=1 << 20) as sandbox:
        await sandbox.files.write("x", b"")
    with pytest.raises(isola.InvalidArgumentError, match="max_storage is -1: give a number of b"):
        isola.Limits(max_storage=-1)


async def test_copies_have_files_of_their_own(
    python: isola.SandboxTemplate, tmp_path: Path
) -> None:
    async with python.create() as sandbox:
        await sandbox.files.write("x", "before")
        [child] = await sandbox.fork()
        saved = tmp_path / "snapshot"
        await (await sandbox.snapshot()).save(saved)
        await sandbox.files.write("x", "after")
        async with child:
            assert await child.files.read_text("x") == "before"
        async with await python.restore(saved) as restored:
            assert await restored.evaluate("open('x').read()") == "before"


async def test_files_can_be_used_during_a_call_and_after_a_limit(
    python: isola.SandboxTemplate,
) -> None:
    started: list[bytes] = []

    async def saved(_: object) -> None:
        started.append(await sandbox.files.read("x"))
        await sandbox.files.write("y", b"from the host")

    async with python.create(hostcalls={"saved": saved}) as sandbox:
        await sandbox.evaluate(
            "from sandbox.asyncio import hostcall\n"
            "with open('x', 'w') as file: file.write('1')\n"
            "await hostcall('saved', None)\n"
            "assert open('y').read() == 'from the host'\n"
        )
        assert started == [b"1"]
        with pytest.raises(isola.LimitError):
            await sandbox.evaluate("while True: pass", cpu_timeout=0.05)
        assert sandbox.closed
        assert await sandbox.files.read("x") == b"1"
        sandbox.close()
        assert not await sandbox.files.exists("x")


async def test_program_has_arguments(
    python: isola.SandboxTemplate, javascript: isola.SandboxTemplate
) -> None:
    async with python.create(arguments=["a", "b c"]) as sandbox:
        await sandbox.load_script("import sys\nargv = sys.argv", name="main.py")
        assert await sandbox.evaluate("argv") == ["main.py", "a", "b c"]
        snapshot = await sandbox.snapshot()
    async with await python.restore(snapshot, arguments=["d"]) as sandbox:
        assert (await sandbox.evaluate("sys.argv"))[1:] == ["d"]  # type: ignore[index]
    async with javascript.create(arguments=("a",)) as sandbox:
        assert await sandbox.evaluate("scriptArgs") == ["a"]
    wrong: list[tuple[Any, str]] = [
        ("a", "arguments is 'a': give a list of strings"),
        ([1], r"arguments\[0\] is 1: give a string"),
        (["\0"], "contains a NUL"),
    ]
    for arguments, why in wrong:
        with pytest.raises(isola.InvalidArgumentError, match=why):
            async with python.create(arguments=arguments):
                pass


async def test_javascript_has_the_same_files(javascript: isola.SandboxTemplate) -> None:
    async with javascript.create() as sandbox:
        await sandbox.files.write("in.txt", "hello")
        await sandbox.evaluate("files.write('out.txt', files.read('in.txt', 'utf8') + '!')")
        assert await sandbox.files.read_text("out.txt") == "hello!"


def test_files_without_await() -> None:
    template = isola.sync.build_template("python")
    with template.create(max_storage=1 << 20) as sandbox:
        sandbox.files.write("a.txt", "hello")
        assert sandbox.evaluate("open('a.txt').read()") == "hello"
        assert [entry.name for entry in sandbox.files.list()] == ["a.txt"]
        with pytest.raises(FileNotFoundError):
            sandbox.files.read("b.txt")
