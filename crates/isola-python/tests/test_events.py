"""Events of a call, and stream arguments."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing

import pytest

import isola
from isola import StreamArg

CONSUMERS = """
def total(xs):
    return sum(xs)

async def async_total(xs, factor=1):
    total = 0
    async for x in xs:
        total += x
    return total * factor

def first(xs):
    return next(iter(xs))

def collected(xs):
    return list(xs)

async def two(a, b):
    return [x async for x in a] + [x for x in b]

def message(xs):
    try:
        list(xs)
    except RuntimeError as error:
        return str(error)

def squares(xs):
    for x in xs:
        yield x * x
"""


async def test_every_kind_of_event_is_yielded(python: isola.SandboxTemplate) -> None:
    async with python.create() as sandbox:
        await sandbox.load_script(
            "import sys\n"
            "from sandbox.logging import warning\n"
            "def main():\n"
            "    print('out')\n"
            "    print('err', file=sys.stderr)\n"
            "    warning('careful')\n"
            "    yield {'n': 1}\n"
            "    raise KeyError('k')\n"
        )
        seen: list[object] = []
        async for event in sandbox.run_stream("main"):
            match event:
                case isola.StdoutEvent(data) | isola.StderrEvent(data):
                    seen.append(data)
                case isola.LogEvent(data, level=level):
                    seen.append((level, data))
                case isola.ResultEvent(data):
                    seen.append(data)
                case isola.ErrorEvent(data, error=error):
                    assert data == str(error)
                    assert isinstance(error, isola.GuestError)
                    seen.append(data.splitlines()[0])
                case isola.EndEvent():
                    raise AssertionError("a failed call has no end event")
        assert seen == ["out\n", "err\n", ("warning", "careful"), {"n": 1}, "KeyError: 'k'"]


async def test_events_arrive_while_the_guest_runs(python: isola.SandboxTemplate) -> None:
    arrived = asyncio.Event()

    async def wait(_: object) -> None:
        await arrived.wait()

    async with python.create(hostcalls={"wait": wait}) as sandbox:
        await sandbox.load_script(
            "from sandbox.asyncio import hostcall\n"
            "async def main():\n"
            "    yield 1\n"
            "    await hostcall('wait', None)\n"
            "    yield 2\n"
        )
        results = []
        async for event in sandbox.run_stream("main"):
            if isinstance(event, isola.ResultEvent):
                results.append(event.data)
                arrived.set()
        assert results == [1, 2]


async def test_slow_consumer_applies_backpressure_to_the_guest(
    python: isola.SandboxTemplate,
) -> None:
    asked: list[int] = []

    async def note(n: int) -> None:
        asked.append(n)

    async with python.create(hostcalls={"note": note}) as sandbox:
        await sandbox.load_script(
            "from sandbox.asyncio import hostcall\n"
            "async def main():\n"
            "    for i in range(2000):\n"
            "        yield i\n"
            "        if i % 100 == 0: await hostcall('note', i)\n"
        )
        async with aclosing(sandbox.run_stream("main")) as events:
            await anext(events)
            for _ in range(50):
                await asyncio.sleep(0.002)
            # The maximum lead of the guest: the events buffered here and in the sandbox.
            assert max(asked, default=0) <= 400
            assert sum([1 async for _ in events]) == 2000


async def test_breaking_out_of_a_stream_stops_the_guest(python: isola.SandboxTemplate) -> None:
    async with python.create() as sandbox:
        await sandbox.load_script("def main():\n    yield 1\n    while True: pass\n")
        async with aclosing(sandbox.run_stream("main")) as events:
            async for event in events:
                assert event == isola.ResultEvent(1)
                break
        assert sandbox.closed
        with pytest.raises(isola.SandboxClosedError, match="cancelled half-way"):
            await sandbox.run("main")


async def test_streams_are_created_from_iterables(python: isola.SandboxTemplate) -> None:
    async def numbers(n: int) -> AsyncIterator[int]:
        for i in range(n):
            yield i

    async with python.create() as sandbox:
        await sandbox.load_script(CONSUMERS)
        for function in ("total", "async_total"):
            for n in (0, 1, 5000):
                for stream in (
                    StreamArg.from_iterable(range(n)),
                    StreamArg.from_iterable(range(n), capacity=1),
                    StreamArg.from_async_iterable(numbers(n), capacity=3),
                ):
                    assert await sandbox.run(function, stream) == sum(range(n))
        named = StreamArg.from_iterable([1, 2], name="xs")
        assert await sandbox.run("async_total", named, factor=10) == 30
        assert await sandbox.run("async_total", xs=StreamArg.from_iterable([1])) == 1
        both = await sandbox.run(
            "two", StreamArg.from_iterable("ab"), StreamArg.from_async_iterable(numbers(2))
        )
        assert both == ["a", "b", 0, 1]
        events = [e async for e in sandbox.run_stream("squares", StreamArg.from_iterable([3]))]
        assert events == [isola.ResultEvent(9), isola.EndEvent(None)]
        with pytest.raises(isola.GuestError) as caught:
            await sandbox.run("nope", StreamArg.from_iterable([]))
        assert str(caught.value).startswith("NameError: name 'nope' is not defined")
        assert "__isola_call__" not in str(caught.value)


async def test_javascript_guest_reads_a_stream(javascript: isola.SandboxTemplate) -> None:
    async with javascript.create() as sandbox:
        await sandbox.load_script(
            "const total = async (xs, { factor }) => {\n"
            "  let sum = 0;\n"
            "  for await (const x of xs) sum += x;\n"
            "  return sum * factor;\n"
            "};"
        )
        stream = StreamArg.from_iterable(range(1000))
        assert await sandbox.run("total", stream, factor=2) == 999000
        with pytest.raises(isola.GuestError, match="^ReferenceError: nope is not defined"):
            await sandbox.run("nope", StreamArg.from_iterable([]))
        await sandbox.load_script(
            "export async function length(xs) {\n"
            "  let length = 0;\n"
            "  for await (const x of xs) length += 1;\n"
            "  return length;\n"
            "}"
        )
        assert await sandbox.run("length", StreamArg.from_iterable(range(300))) == 300


async def test_guest_applies_backpressure_to_the_source_of_a_stream(
    python: isola.SandboxTemplate,
) -> None:
    taken: list[int] = []

    def endless() -> Iterator[int]:
        while True:
            taken.append(len(taken))
            yield taken[-1]

    async def endless_async() -> AsyncIterator[int]:
        for value in endless():
            yield value

    async with python.create() as sandbox:
        await sandbox.load_script(CONSUMERS)
        assert await sandbox.run("first", StreamArg.from_iterable(endless(), capacity=5)) == 0
        assert len(taken) == 5
        taken.clear()
        stream = StreamArg.from_async_iterable(endless_async(), capacity=5)
        assert await sandbox.run("first", stream) == 0
        # One batch was read by the guest, one is buffered, and one value is being sent.
        assert len(taken) <= 11


async def test_push_and_send_add_values_to_a_stream(python: isola.SandboxTemplate) -> None:
    async with python.create() as sandbox:
        await sandbox.load_script(CONSUMERS)
        stream = StreamArg(capacity=2)
        stream.push(1)
        stream.push(2)
        with pytest.raises(isola.StreamFullError, match="has not read 2 values"):
            stream.push(3)
        running = asyncio.create_task(sandbox.run("total", stream))
        await stream.send(3)
        stream.end()
        stream.end()
        with pytest.raises(isola.StreamClosedError, match="has been ended"):
            stream.push(4)
        assert await running == 6
        with pytest.raises(isola.StreamClosedError, match="call has ended"):
            await stream.send(5)
        with pytest.raises(isola.InvalidArgumentError, match="can be used only once"):
            await sandbox.run("total", stream)

        # Values that wait for room when the stream is ended are delivered in their order.
        stream = StreamArg(capacity=1)
        sends = [asyncio.create_task(stream.send(value)) for value in range(5)]
        await asyncio.sleep(0)
        stream.end()
        with pytest.raises(isola.StreamClosedError, match="has been ended"):
            await stream.send(5)
        assert await sandbox.run("collected", stream) == [0, 1, 2, 3, 4]
        await asyncio.gather(*sends)

        # The end of the call wakes a `send` that waits for room.
        stream = StreamArg(capacity=1)
        stream.push(1)
        running = asyncio.create_task(sandbox.run("first", stream))
        with pytest.raises(isola.StreamClosedError, match="call has ended"):
            while True:
                await stream.send(2)
        assert await running == 1


async def test_batches_fit_into_the_value_size_limit(
    python: isola.SandboxTemplate, javascript: isola.SandboxTemplate
) -> None:
    in_javascript = """async function length(xs) {
        let sum = 0;
        for await (const x of xs) sum += x.length;
        return sum;
    }"""

    async def texts() -> AsyncIterator[str]:
        for _ in range(300):
            yield "ü" * 500

    for template, code in [
        (python, "async def length(xs): return sum([len(x) async for x in xs])"),
        (javascript, in_javascript),
    ]:
        async with template.create(limits=isola.Limits(max_value_size=4000)) as sandbox:
            await sandbox.load_script(code)
            streams = [StreamArg.from_iterable(["ü" * 500] * 300)]
            streams.append(StreamArg.from_async_iterable(texts()))
            for stream in streams:
                assert await sandbox.run("length", stream) == 150_000
            with pytest.raises(isola.IsolaError, match="larger than 4000 bytes"):
                await sandbox.run("length", StreamArg.from_iterable(["x" * 4000]))


async def test_error_of_a_source_is_raised_in_the_guest(python: isola.SandboxTemplate) -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise OSError("the disk is full")

    async def async_broken() -> AsyncIterator[object]:
        yield 1
        yield {1, 2}

    async with python.create() as sandbox:
        await sandbox.load_script(CONSUMERS)
        stream = StreamArg.from_iterable(broken())
        assert await sandbox.run("message", stream) == "the disk is full"
        stream = StreamArg.from_async_iterable(async_broken())
        text = await sandbox.run("message", stream)
        assert text == "at $: set is not a JSON value"
        with pytest.raises(isola.GuestError) as caught:
            await sandbox.run("total", StreamArg.from_iterable(broken()))
        assert caught.value.code == "hostcall_failed"


def test_invalid_streams_are_refused() -> None:
    refused: list[tuple[Callable[[], object], str]] = [
        (lambda: StreamArg.from_iterable(5), "not iterable"),  # type: ignore[arg-type]
        (lambda: StreamArg.from_async_iterable([1]), "asynchronous"),  # type: ignore[arg-type]
        (lambda: StreamArg(capacity=0), "capacity is 0"),
        (lambda: StreamArg.from_iterable([1]).push(2), "takes its values from an iterable"),
    ]
    for make, why in refused:
        with pytest.raises(isola.InvalidArgumentError, match=why):
            make()
    stream = StreamArg.from_iterable([], name="n", capacity=3)
    assert (stream.name, stream.capacity) == ("n", 3)


ENDS = """
import atexit
atexit.register(print, "bye")
def fail(): raise ValueError("at the end")
def prepare(): atexit.register(fail)
def spin():
    def forever():
        while True: pass
    atexit.register(forever)
"""


async def test_finish_runs_exit_handlers_and_closes_the_sandbox(
    python: isola.SandboxTemplate,
) -> None:
    async with python.create() as sandbox:
        await sandbox.load_script(ENDS)
        events = [event async for event in sandbox.finish_stream()]
        assert [type(event) for event in events] == [isola.StdoutEvent, isola.EndEvent]
        assert sandbox.closed
        with pytest.raises(isola.IsolaError, match="closed"):
            await sandbox.finish()
    async with python.create() as sandbox:
        await sandbox.load_script(ENDS)
        await sandbox.finish()
        assert sandbox.closed
    async with python.create() as sandbox:
        await sandbox.load_script(ENDS)
        await sandbox.run("spin")
        with pytest.raises(isola.IsolaError, match="limit"):
            await sandbox.finish(timeout=0.3)
