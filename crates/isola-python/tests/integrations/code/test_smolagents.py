"""`isola.integrations.smolagents` with the agents and tools of smolagents."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
from hostile import HOST_ENVIRONMENT, HOST_FILES, HOST_NETWORK, HOST_PROCESSES
from smolagents import ChatMessage, CodeAgent, FinalAnswerTool, MessageRole, Model, Tool, tool
from smolagents.local_python_executor import InterpreterError, PythonExecutor

import isola
from isola.integrations.smolagents import IsolaPythonExecutor


@pytest.fixture
def executor(python: isola.SandboxTemplate) -> Iterator[IsolaPythonExecutor]:
    with IsolaPythonExecutor(template=python) as executor:
        yield executor


@tool
def price(name: str) -> int:
    """Returns the price of a fruit.

    Args:
        name: The name of the fruit.
    """
    prices = {"apple": 3, "pear": 5}
    if name not in prices:
        raise KeyError(name)
    return prices[name]


def failure(executor: PythonExecutor, source: str) -> str:
    with pytest.raises(InterpreterError) as caught:
        executor(source)
    return str(caught.value)


def test_steps_share_variables_functions_and_files(executor: IsolaPythonExecutor) -> None:
    assert isinstance(executor, PythonExecutor)
    assert executor("x = 20\ndef double(n): return n * 2\nopen('f', 'w').write('kept')").output == 4
    done = executor("print('hello')\nprint('world')\ndouble(x) + 2")
    assert (done.output, done.logs, done.is_final_answer) == (42, "hello\nworld\n", False)
    assert executor("open('f').read()").output == "kept"
    assert executor("y = 1").output is None
    assert executor("import asyncio\nawait asyncio.sleep(0.01)\n'slept'").output == "slept"
    assert executor("class A:\n    pass\nA()").output.startswith("<__main__.A object")
    assert executor("(1, {2, 3}, b'4', {5: 6})").output == (1, {2, 3}, b"4", {5: 6})


def test_tools_run_here_with_arguments_by_position_and_name(executor: IsolaPythonExecutor) -> None:
    threads = []

    class Where(Tool):
        name = "where"
        description = "Returns its arguments."
        inputs = {
            "a": {"type": "any", "description": "anything"},
            "b": {"type": "any", "description": "anything", "nullable": True},
        }
        output_type = "any"

        def forward(self, a: Any, b: Any = None) -> Any:
            threads.append(threading.current_thread().name)
            return [a, b]

    executor.send_tools({"price": price, "where": Where()})
    assert executor("price('apple') + price(name='pear')").output == 8
    assert executor("where((1, 2), b={3})").output == [(1, 2), {3}]
    assert executor("[where(i)[0] for i in range(3)]").output == [0, 1, 2]
    assert set(threads) == {"isola-tool"}
    # A tool may be called in a coroutine of the code, and survives an assignment.
    source = (
        "import asyncio\nasync def f(): return price('pear')\nr = asyncio.run(f())\nprice = 0\nr"
    )
    assert executor(source).output == 5
    assert executor("price('apple')").output == 3
    executor.send_tools({"where": Where()})
    assert "NameError: name 'price' is not defined" in failure(executor, "price('apple')")


def test_errors_of_tools_can_be_caught(executor: IsolaPythonExecutor) -> None:
    executor.send_tools({"price": price})
    source = "try:\n    price('plum')\nexcept KeyError as error:\n    caught = str(error)\ncaught"
    assert "plum" in executor(source).output
    message = failure(executor, "print('asking')\nprice('plum')")
    assert "KeyError" in message and "line 2" in message and "price('plum')" in message
    assert "test_smolagents" not in message
    assert executor.state["_print_outputs"] == "asking\n"
    assert "TypeError" in failure(executor, "price(1, 2, 3)")
    assert "cannot leave the sandbox" in failure(executor, "price(object())")


def test_additional_functions_may_be_asynchronous(python: isola.SandboxTemplate) -> None:
    async def later(n: int) -> int:
        await asyncio.sleep(0.01)
        return n + 1

    functions = {"later": later}
    with IsolaPythonExecutor(additional_functions=functions, template=python) as executor:
        assert executor("later(41)").output == 42
        executor.send_tools({"price": price})
        assert executor("later(price('apple'))").output == 4


def test_final_answer_ends_the_step(executor: IsolaPythonExecutor) -> None:
    executor.send_tools({"final_answer": FinalAnswerTool(), "price": price})
    done = executor("print('a')\nfinal_answer(price('apple'))\nprint('b')")
    assert (done.output, done.logs, done.is_final_answer) == (3, "a\n", True)
    # As in smolagents, `except Exception` does not catch it.
    source = "try:\n    final_answer(answer=(1, 2))\nexcept Exception:\n    pass"
    assert executor(source).output == (1, 2)
    assert "cannot leave the sandbox" in failure(executor, "final_answer(lambda: 1)")

    class Checked(FinalAnswerTool):
        def forward(self, answer: Any) -> Any:
            if answer != "yes":
                raise ValueError("the answer must be 'yes'")
            return answer.upper()

    executor.send_tools({"final_answer": Checked()})
    assert "the answer must be 'yes'" in failure(executor, "final_answer('no')")
    done = executor("final_answer('yes')")
    assert (done.output, done.is_final_answer) == ("YES", True)
    # Code cannot give an answer that the tool has not seen.
    forged = (
        "from sandbox.asyncio import hostcall\n"
        "await hostcall('isola.outcome', {'kind': 'final', 'value': 'no'})\n"
        "import sys\nsys.modules['_isola_cells'].run = lambda coroutine: coroutine.close()"
    )
    assert "no valid outcome" in failure(executor, forged)


def test_objects_without_a_json_form_pass_by_reference(executor: IsolaPythonExecutor) -> None:
    image = PIL.Image.new("RGB", (3, 2))

    class Draw(Tool):
        name = "draw"
        description = "Draws an image."
        inputs: dict[str, Any] = {}
        output_type = "image"

        def forward(self) -> Any:
            return PIL.Image.new("RGB", (7, 5))

    class Width(Tool):
        name = "width"
        description = "Returns the width of an image."
        inputs = {"image": {"type": "image", "description": "an image"}}
        output_type = "integer"

        def forward(self, image: Any) -> int:
            return int(image.width)

    tools = {"draw": Draw(), "width": Width(), "final_answer": FinalAnswerTool()}
    executor.send_tools(tools)
    executor.send_variables({"given": image})
    assert executor("drawn = draw()\n[width(given), width(drawn)]").output == [3, 7]
    assert "PIL.Image" in executor("repr(given)").output
    assert "can only be passed to tools" in failure(executor, "given.width")
    assert executor("given").output is image
    done = executor("final_answer(drawn)")
    assert done.output.size == (7, 5) and done.is_final_answer
    # The guest cannot name objects that it was not given.
    forged = "import sys\nsys.modules['_isola_cells'].HostObject(999, 'Image', 'x')"
    assert "no longer exists" in failure(executor, forged)


def test_variables_of_the_agent(executor: IsolaPythonExecutor) -> None:
    executor.send_variables({"rows": [{"n": 1}, {"n": 2}], "pair": (1, 2)})
    assert executor("rows.append({'n': 3})\nsum(r['n'] for r in rows), pair").output == (6, (1, 2))
    # They are sent once, so that code can change them.
    assert executor("len(rows)").output == 3
    executor.send_variables({"rows": []})
    assert executor("len(rows)").output == 0
    names: Any = {1: 2}
    with pytest.raises(isola.InvalidArgumentError, match="not a string"):
        executor.send_variables(names)


def test_authorized_imports(python: isola.SandboxTemplate) -> None:
    with IsolaPythonExecutor(template=python) as executor:
        assert executor("import os, json, sqlite3\nos.sep").output == "/"
    with IsolaPythonExecutor(["json", "xml.*"], template=python) as executor:
        assert (
            executor("import json, math, re, xml.dom\njson.dumps([math.pi > 3])").output == "[true]"
        )
        message = failure(executor, "import os\nos.listdir()")
        # The agent recognizes this sentence, and tells its user what to do.
        assert "Import of os is not allowed" in message and "line 1" in message
        assert "json" in message
        source = "try:\n    import os\nexcept ImportError:\n    r = 'refused'\nr"
        assert executor(source).output == "refused"
        assert "Import of os is not allowed" in failure(executor, "__import__('os')")
        # What the modules import themselves is their own affair.
        assert executor("import statistics\nstatistics.mean([1, 3])").output == 2
    with IsolaPythonExecutor(["*"], template=python) as executor:
        assert executor("import os\nos.sep").output == "/"
    for modules in (["numpy"], ["math", "numpy.*"]):
        with pytest.raises(InterpreterError, match="Non-installed authorized modules: numpy"):
            IsolaPythonExecutor(modules, template=python)
    text: Any = "json"
    with pytest.raises(isola.InvalidArgumentError, match="give a list"):
        IsolaPythonExecutor(text)


def test_errors_name_the_line(executor: IsolaPythonExecutor) -> None:
    executor("def f(n):\n    return 1 / n")
    message = failure(executor, "x = 1\nf(0)")
    assert "ZeroDivisionError: division by zero" in message
    assert "line 2, in f\n    return 1 / n" in message and "f(0)" in message
    assert "SyntaxError" in failure(executor, "x = (")
    assert "SystemExit" in failure(executor, "raise SystemExit(3)")
    assert executor("x").output == 1


def test_a_step_that_takes_too_long_keeps_its_variables(python: isola.SandboxTemplate) -> None:
    with IsolaPythonExecutor(timeout_seconds=0.5, template=python) as executor:
        executor("x = 1")
        message = failure(executor, "print('begun')\nx = 2\nwhile True: pass")
        assert "maximum execution time of 0.5 seconds" in message and "are kept" in message
        assert executor.state["_print_outputs"] == "begun\n"
        assert executor("x").output == 2
        assert "maximum execution time" in failure(executor, "import time\ntime.sleep(60)")
        # A tool that does not return is left alone.
        release = threading.Event()
        executor.send_tools({"wait": release.wait})
        begun = time.monotonic()
        assert "maximum execution time" in failure(executor, "wait(30)")
        assert time.monotonic() - begun < 10
        release.set()
        assert executor("x").output == 2


def test_after_a_fatal_limit_the_next_step_has_tools_and_variables(
    python: isola.SandboxTemplate,
) -> None:
    limits = isola.Limits(max_output_size=100_000)
    with IsolaPythonExecutor(template=python, cpu_timeout=0.5, limits=limits) as executor:
        executor.send_tools({"price": price})
        executor.send_variables({"given": [1]})
        executor("x = 1")
        message = failure(executor, "while True: pass")
        assert "check that loops end" in message and "variables" in message and "lost" in message
        assert executor("(price('apple'), given)").output == (3, [1])
        assert "NameError" in failure(executor, "x")
        message = failure(executor, "while True: print('x' * 1000)")
        assert "Print less" in message
        assert len(executor.state["_print_outputs"]) < 60_000
        assert "stopped" in failure(executor, "import os\nos._exit(1)")
        assert executor("given").output == [1]


def test_memory_that_runs_out_is_an_exception(python: isola.SandboxTemplate) -> None:
    with IsolaPythonExecutor(template=python, max_memory=64 << 20) as executor:
        executor("x = 1")
        message = failure(executor, "y = []\nwhile True: y.append('x' * 1_000_000)")
        assert "MemoryError" in message
        assert executor("x").output == 1


def test_long_output_is_truncated(python: isola.SandboxTemplate) -> None:
    with IsolaPythonExecutor(max_print_outputs_length=100, template=python) as executor:
        done = executor("print('a' * 1000)\nprint('end')")
        assert len(done.logs) < 250 and "truncated" in done.logs
        assert done.logs.startswith("aaaa") and done.logs.endswith("end\n")


def test_code_cannot_reach_the_host(
    executor: IsolaPythonExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_OF_THE_HOST", "xyzzy")
    assert executor(HOST_FILES).output == []
    assert "xyzzy" not in repr(executor(HOST_ENVIRONMENT).output)
    assert executor(HOST_PROCESSES).output == 3
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.2)
        port = listener.getsockname()[1]
        assert executor(HOST_NETWORK.replace("PORT", str(port))).output == 2
        with pytest.raises(TimeoutError):
            listener.accept()
    call = "from sandbox.asyncio import hostcall\nawait hostcall('isola.tool', X)"
    for name in ("__import__", "_call_tool", "price"):
        payload = repr({"name": name, "args": [], "kwargs": {}})
        assert executor(call.replace("X", payload)).output["error"]["type"] == "LookupError"
    forged = {"$isola": "reference", "value": 1}
    payload = repr({"name": "price", "args": [forged], "kwargs": {}})
    executor.send_tools({"price": price})
    assert executor(call.replace("X", payload)).output["error"]["type"] == "ValueError"


def test_executors_run_side_by_side(python: isola.SandboxTemplate) -> None:
    results: dict[int, list[Any]] = {}

    def work(n: int) -> None:
        with IsolaPythonExecutor(template=python) as executor:
            executor.send_tools({"price": price})
            executor(f"x = {n}")
            results[n] = [executor("x + price('apple')").output for _ in range(3)]

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert results == {n: [n + 3] * 3 for n in range(8)}


def test_an_executor_runs_one_step_at_a_time(executor: IsolaPythonExecutor) -> None:
    def again() -> Any:
        return executor("1").output

    executor.send_tools({"again": again})
    assert "running other code" in failure(executor, "again()")


def test_cleanup_stops_the_step(python: isola.SandboxTemplate) -> None:
    executor = IsolaPythonExecutor(template=python)
    executor("1")
    timer = threading.Timer(0.3, executor.cleanup)
    timer.start()
    begun = time.monotonic()
    assert "stopped" in failure(executor, "while True: pass")
    assert time.monotonic() - begun < 10
    timer.join()
    assert "closed" in failure(executor, "1")
    executor.cleanup()


def test_an_interrupt_in_a_tool_reaches_the_caller(executor: IsolaPythonExecutor) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    executor.send_tools({"stop": stop})
    with pytest.raises(KeyboardInterrupt):
        executor("stop()")
    assert executor("1").output == 1


def test_ctrl_c_stops_the_step(
    executor: IsolaPythonExecutor, request: pytest.FixtureRequest
) -> None:
    # A process that was started in the background of a shell ignores the signal.
    earlier = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, earlier))
    executor("1")
    main = threading.main_thread().ident
    assert main is not None
    timer = threading.Timer(0.3, signal.pthread_kill, (main, signal.SIGINT))
    timer.start()
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        executor("while True: pass")
    assert time.monotonic() - begun < 10
    timer.join()
    assert executor("2").output == 2


class ScriptedModel(Model):
    """A model that gives prepared answers, and records what it was shown."""

    def __init__(self, *answers: str) -> None:
        super().__init__(model_id="scripted")
        self.answers = list(answers)
        self.shown: list[str] = []

    def generate(self, messages: list[ChatMessage], *args: Any, **kwargs: Any) -> ChatMessage:
        self.shown.append(str([message.content for message in messages]))
        return ChatMessage(role=MessageRole.ASSISTANT, content=self.answers.pop(0))


def step(code: str) -> str:
    return f"Thought: I write code.\n<code>\n{code}\n</code>"


def test_an_agent_solves_a_task(python: isola.SandboxTemplate) -> None:
    model = ScriptedModel(
        step("prices = {name: price(name) for name in names}\nprint(prices)"),
        step("total = sum(prices.values())\ntotal / 0"),
        step("import os"),
        step("print(total)\nfinal_answer({'total': total, 'names': names})"),
    )
    executor = IsolaPythonExecutor([], template=python)
    with CodeAgent(tools=[price], model=model, executor=executor, verbosity_level=0) as agent:
        answer = agent.run("What do the fruits cost?", additional_args={"names": ["apple", "pear"]})
        assert answer == {"total": 8, "names": ["apple", "pear"]}
        assert "{'apple': 3, 'pear': 5}" in model.shown[1]
        assert "ZeroDivisionError" in model.shown[2]
        assert "Import of os is not allowed" in model.shown[3]
        assert not model.answers
        # A second run continues with the state of the first.
        model.answers = [step("final_answer(total + 1)")]
        assert agent.run("One more?", reset=False) == 9
    assert "closed" in failure(executor, "1")


def test_a_managed_agent_is_a_function(python: isola.SandboxTemplate) -> None:
    with (
        IsolaPythonExecutor(template=python) as inner,
        IsolaPythonExecutor(template=python) as outer,
    ):
        helper = CodeAgent(
            tools=[price],
            model=ScriptedModel(step("final_answer(price('pear'))")),
            executor=inner,
            name="helper",
            description="Knows prices.",
            verbosity_level=0,
        )
        model = ScriptedModel(
            step("answer = helper(task='the price of a pear')\nfinal_answer(answer)")
        )
        agent = CodeAgent(
            tools=[], model=model, executor=outer, managed_agents=[helper], verbosity_level=0
        )
        assert "5" in str(agent.run("What does a pear cost?"))


def test_the_import_says_what_to_install(without: Callable[[str, str], str]) -> None:
    error = without("isola.integrations.smolagents", "smolagents")
    assert 'pip install "isola[smolagents]"' in error and "ImportError" in error


def test_the_samples_of_the_page_run(run_page: Callable[[str, Path], int], tmp_path: Path) -> None:
    assert run_page("smolagents.md", tmp_path) >= 1
