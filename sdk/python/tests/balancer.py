"""A load balancer of TCP connections, in front of the nodes of a cluster."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager

Address = tuple[str, int]


class Balancer:
    """Passes each connection to an address that it draws at random."""

    def __init__(self, addresses: Sequence[Address], seed: int) -> None:
        self.connections = [0] * len(addresses)
        """The number of connections that each address got."""
        self.port = 0
        self._addresses = addresses
        self._random = random.Random(seed)
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, started: threading.Event, stop: asyncio.Event) -> None:
        """Accepts connections until `stop`, then breaks those that are left."""
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        started.set()
        await stop.wait()
        server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A task of its own: asyncio reports the end of this one as an error if it is cancelled.
        task = asyncio.create_task(self._pass(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        chosen = self._random.randrange(len(self._addresses))
        self.connections[chosen] += 1
        writers = [writer]
        try:
            there, back = await asyncio.open_connection(*self._addresses[chosen])
            writers.append(back)
            await _first_error(_copy(reader, back), _copy(there, writer))
        except (OSError, asyncio.CancelledError):
            # What breaks on one side breaks on the other.
            for each in writers:
                each.transport.abort()
        for each in writers:
            each.close()
            with contextlib.suppress(OSError):
                await each.wait_closed()


async def _first_error(*parts: Coroutine[None, None, None]) -> None:
    """Runs coroutines at the same time. Cancels the others when one fails."""
    tasks = [asyncio.create_task(part) for part in parts]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copies one direction, with its end: the other one may continue."""
    while part := await reader.read(1 << 16):
        writer.write(part)
        await writer.drain()
    writer.write_eof()


@contextmanager
def balanced(addresses: Sequence[Address], seed: int) -> Iterator[Balancer]:
    """Starts a load balancer in a thread of its own."""
    loop = asyncio.new_event_loop()
    balancer, started, stop = Balancer(addresses, seed), threading.Event(), asyncio.Event()

    def run() -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_until_complete(balancer.serve(started, stop))
        finally:
            loop.close()

    thread = threading.Thread(target=run, name="balancer", daemon=True)
    thread.start()
    assert started.wait(30), "the load balancer does not start"
    try:
        yield balancer
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(30)
        assert not thread.is_alive(), "the load balancer does not stop"
