"""`isola.integrations.dspy` with the modules of DSPy, and a scripted model."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import dspy
import pydantic
import pytest
from dspy.primitives.code_interpreter import (
    CodeExecutionError,
    CodeInterpreter,
    CodeInterpreterError,
    FinalOutput,
)
from dspy.utils import DummyLM
from dspy.utils.callback import BaseCallback
from hostile import HOST_ENVIRONMENT, HOST_FILES, HOST_NETWORK, HOST_PROCESSES

import isola
import isola.sync
from isola.integrations.dspy import IsolaInterpreter


@pytest.fixture
def interpreter() -> Iterator[IsolaInterpreter]:
    with IsolaInterpreter() as interpreter:
        yield interpreter


def test_model_is_told_which_packages_there_are(interpreter: IsolaInterpreter) -> None:
    assert "such as numpy, are not" in interpreter.execution_instructions
    python = isola.sync.build_template("python")
    # The instructions depend on the name of the runtime alone.
    template = isola.SandboxTemplate(python._inner._native, "python-data")
    with IsolaInterpreter(template=template) as other:
        assert "numpy, pandas and other packages" in other.execution_instructions
        assert other.execute("1 + 1") == 2
    assert "such as numpy, are not" in IsolaInterpreter.execution_instructions


def failure(interpreter: IsolaInterpreter, code: str, **options: Any) -> str:
    with pytest.raises(CodeExecutionError) as caught:
        interpreter.execute(code, **options)
    return str(caught.value)


def ended(interpreter: IsolaInterpreter, code: str) -> str:
    """Returns the error of code that ends the session."""
    with pytest.raises(CodeInterpreterError) as caught:
        interpreter.execute(code)
    assert not isinstance(caught.value, CodeExecutionError)
    with pytest.raises(CodeInterpreterError, match="Create a new interpreter"):
        interpreter.execute("1")
    return str(caught.value)


def test_it_implements_the_protocol() -> None:
    interpreter = IsolaInterpreter()
    assert isinstance(interpreter, CodeInterpreter)
    # It starts by itself; starting again has no effect.
    assert interpreter.execute("x = 1\nx + 1") == 2
    interpreter.start()
    assert interpreter("x") == 1
    interpreter.shutdown()
    interpreter.shutdown()
    with pytest.raises(CodeInterpreterError, match="it was shut down"):
        interpreter.execute("x")
    with pytest.raises(CodeInterpreterError, match="it was shut down"):
        interpreter.start()


def test_results_are_the_last_value_or_the_output(interpreter: IsolaInterpreter) -> None:
    assert interpreter("print('a')\nprint('b')") == "a\nb"
    assert interpreter("x = 1") is None
    assert interpreter("print('a')\n[1, 2]") == [1, 2]
    assert interpreter("(1, {2})") == [1, [2]]
    assert interpreter("object()").startswith("<object object")
    assert interpreter("import asyncio\nawait asyncio.sleep(0.01)\n3") == 3
    # The interpreter of DSPy prints for `print` alone, so `None` has no text.
    assert interpreter("None") is None


def test_variables_are_globals(interpreter: IsolaInterpreter) -> None:
    class Model(pydantic.BaseModel):
        a: int
        b: list[str]

    @dataclasses.dataclass
    class Data:
        c: float

    variables = {"m": Model(a=1, b=["x"]), "d": Data(1.5), "t": (1, 2), "text": "é" * 1000}
    assert interpreter.execute("[m['b'], d['c'], t, len(text)]", variables) == [
        ["x"],
        1.5,
        [1, 2],
        1000,
    ]
    assert interpreter("m['a']") == 1
    # A context of many megabytes is what `RLM` is for.
    assert interpreter.execute("len(big)", {"big": "x" * (30 << 20)}) == 30 << 20
    for name in ("not a name", "class", "SUBMIT", "__builtins__"):
        with pytest.raises(CodeInterpreterError, match="cannot be the name of a variable"):
            interpreter.execute("1", {name: 1})
    with pytest.raises(CodeInterpreterError, match="has no form in JSON"):
        interpreter.execute("1", {"x": object()})
    interpreter.tools["t1"] = lambda: 1
    with pytest.raises(CodeInterpreterError, match="names of tools: t1"):
        interpreter.execute("1", {"t1": 1})
    assert interpreter("m['a']") == 1


def test_submit_returns_the_output_fields() -> None:
    with IsolaInterpreter() as interpreter:
        assert interpreter("SUBMIT(1 + 1)\nprint('after')") == FinalOutput({"output": 2})
        assert interpreter("SUBMIT(output=[1])") == FinalOutput({"output": [1]})
        assert "missing ['output']" in failure(interpreter, "SUBMIT()")
    fields = [{"name": "answer", "type": "str"}, {"name": "score"}]
    with IsolaInterpreter(output_fields=fields) as interpreter:
        both = FinalOutput({"answer": "a", "score": 2})
        assert interpreter("SUBMIT('a', 2)") == both
        assert interpreter("SUBMIT(score=2, answer='a')") == both
        source = "try:\n    SUBMIT('a', 2)\nexcept Exception:\n    pass"
        assert interpreter(source) == both
        assert "missing ['score']" in failure(interpreter, "SUBMIT('a')")
        assert "unknown ['x']" in failure(interpreter, "SUBMIT(answer=1, score=2, x=3)")
        assert "all by position" in failure(interpreter, "SUBMIT(1, 2, 3)")
        # `RLM` changes them between executions.
        interpreter.output_fields = [{"name": "other"}]
        assert interpreter("SUBMIT(3)") == FinalOutput({"other": 3})
        interpreter.output_fields = [{"name": "a"}, {"name": "a"}]
        with pytest.raises(CodeInterpreterError, match="different identifiers"):
            interpreter("1")


def test_tools_are_functions_of_the_code() -> None:
    def search(query: str, limit: int = 2) -> list[dict[str, Any]]:
        return [{"query": query, "rank": rank} for rank in range(limit)]

    async def later(n: int) -> int:
        await asyncio.sleep(0.01)
        return n + 1

    class Point(pydantic.BaseModel):
        x: int

    tools: dict[str, Callable[..., Any]] = {
        "search": search,
        "later": later,
        "point": lambda: Point(x=1),
        "nothing": lambda: None,
    }
    with IsolaInterpreter(tools) as interpreter:
        assert interpreter("search('a', limit=1)") == [{"query": "a", "rank": 0}]
        assert interpreter("len(search(query='b'))") == 2
        assert interpreter("later(41)") == 42
        assert interpreter("point()['x']") == 1
        assert interpreter("nothing() is None") is True
        # The dictionary may be changed between executions.
        interpreter.tools["added"] = lambda: "new"
        del interpreter.tools["nothing"]
        assert interpreter("added()") == "new"
        assert "NameError" in failure(interpreter, "nothing()")
        interpreter.tools["not a name"] = len
        with pytest.raises(CodeInterpreterError, match="cannot be the name of a tool"):
            interpreter("1")
    with pytest.raises(CodeInterpreterError, match="'SUBMIT' cannot be the name of a tool"):
        IsolaInterpreter({"SUBMIT": len})


def test_errors_of_tools_can_be_caught(interpreter: IsolaInterpreter) -> None:
    class StrangeError(Exception):
        pass

    def fail(kind: str) -> None:
        raise ValueError("no such thing") if kind == "value" else StrangeError("odd")

    interpreter.tools["fail"] = fail
    interpreter.tools["unsendable"] = object
    source = "try:\n    fail('value')\nexcept ValueError as error:\n    text = str(error)\ntext"
    assert interpreter(source) == "no such thing"
    message = failure(interpreter, "print('asking')\nfail('odd')")
    assert "StrangeError: odd" in message and "line 2" in message and "asking" in message
    assert "test_dspy" not in message
    assert "has no form in JSON" in failure(interpreter, "unsendable()")


def test_an_interrupt_in_a_tool_ends_the_session(interpreter: IsolaInterpreter) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    interpreter.tools["stop"] = stop
    with pytest.raises(KeyboardInterrupt):
        interpreter("stop()")
    with pytest.raises(CodeInterpreterError, match="half-way"):
        interpreter("1")


def test_errors_are_of_the_kinds_of_dspy(interpreter: IsolaInterpreter) -> None:
    interpreter("def f(n):\n    return 1 / n")
    message = failure(interpreter, "x = 1\nf(0)")
    assert message.startswith("ZeroDivisionError: division by zero")
    assert "line 2, in f" in message
    with pytest.raises(SyntaxError, match="Invalid Python syntax"):
        interpreter("x = (")
    assert "SystemExit" in failure(interpreter, "raise SystemExit")
    code: Any = 5
    with pytest.raises(CodeInterpreterError, match="code is a int"):
        interpreter(code)
    assert interpreter("x") == 1


def test_code_that_takes_too_long_can_be_repaired() -> None:
    with IsolaInterpreter(timeout=0.5) as interpreter:
        message = failure(interpreter, "x = 1\nprint('begun')\nwhile True: pass")
        assert "longer than 0.5 s" in message and "begun" in message
        assert "longer than 0.5 s" in failure(interpreter, "import time\ntime.sleep(60)")
        assert interpreter("x") == 1
        release = threading.Event()
        interpreter.tools["wait"] = lambda: release.wait(30)
        begun = time.monotonic()
        assert "longer than 0.5 s" in failure(interpreter, "wait()")
        assert time.monotonic() - begun < 10
        release.set()


def test_memory_that_runs_out_can_be_repaired() -> None:
    with IsolaInterpreter(max_memory=64 << 20) as interpreter:
        interpreter("x = 1")
        assert "MemoryError" in failure(
            interpreter, "y = []\nwhile True: y.append('x' * 1_000_000)"
        )
        assert interpreter("x") == 1


def test_other_limits_end_the_session() -> None:
    limits = isola.Limits(max_output_size=100_000)
    message = ended(IsolaInterpreter(limits=limits), "while True: print('x' * 1000)")
    assert "Print less" in message
    message = ended(IsolaInterpreter(cpu_timeout=0.3), "while True: pass")
    assert "check that loops end" in message
    assert "stopped" in ended(IsolaInterpreter(), "import os\nos._exit(1)")


def test_shutdown_stops_the_code() -> None:
    interpreter = IsolaInterpreter()
    interpreter("1")
    timer = threading.Timer(0.3, interpreter.shutdown)
    timer.start()
    begun = time.monotonic()
    with pytest.raises(CodeInterpreterError):
        interpreter("while True: pass")
    assert time.monotonic() - begun < 10
    timer.join()


def test_code_cannot_reach_the_host(
    interpreter: IsolaInterpreter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_OF_THE_HOST", "xyzzy")
    assert interpreter(HOST_FILES) == []
    assert "xyzzy" not in repr(interpreter(HOST_ENVIRONMENT))
    assert interpreter(HOST_PROCESSES) == 3
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.2)
        port = listener.getsockname()[1]
        assert interpreter(HOST_NETWORK.replace("PORT", str(port))) == 2
        with pytest.raises(TimeoutError):
            listener.accept()
    call = "from sandbox.asyncio import hostcall\nawait hostcall('isola.tool', X)"
    for name in ("invoke_tool", "__class__"):
        payload = repr({"name": name, "args": [], "kwargs": {}})
        assert interpreter(call.replace("X", payload))["error"]["type"] == "LookupError"


def test_interpreters_run_side_by_side(interpreter: IsolaInterpreter) -> None:
    results: dict[int, Any] = {}

    def work(n: int) -> None:
        with IsolaInterpreter({"double": lambda m: m * 2}) as own:
            own(f"x = {n}")
            results[n] = [own("double(x)") for _ in range(3)]

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert results == {n: [2 * n] * 3 for n in range(6)}
    interpreter.tools["again"] = lambda: interpreter("1")
    assert "is running other code" in failure(interpreter, "again()")


def test_callbacks_see_every_operation() -> None:
    seen: list[str] = []

    class Recorder(BaseCallback):
        def on_interpreter_startup_start(self, *args: Any, **kwargs: Any) -> None:
            seen.append("startup")

        def on_interpreter_execute_start(self, *args: Any, **kwargs: Any) -> None:
            seen.append("execute")

        def on_interpreter_tool_call_end(self, *args: Any, **kwargs: Any) -> None:
            seen.append("tool")

        def on_interpreter_shutdown_end(self, *args: Any, **kwargs: Any) -> None:
            seen.append("shutdown")

    with IsolaInterpreter({"one": lambda: 1}, callbacks=[Recorder()]) as interpreter:
        assert interpreter("one()") == 1
    assert seen == ["startup", "execute", "tool", "shutdown"]


def code(source: str) -> dict[str, str]:
    return {"reasoning": "I write code.", "code": f"```python\n{source}\n```"}


def test_rlm_explores_repairs_and_submits() -> None:
    lm = DummyLM(
        [
            code("words = context.split()\nprint(len(words))"),
            code("wrong"),
            code("while True: pass"),
            code("found = [w for w in words if w.isdigit()]\nprint(lookup(found[0]))"),
            code("SUBMIT(lookup(found[0]))"),
        ]
    )
    sub_lm = DummyLM([{"answer": "unused"}])

    def lookup(number: str) -> str:
        """Looks a number up."""
        return f"magic-{number}"

    factory = partial(IsolaInterpreter, timeout=1)
    rlm = dspy.RLM(
        "context, query -> answer", tools=[lookup], sub_lm=sub_lm, interpreter_factory=factory
    )
    with dspy.context(lm=lm):
        result = rlm(context="foo " * 10_000 + "4711 bar", query="What is the number?")
    assert result.answer == "magic-4711"
    outputs = [entry["output"] for entry in result.trajectory]
    assert outputs[0].strip() == "10002"
    assert "NameError" in outputs[1]
    assert "longer than 1 s" in outputs[2]
    assert outputs[3].strip() == "magic-4711"


def test_rlm_calls_sub_models_and_sub_agents() -> None:
    lm = DummyLM(
        [
            code(
                "import dspy\n"
                "parts = llm_query_batched(['a?', 'b?'])\n"
                "answer = dspy.Predict('question -> answer')(question='c?').answer\n"
                "SUBMIT(f'{len(parts)} {answer}')"
            ),
        ]
    )
    sub_lm = DummyLM([{"answer": "one"}, {"answer": "two"}, {"answer": "three"}])
    rlm = dspy.RLM("query -> answer", sub_lm=sub_lm, interpreter_factory=IsolaInterpreter)
    with dspy.context(lm=lm):
        assert rlm(query="?").answer == "2 three"


def test_program_of_thought_runs_code() -> None:
    lm = DummyLM(
        [
            {"reasoning": "r", "generated_code": "```python\nSUBMIT({'answer': 1 / 0})\n```"},
            {"reasoning": "r", "generated_code": "```python\nSUBMIT({'answer': 6 * 7})\n```"},
            {"reasoning": "r", "answer": "42"},
        ]
    )
    with dspy.context(lm=lm, interpreter_factory=IsolaInterpreter):
        assert dspy.ProgramOfThought("question -> answer")(question="6 * 7?").answer == "42"


def test_code_act_calls_functions() -> None:
    lm = DummyLM(
        [
            {
                "reasoning": "r",
                "generated_code": "```python\nprint(factorial(5))\n```",
                "finished": True,
            },
            {"reasoning": "r", "answer": "120"},
        ]
    )
    act = dspy.CodeAct("n -> answer", tools=[factorial], interpreter_factory=IsolaInterpreter)
    with dspy.context(lm=lm):
        result = act(n=5)
    assert result.answer == "120"
    assert "120" in str(result.trajectory)


def factorial(n: int) -> int:
    """Returns the factorial of n."""
    return 1 if n < 2 else n * factorial(n - 1)


def test_the_import_says_what_to_install(without: Callable[[str, str], str]) -> None:
    error = without("isola.integrations.dspy", "dspy")
    assert 'pip install "isola[dspy]"' in error and "ImportError" in error


def test_the_samples_of_the_page_run(run_page: Callable[[str, Path], int], tmp_path: Path) -> None:
    assert run_page("dspy.md", tmp_path) >= 1
