"""The pool of warm sandboxes, and the executor."""

from __future__ import annotations

import asyncio
import pathlib

import pytest

import isola


async def test_pool_provides_sandboxes_without_shared_state(python: isola.SandboxTemplate) -> None:
    async with isola.SandboxPool(
        python, 2, script="n = 0\ndef f():\n    global n\n    n += 1\n    return n", env={"A": "1"}
    ) as pool:
        assert pool.ready == 2
        async with pool.sandbox() as one, pool.sandbox() as two, pool.sandbox() as three:
            for sandbox in (one, two, three):
                # No state passes from one use to the next.
                assert await sandbox.run("f") == 1
        assert one.closed and three.closed
        await pool.warm()
        assert pool.ready == 2
    with pytest.raises(isola.SandboxClosedError, match="the pool is closed"):
        async with pool.sandbox():
            pass
    await pool.aclose()


async def test_a_pool_runs_its_script_once(python: isola.SandboxTemplate) -> None:
    script = (
        "import random\n"
        "drawn = random.random()\n"
        "def f(again): return random.random() if again else drawn\n"
    )
    async with isola.SandboxPool(python, 2, script=script) as pool:
        async with pool.sandbox() as one, pool.sandbox() as two:
            assert await one.run("f", False) == await two.run("f", False)
            assert await one.run("f", True) != await two.run("f", True)


async def test_pool_supports_guests_that_cannot_be_forked(
    python: isola.SandboxTemplate, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "note.txt").write_text("kept")
    script = "file = open('/data/note.txt')\ndef f(): return file.read()"
    mounts = [isola.MountConfig(str(tmp_path), "/data")]
    async with isola.SandboxPool(python, 2, script=script, mounts=mounts) as pool:
        for _ in range(3):
            async with pool.sandbox() as sandbox:
                assert await sandbox.run("f") == "kept"


async def test_errors_while_filling_a_pool_are_raised(python: isola.SandboxTemplate) -> None:
    with pytest.raises(isola.GuestError, match="^ZeroDivisionError"):
        async with isola.SandboxPool(python, 1, script="1 / 0"):
            pass
    with pytest.raises(isola.InvalidArgumentError, match="unknown option 'colour'"):
        async with isola.SandboxPool(python, 1, colour="red"):  # type: ignore[call-arg]
            pass
    with pytest.raises(isola.InvalidArgumentError, match="size is 0"):
        isola.SandboxPool(python, 0)


async def test_evaluate_returns_value_output_and_files(python: isola.SandboxTemplate) -> None:
    done = await isola.evaluate(
        "import csv, sys\n"
        "from sandbox.logging import info\n"
        "rows = list(csv.reader(open('/files/in/data.csv')))\n"
        "open('/files/out.txt', 'w').write(str(len(rows)))\n"
        "print('rows:', len(rows)); print('err', file=sys.stderr); info('noted')\n"
        "rows",
        files={"in/data.csv": "a,b\n1,2\n"},
        template=python,
    )
    assert done.ok and done.error is None
    assert done.value == [["a", "b"], ["1", "2"]]
    assert (done.stdout, done.stderr, done.logs) == ("rows: 2\n", "err\n", [("info", "noted")])
    assert done.files == {"in/data.csv": b"a,b\n1,2\n", "out.txt": b"2"}
    assert done.text().splitlines() == [
        "rows: 2",
        "err",
        "info: noted",
        "[['a', 'b'], ['1', '2']]",
        "files: in/data.csv, out.txt",
    ]


async def test_session_keeps_its_state(python: isola.SandboxTemplate) -> None:
    async with isola.Executor(python, cpu_timeout=0.5) as executor:
        assert (await executor.evaluate("x = 20")).value is None
        assert (await executor.evaluate("x + 1")).value == 21
        assert (await executor.evaluate("import asyncio\nawait asyncio.sleep(0, 5)")).value == 5
        assert (await executor.evaluate("(i for i in range(2))")).results == [0, 1]
        assert (await executor.evaluate("object")).value == "<class 'object'>"
        failed = await executor.evaluate("def f():\n    return 1 / 0\nf()")
        assert isinstance(failed.error, isola.GuestError)
        assert 'File "cell-6.py", line 2, in f' in str(failed.error)
        # The traceback does not contain the helper.
        assert "isola_evaluate" not in str(failed.error)
        syntax = await executor.evaluate("def f(:")
        assert str(syntax.error).startswith("SyntaxError: invalid syntax")
        assert (await executor.evaluate("x")).value == 20
        await executor.evaluate("open('/files/kept', 'w').write('1')")
        limited = await executor.evaluate("while True: pass")
        assert isinstance(limited.error, isola.LimitError)
        assert limited.error.code == "cpu_time_limit"
        # A new sandbox: the files are there, the variables are not.
        lost = await executor.evaluate("open('/files/kept').read() + str('x' in globals())")
        assert lost.value == "1False"
        await executor.reset()
        assert (await executor.evaluate("import os; os.listdir('/files')")).value == []


async def test_session_runs_javascript(javascript: isola.SandboxTemplate) -> None:
    async with isola.Executor(javascript) as executor:
        assert (await executor.evaluate("var x = 20; console.log('hi'); x + 1")).value == 21
        done = await executor.evaluate("Promise.resolve({ a: [x], b: undefined })")
        assert done.value == {"a": [20]}
        assert (await executor.evaluate("undefined")).value is None
        assert (await executor.evaluate("2n ** 64n")).value == 2**64
        assert (await executor.evaluate("Symbol('s')")).value == "Symbol(s)"
        failed = await executor.evaluate("nope()")
        assert str(failed.error).startswith("ReferenceError: nope is not defined")


async def test_files_of_a_guest_are_validated(python: isola.SandboxTemplate) -> None:
    async with isola.Executor(python, max_file_bytes=1000) as executor:
        for name in ("/etc/x", "../x", "a/../../x", "", "a\0b"):
            with pytest.raises(isola.InvalidArgumentError, match="is not a path below /files"):
                await executor.evaluate("1", files={name: b""})
        done = await executor.evaluate("open('/files/big', 'w').write('x' * 1001)")
        assert isinstance(done.error, isola.LimitError) and done.error.code == "output_limit"
        assert "more than 1000 bytes" in str(done.error)
        # Too many empty files are rejected, too.
        done = await executor.evaluate(
            "import os\nos.remove('/files/big')\n"
            "for n in range(10_001): open(f'/files/{n}', 'w').close()"
        )
        assert isinstance(done.error, isola.LimitError) and done.error.code == "output_limit"
        assert "more than 10000 files" in str(done.error)
        await executor.evaluate("for n in range(10_001): os.remove(f'/files/{n}')")
        # A link that points out of the directory is neither read nor written through.
        await executor.evaluate(
            "try:\n    os.symlink('elsewhere', '/files/link')\nexcept OSError: pass"
        )
        done = await executor.evaluate("1", files={"link": "mine"})
        assert done.files == {"link": b"mine"}
        with pytest.raises(isola.InvalidArgumentError, match="is not a directory"):
            await executor.evaluate("1", files={"link/x": b""})


async def test_evaluations_can_run_concurrently(python: isola.SandboxTemplate) -> None:
    done = await asyncio.gather(*(isola.evaluate(f"{n} * {n}", template=python) for n in range(8)))
    assert [each.value for each in done] == [n * n for n in range(8)]
