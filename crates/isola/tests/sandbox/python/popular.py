"""A small task with each of some popular packages, by the package's name."""

import asyncio
import io


def sympy():
    from sympy import diff, integrate, solve, sin, symbols

    x = symbols("x")
    return [str(diff(sin(x) * x)), str(integrate(x**2)), [str(root) for root in solve(x**2 - 2)]]


def hypothesis():
    from hypothesis import HealthCheck, given, settings, strategies

    # A slow machine is no reason to fail.
    patient = settings(database=None, deadline=None, suppress_health_check=list(HealthCheck))
    tried = []

    @settings(patient, max_examples=20)
    @given(strategies.lists(strategies.integers()))
    def twice_reversed(items):
        tried.append(items)
        assert items[::-1][::-1] == items

    twice_reversed()

    @settings(patient, max_examples=200)
    @given(strategies.integers())
    def small(number):
        assert number < 100

    try:
        small()
    except AssertionError as error:
        return [len(tried) >= 10, "number=100" in "".join(error.__notes__)]


def fsspec():
    import fsspec

    with fsspec.open("memory://dir/a.txt", "w") as file:
        file.write("text")
    with fsspec.open("memory://dir/a.txt") as file:
        found = file.read().decode()
    local = fsspec.filesystem("file")
    local.pipe("/tmp/b.bin", b"bytes")
    return [
        found,
        fsspec.filesystem("memory").ls("/dir", detail=False),
        local.cat("/tmp/b.bin") == b"bytes",
    ]


def trio():
    import trio

    async def main():
        seen = []

        async def child(number):
            await trio.sleep(0.001 * number)
            seen.append(number)

        async with trio.open_nursery() as nursery:
            for number in (3, 1, 2):
                nursery.start_soon(child, number)
        with trio.move_on_after(0.01) as scope:
            await trio.sleep_forever()
        return [sorted(seen), scope.cancelled_caught]

    return trio.run(main)


def anyio():
    import anyio

    async def main():
        send, receive = anyio.create_memory_object_stream(10)
        async with anyio.create_task_group() as group:
            group.start_soon(send.send, 1)
            first = await receive.receive()
        with anyio.move_on_after(0.01) as scope:
            await anyio.sleep(10)
        send.close()
        receive.close()
        return [first, scope.cancelled_caught]

    return asyncio.run(main())


def httpcore():
    import httpcore

    try:
        httpcore.request("GET", "https://a.test/")
    except httpcore.ConnectError as error:
        return [str(error), str(httpcore.URL("https://a.test/b").target)]


def uvicorn():
    import uvicorn

    async def app(scope, receive, send):
        pass

    config = uvicorn.Config(app, lifespan="off", loop="asyncio", http="h11")
    config.load()
    return [config.loaded, uvicorn.Server(config).should_exit]


def botocore():
    import botocore.session
    from botocore.config import Config
    from botocore.stub import Stubber

    session = botocore.session.get_session()
    session.set_credentials("key", "secret")
    config = Config(retries={"max_attempts": 0})
    client = session.create_client("s3", region_name="eu-west-1", config=config)
    with Stubber(client) as stubber:
        stubber.add_response("list_buckets", {"Buckets": [{"Name": "one"}]})
        names = [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]
    url = client.generate_presigned_url("get_object", {"Bucket": "b", "Key": "k"})
    try:
        client.list_buckets()
    except Exception as error:
        refused = type(error).__name__
    return [names, url.partition("?")[0], refused]


def rich():
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

    table = Table("name", "size")
    table.add_row("a", "1")
    text = io.StringIO()
    console = Console(file=text, width=40)
    console.print(table)
    with Progress(console=console, auto_refresh=False) as progress:
        task = progress.add_task("work", total=2)
        progress.update(task, advance=2)
        return ["name" in text.getvalue(), progress.finished]


def platformdirs():
    import pathlib

    import platformdirs

    home = pathlib.Path.home()
    return [str(platformdirs.user_data_path("app").relative_to(home)), str(home) != "/"]


def pint():
    import pint

    registry = pint.UnitRegistry()
    speed = 36 * registry.kilometer / registry.hour
    return [speed.to("m/s").magnitude, f"{registry('2 inch').to('mm'):~}"]


def fpdf():
    from fpdf import FPDF

    document = FPDF()
    document.add_page()
    document.set_font("helvetica", size=12)
    document.cell(text="hello")
    data = bytes(document.output())
    return [data[:5].decode(), len(data) > 500]


def werkzeug():
    from werkzeug.security import check_password_hash, generate_password_hash
    from werkzeug.test import Client
    from werkzeug.wrappers import Request, Response

    @Request.application
    def app(request):
        return Response(f"{request.method} {request.args['a']}")

    hashed = generate_password_hash("secret", method="scrypt:1024:8:1")
    return [Client(app).get("/?a=1").text, check_password_hash(hashed, "secret")]


def main(package):
    return globals()[package]()
