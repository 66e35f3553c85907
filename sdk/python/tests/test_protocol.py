"""Responses, including invalid ones. These tests need no server."""

from __future__ import annotations

import json

import pytest

from isorun import ExecResult, IsorunConnectionError, IsorunError, IsorunTimeoutError
from isorun._protocol import Command, ExecStream, error_response, execute, execute_bytes

EVENTS = b"".join(
    f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()
    for event in (
        {"type": "stdout", "data": "caf\u00e9\n"},
        {"type": "stderr", "data": "oops"},
        {"type": "from-the-future", "data": 1},
        {"type": "exit", "exit_code": 3},
    )
)


@pytest.mark.parametrize("step", [1, 2, 7, 1000])
def test_events_are_parsed_from_chunks_of_any_size(step: int) -> None:
    stream = ExecStream()
    chunks = []
    for start in range(0, len(EVENTS), step):
        chunks += stream.feed(EVENTS[start : start + step])
    assert chunks == [("stdout", "caf\u00e9\n"), ("stderr", "oops")]
    assert stream.result() == ExecResult(3, "caf\u00e9\n", "oops")


def test_comments_crlf_and_multiline_data_are_parsed() -> None:
    stream = ExecStream()
    stream.feed(b': a comment\r\n\r\ndata:{"type": "exit",\r\ndata: "exit_code": 0}\r\n\r\n')
    assert stream.result().ok


def test_truncated_stream_is_an_error() -> None:
    stream = ExecStream()
    stream.feed(EVENTS[:-4])
    with pytest.raises(IsorunConnectionError, match="before the command"):
        stream.result()


def test_error_events_and_invalid_events_raise_errors() -> None:
    stream = ExecStream()
    stream.feed(b'data: {"type": "stdout", "data": "begun"}\n\n')
    with pytest.raises(IsorunTimeoutError) as caught:
        stream.feed(b'data: {"type":"error","error":"late","code":"exec_timeout","status":504}\n\n')
    assert (caught.value.code, caught.value.stdout) == (504, "begun")
    for nonsense in (b"data: x\n\n", b"data: []\n\n", b'data: {"type":"exit"}\n\n'):
        with pytest.raises(IsorunError, match="invalid response"):
            ExecStream().feed(nonsense)


def test_error_responses_are_parsed() -> None:
    error = error_response(404, b'{"error": "there is no run", "code": "run_not_found"}')
    assert (str(error), error.code, error.kind) == ("there is no run", 404, "run_not_found")
    proxy = error_response(502, b"<html>Bad Gateway</html>")
    assert (proxy.code, proxy.kind) == (502, None) and "Bad Gateway" in str(proxy)
    with pytest.raises(IsorunError, match="invalid response"):
        execute("run0", Command("true", 1)).parse_response(200, b"[]")


def test_output_in_base64_is_decoded_in_results_and_errors() -> None:
    operation = execute_bytes("run0", Command(["cat"], 5, {"A": "b"}, "/srv", "in"))
    assert operation.body == {
        "command": ["cat"],
        "timeout": 5,
        "env": {"A": "b"},
        "cwd": "/srv",
        "stdin": "in",
        "encoding": "base64",
    }
    done = {"exit_code": 0, "stdout": "/wA=", "stderr": "", "stdout_truncated": True}
    result = operation.parse_response(200, json.dumps(done).encode())
    assert (result.stdout, result.stderr, result.stdout_truncated) == (b"\xff\0", b"", True)
    late = {"error": "too late", "code": "exec_timeout", "stdout": "b2sK", "stderr": "/w=="}
    with pytest.raises(IsorunTimeoutError) as caught:
        operation.parse_response(504, json.dumps(late).encode())
    assert (caught.value.stdout, caught.value.stderr) == ("ok\n", "\ufffd")
    with pytest.raises(IsorunError, match="invalid response"):
        operation.parse_response(200, json.dumps(done | {"stdout": "%"}).encode())
