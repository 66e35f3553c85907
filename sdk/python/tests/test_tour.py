"""The steps of the tour that are copied here verbatim."""

from __future__ import annotations

import re
import subprocess
import sys
import time

import httpx
import pytest
from servers import Server

from isorun import Sandbox

# Copied verbatim, without the steps that follow.
STEP_ONE = """
from isorun import Sandbox
with Sandbox("python:3.12") as sb: # 1. Run code
    out = sb.exec("python3 -c 'print(2 + 2)'")
    print(out.stdout) # 4
"""


STATE_STEPS = """
from isorun import Sandbox
with Sandbox("python:3.12") as sb:
    # 2. Long-lived shell session — state persists across commands
    with sb.shell() as sh:
        sh.run("cd /tmp && export FOO=bar")
        print(sh.run("echo $FOO").stdout) # bar
    # 3. Fork the running sandbox into independent children
    children = sb.fork(count=5)
    for c in children:
        print(c.exec("python3 -c 'print(\\"hello from a fork\\")'").stdout)
        c.destroy()
    # 5. Hibernate to free runner resources, resume later
    sb.hibernate()
    sb.resume()
    print(sb.exec("python3 -c 'print(2 + 2)'").stdout)
"""


def test_state_steps_print_the_documented_output() -> None:
    assert printed(STATE_STEPS) == "bar\n\n" + "hello from a fork\n\n" * 5 + "4\n\n"


def test_step_one_uses_the_configuration_file() -> None:
    # The address and the key are read from the file that the server wrote.
    assert printed(STEP_ONE) == "4\n\n"


# Copied verbatim, but for the sandbox's id and this server's address.
STEP_FOUR = """
from isorun import Sandbox
with Sandbox("python:3.12") as sb:
    # 4. Expose an in-sandbox server as a public URL
    sb.exec("nohup setsid python3 -m http.server 8000 >/dev/null 2>&1 &")
    print(sb.url(port=8000))
    input()
"""


def test_step_four_exposes_a_server_at_a_public_url(server: Server) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", STEP_FOUR], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as program:
        assert program.stdout is not None
        url = program.stdout.readline().strip()
        assert re.fullmatch(re.escape(server.url) + "/sb/run[0-9a-f]{16}/p/8000/", url), url
        # The server in the sandbox needs a moment to start; the proxy reports that.
        end = time.monotonic() + 60
        while (answer := httpx.get(url)).status_code == 502:
            assert answer.json()["code"] == "connection_refused"
            assert time.monotonic() < end
            time.sleep(0.05)
        assert answer.status_code == 200
        assert "Directory listing" in answer.text
        program.communicate("\n", timeout=60)
    assert program.returncode == 0
    assert httpx.get(url).status_code == 404


def printed(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_step_one_uses_the_environment(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISORUN_API_URL", server.url)
    assert printed(STEP_ONE) == "4\n\n"
    # Everything is set in the environment, and no file is found.
    monkeypatch.setenv("XDG_CONFIG_HOME", "/nowhere")
    monkeypatch.setenv("ISORUN_API_KEY", server.key)
    assert printed(STEP_ONE) == "4\n\n"
    with Sandbox("host") as sb:
        assert sb.exec("true").ok
