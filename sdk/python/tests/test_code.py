"""`run_code` and contexts, with the cells of a notebook, against real sandboxes."""

from __future__ import annotations

import asyncio
import base64
import struct
import zlib
from collections.abc import Iterator

import pytest

from isorun import (
    AsyncSandbox,
    Context,
    Execution,
    ExecutionError,
    IsorunError,
    Logs,
    Result,
    Sandbox,
)

PNG_HEADER = b"\x89PNG\r\n\x1a\n"


def picture(result: Result) -> tuple[int, int, list[bytes]]:
    """Decodes a PNG with four bytes for each pixel. Returns its width, height and rows."""
    assert result.png is not None, result
    data = base64.b64decode(result.png, validate=True)
    assert data.startswith(PNG_HEADER)
    at, width, height, packed = len(PNG_HEADER), 0, 0, b""
    while at < len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        body = data[at + 8 : at + 8 + length]
        if kind == b"IHDR":
            width, height, depth, colours = struct.unpack(">IIBB", body[:10])
            assert (depth, colours) == (8, 6)
        elif kind == b"IDAT":
            packed += body
        at += 12 + length
    raw, stride = zlib.decompress(packed), width * 4
    rows: list[bytes] = []
    before = bytearray(stride)
    for number in range(height):
        start = number * (stride + 1)
        row = bytearray(raw[start + 1 : start + 1 + stride])
        for i in range(stride):
            left = row[i - 4] if i >= 4 else 0
            up, corner = before[i], before[i - 4] if i >= 4 else 0
            guess = left + up - corner
            paeth = min((left, up, corner), key=lambda value: abs(guess - value))
            row[i] = (row[i] + (0, left, up, (left + up) // 2, paeth)[raw[start]]) & 255
        rows.append(bytes(row))
        before = row
    return width, height, rows


def colours(rows: list[bytes]) -> set[bytes]:
    return {row[i : i + 3] for row in rows for i in range(0, len(row), 4)}


@pytest.fixture(params=["ipykernel", "runner"])
def sandbox(request: pytest.FixtureRequest, notebook: str) -> Iterator[Sandbox]:
    """A sandbox of the notebook image, with and without a kernel."""
    with Sandbox(notebook, mem_mib=2048, timeout=120) as sb:
        if request.param == "runner":
            sb.exec("python3 -c 'import ipykernel, shutil; shutil.rmtree(ipykernel.__path__[0])'")
        yield sb
        kernel = "python3" if request.param == "ipykernel" else "python"
        assert [context.kernel for context in sb.contexts.list()] == [kernel]


def test_cells_of_a_notebook(sandbox: Sandbox) -> None:
    sb = sandbox
    sb.run_code("import matplotlib.pyplot as plt\nimport pandas as pd\nimport asyncio, os, time")
    table = sb.run_code("df = pd.DataFrame({'n': [1, 2, 3], 'square': [1, 4, 9]})\ndf")
    assert table.error is None and table.text is not None and "square" in table.text
    (main,) = table.results
    assert main.html is not None and "<table" in main.html
    assert main.json["columns"] == ["n", "square"]
    assert main.json["data"] == [[1, 1], [2, 4], [3, 9]]

    plot = sb.run_code(
        "plt.figure(figsize=(4, 3), dpi=50)\n"
        "plt.plot(df['n'], df['square'], color='#ff0000', linewidth=4)\n"
        "plt.title('Squares')\nprint('drawn')"
    )
    assert plot.error is None and plot.logs.stdout == ["drawn\n"]
    pictures = [result for result in plot.results if result.png]
    assert len(pictures) == 1, plot
    width, height, rows = picture(pictures[0])
    assert 150 <= width <= 250 and 110 <= height <= 200, (width, height)
    found = colours(rows)
    assert b"\xff\x00\x00" in found and b"\xff\xff\xff" in found
    chart = pictures[0].chart
    assert chart["type"] == "line" and chart["title"] == "Squares"
    assert chart["series"][0]["points"] == [[1, 1], [2, 4], [3, 9]]

    shown = sb.run_code("plt.bar(['a', 'b'], [1, 2]); plt.show(); print('after'); 'end'")
    assert [bool(result.png) for result in shown.results] == [True, False]
    assert shown.text == "'end'" and shown.logs.stdout == ["after\n"]

    failed = sb.run_code("def f():\n    return df['missing']\nf()")
    assert failed.error is not None and failed.error.name == "KeyError"
    assert "missing" in failed.error.value and "Traceback" in failed.error.traceback
    assert sb.run_code("await asyncio.sleep(0.01)\nlen(df)").text == "3"

    long = sb.run_code("for n in range(20_000): print(n)\nos.system('echo child')")
    lines = "".join(long.logs.stdout).splitlines()
    assert lines[:2] == ["0", "1"] and lines[-2:] == ["19999", "child"] and len(lines) == 20_001

    for code in ("while True: pass", "time.sleep(60)", "await asyncio.sleep(60)"):
        stopped = sb.run_code(code, timeout=0.5)
        assert stopped.error is not None and stopped.error.name == "TimeoutError", code
        assert sb.run_code("len(df)").text == "3", code

    huge = sb.run_code("plt.figure(figsize=(400, 400), dpi=100); plt.plot([1, 2])")
    assert not any(result.png for result in huge.results)
    assert "megapixels" in str([result.metadata for result in huge.results])

    sb.hibernate()
    sb.resume()
    assert sb.run_code("df['square'].sum()").text in ("14", "np.int64(14)")
    (copy,) = sb.fork()
    with copy:
        copy.run_code("df = None")
        again = copy.run_code("plt.plot([3, 1]); None")
        assert any(result.png for result in again.results)
    assert sb.run_code("len(df)").text == "3"


def test_missed_interrupt_is_repeated(sandbox: Sandbox) -> None:
    sandbox.run_code("import signal, threading, time; kept = 5")
    # Another thread receives the signal, and this one continues to wait.
    code = """
threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
try:
    time.sleep(60)
finally:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
"""
    error = sandbox.run_code(code, timeout=0.5).error
    assert error is not None and error.name == "TimeoutError"
    assert sandbox.run_code("kept").text == "5"


def test_shell_and_magic_commands(sandbox: Sandbox) -> None:
    def stdout(code: str) -> str:
        execution = sandbox.run_code(code)
        assert execution.error is None, execution.error
        return "".join(execution.logs.stdout).replace("\r\n", "\n")

    assert stdout("x = 2\n!echo a {x + 1} $x") == "a 3 2\n"
    assert sandbox.run_code("lines = !printf 'b\\nc\\n'\nlist(lines)").text == "['b', 'c']"
    assert stdout("%cd /tmp\n%matplotlib inline") == "/tmp\n"
    assert sandbox.run_code("%pwd").text == "'/tmp'"
    assert stdout("%env SHOWN=5\n!echo $SHOWN") == "env: SHOWN=5\n5\n"
    assert stdout("%%writefile f.txt\none\ntwo") == "Writing f.txt\n"
    lines = stdout('%%bash\nwhile read line; do echo "<$line>"; done < f.txt')
    assert lines == "<one>\n<two>\n"
    assert "Wall time" in stdout("%%time\nx = 3")
    assert sandbox.run_code("!exit 3\n_exit_code").text == "3"
    failed = sandbox.run_code("%nothing").error
    assert failed is not None and failed.name == "UsageError"
    stopped = sandbox.run_code("!while :; do :; done", timeout=0.5).error
    assert stopped is not None and stopped.name == "TimeoutError"
    assert sandbox.run_code("x").text == "3"


def test_magic_commands_run_in_a_kernel(notebook: str) -> None:
    with Sandbox(notebook, mem_mib=2048, timeout=120) as sb:
        assert sb.run_code("files = !echo one two\nfiles[0]").text == "'one two'"
        assert sb.exec("ls -A /tmp").stdout == ""
        killed = sb.run_code("import os; os._exit(3)")
        assert killed.error is not None and killed.error.name == "ContextDied"
        assert "code 3" in killed.error.value
        ordered: list[str] = []
        sb.run_code(
            "for n in range(3):\n    print('out', n)\n    display(n)",
            on_stdout=lambda text: ordered.append(text.strip()),
            on_result=lambda result: ordered.append(str(result.text)),
        )
        assert ordered == ["out 0", "0", "out 1", "1", "out 2", "2"]


def test_results_and_callbacks() -> None:
    with Sandbox("host") as sb:
        heard: list[object] = []
        code = "print('a')\ndisplay({'text/html': '<i>b</i>'}, raw=True)\nundefined"
        execution = sb.run_code(
            code, on_stdout=heard.append, on_result=heard.append, on_error=heard.append
        )
        html = Result({"text/html": "<i>b</i>"})
        assert heard[:2] == ["a\n", html] and isinstance(heard[2], ExecutionError)
        assert execution == Execution([html], Logs(["a\n"]), heard[2], 1)
        assert html.html == "<i>b</i>" and html.text is None and html.formats() == ["text/html"]
        assert html._repr_mimebundle_() == ({"text/html": "<i>b</i>"}, {})
        assert execution.text is None and "NameError" in execution.to_json()
        assert sb.run_code(code).results == [html]

        def fail(_: str) -> None:
            raise LookupError

        with pytest.raises(LookupError):
            sb.run_code("print(1)\nimport time; time.sleep(60)", on_stdout=fail)


def test_contexts_are_created_restarted_and_removed() -> None:
    with Sandbox("host") as sb:
        script = sb.contexts.create("javascript")
        assert script == Context(script.id, "javascript", kernel="node")
        sb.run_code("let n = 3", context=script)
        assert sb.run_code("n * 2", context=script.id).text == "6"
        assert sb.contexts.restart(script).execution_count == 0
        missing = sb.run_code("n", context=script).error
        assert missing is not None and missing.name == "ReferenceError"
        sb.contexts.interrupt(script)
        sb.contexts.remove(script)
        assert sb.contexts.list() == []
        with pytest.raises(IsorunError, match="create one") as caught:
            sb.run_code("1", context=script)
        assert (caught.value.code, caught.value.kind) == (404, "context_not_found")
        with pytest.raises(IsorunError, match="Jupyter kernel") as caught:
            sb.run_code("1", language="julia")
        assert caught.value.kind == "language_not_available"


async def test_asynchronous_contexts_run_at_the_same_time() -> None:
    async with AsyncSandbox("host") as sb:
        contexts = await asyncio.gather(*(sb.contexts.create() for _ in range(3)))
        code = "import time; time.sleep(0.3); n = {}; n"
        runs = (sb.run_code(code.format(n), context=c) for n, c in enumerate(contexts))
        executions = await asyncio.gather(*runs)
        assert [execution.text for execution in executions] == ["0", "1", "2"]
        heard: list[str] = []

        async def listen(text: str) -> None:
            heard.append(text)

        await sb.run_code("print('x')", context=contexts[0], on_stdout=listen)
        assert heard == ["x\n"]
        cell = asyncio.ensure_future(sb.run_code("time.sleep(60)", context=contexts[0], timeout=0))
        while contexts[0].id not in {c.id for c in await sb.contexts.list() if c.status == "busy"}:
            assert not cell.done()
        await sb.contexts.interrupt(contexts[0])
        error = (await cell).error
        assert error is not None and error.name == "KeyboardInterrupt"
        assert (await sb.run_code("n", context=contexts[0])).text == "0"
