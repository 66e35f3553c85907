"""What the tests run against: one server, or the nodes of a cluster behind a load balancer."""

from __future__ import annotations

import json
import os
import random
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from balancer import Balancer, balanced
from postgres import postgres

# The number of nodes, one for a server that is in no cluster. `cargo xtask test sdk` runs all
# tests with both.
NODES = int(os.environ.get("ISORUN_TEST_NODES", "1"))
# What the load balancer draws depends on it.
SEED = int(os.environ.get("ISORUN_TEST_SEED") or random.randrange(1 << 32))


@dataclass
class Server:
    """A server, or a cluster, that the tests started."""

    url: str
    """The address for clients: that of the load balancer, if it is a cluster."""
    key: str
    config: Path
    """The directory with the configuration of clients."""
    data: list[Path]
    """The data directory of each node."""
    cluster: str | None
    """The database, if it is a cluster."""

    def administer(self, *arguments: str | Path) -> list[str]:
        """Runs a command of the operator on each node. Returns what each printed."""
        return [_administer(self.environment(node), *arguments) for node in range(len(self.data))]

    def create_key(self, name: str) -> str:
        """Creates a key, which is valid at each node."""
        return _administer(self.environment(0), "keys", "create", name).strip()

    def import_image(self, path: Path, name: str, *, is_layout: bool = False) -> None:
        """Imports the files of an image, or an OCI layout."""
        kind = [] if is_layout else ["--rootfs"]
        self.administer("image", "import", "--quiet", *kind, path, name)

    def environment(self, node: int) -> dict[str, str]:
        """Returns the environment of commands of the operator on a node."""
        return _environment(self.data[node], self.cluster)

    def wait_until_gone(self, run: str | None) -> None:
        """Waits until a sandbox was destroyed. The requests do not count as activity in it."""
        headers = {"authorization": f"Bearer {self.key}"}
        end = time.monotonic() + 60
        while httpx.get(f"{self.url}/v1/runs/{run}", headers=headers).status_code == 200:
            assert time.monotonic() < end, "the sandbox still exists"
            time.sleep(0.02)


@contextmanager
def serving(directory: Path, *options: str) -> Iterator[Server]:
    """Starts a server, or a cluster, with its files in a directory."""
    config = directory / "config"
    with ExitStack() as stack:
        data = [directory / f"data{node}" for node in range(NODES)]
        if NODES == 1:
            stack.enter_context(_node(data[0], config, None, options))
            cluster, written = None, _client(config)
        else:
            cluster = stack.enter_context(postgres())
            joined = ("--peer-listen", "127.0.0.1:0", *options)
            addresses = [stack.enter_context(_node(each, config, cluster, joined)) for each in data]
            balancer = stack.enter_context(balanced(addresses, SEED))
            written = _client(config)
            written["api_url"] = f"http://127.0.0.1:{balancer.port}"
            (config / "isorun" / "client.json").write_text(json.dumps(written))
            _wait_for_nodes(balancer, written["api_url"], _environment(data[0], cluster))
        yield Server(written["api_url"], written["api_key"], config, data, cluster)


@contextmanager
def _node(
    data: Path, config: Path, cluster: str | None, options: Sequence[str]
) -> Iterator[tuple[str, int]]:
    """Starts `isorun serve`, and yields its address. It has to stop without an error."""
    # `cargo xtask test` builds it. Without it these tests fail.
    command = [os.environ["ISORUN_COMMAND"], "serve", "--listen", "127.0.0.1:0", "--no-pull"]
    process = subprocess.Popen(
        [*command, "--log", "warn", *options],
        env=_environment(data, cluster) | {"XDG_CONFIG_HOME": str(config)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        # The server has started when it has printed this, the last variable.
        for line in process.stdout:
            if line.strip().startswith("ISORUN_API_URL="):
                parts = urlsplit(line.strip().partition("=")[2])
            if "ISORUN_API_KEY=" in line:
                break
        else:
            raise AssertionError(f"the server did not start: {process.wait()}")
        assert parts.hostname and parts.port, parts
        yield parts.hostname, parts.port
    finally:
        process.terminate()
        process.stdout.close()
        assert process.wait(60) == 0


def _wait_for_nodes(balancer: Balancer, url: str, environment: dict[str, str]) -> None:
    """Waits until all nodes have joined, and connections have reached each of them."""
    end = time.monotonic() + 60
    while True:
        listed = json.loads(_administer(environment, "node", "ls", "--json"))
        if [node["state"] for node in listed] == ["up"] * NODES:
            break
        assert time.monotonic() < end, listed
        time.sleep(0.05)
    while 0 in balancer.connections:
        httpx.get(f"{url}/healthz").raise_for_status()
        assert sum(balancer.connections) < 200, balancer.connections


def _client(config: Path) -> dict[str, str]:
    """Reads the configuration of clients."""
    written: dict[str, str] = json.loads((config / "isorun" / "client.json").read_text())
    return written


def _administer(environment: dict[str, str], *arguments: str | Path) -> str:
    done = subprocess.run(
        [os.environ["ISORUN_COMMAND"], *arguments],
        env=environment,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        timeout=120,
    )
    return done.stdout


def _environment(data: Path, cluster: str | None) -> dict[str, str]:
    environment = os.environ | {"ISORUN_DATA_DIR": str(data)}
    environment.pop("ISORUN_CLUSTER", None)
    return environment if cluster is None else environment | {"ISORUN_CLUSTER": cluster}
