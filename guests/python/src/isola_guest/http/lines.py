"""Splits bodies into lines, and parses lines as server-sent events."""

import codecs
from dataclasses import dataclass


@dataclass(frozen=True)
class ServerSentEvent:
    """An event of an event stream."""

    data: str
    event: str = "message"
    id: str = ""


ServerSentEvent.__module__ = "sandbox.http"


class Lines:
    """Splits a body into lines that end in CR, LF or CRLF."""

    def __init__(self, charset):
        self._decoder = codecs.getincrementaldecoder(charset)("replace")
        # The parts of an incomplete line.
        self._rest = []
        self._after_cr = False

    def feed(self, data):
        text = self._decoder.decode(data)
        # A CR ends its line immediately; an LF that follows belongs to it.
        if self._after_cr and text:
            text = text.removeprefix("\n")
            self._after_cr = False
        if not text:
            return []
        self._after_cr = text.endswith("\r")
        *lines, rest = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        if lines:
            lines[0] = "".join((*self._rest, lines[0]))
            self._rest.clear()
        self._rest.append(rest)
        return lines

    def end(self):
        rest = "".join(self._rest) + self._decoder.decode(b"", True)
        return [rest] if rest else []


class Events:
    """A parser of server-sent events, by the section of the HTML standard on them."""

    def __init__(self):
        self._id = ""
        self._event = ""
        self._data = []

    def feed(self, line):
        if not line:
            data, event = self._data, self._event
            self._data, self._event = [], ""
            return ServerSentEvent("\n".join(data), event or "message", self._id) if data else None
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "data":
            self._data.append(value)
        elif field == "event":
            self._event = value
        elif field == "id" and "\0" not in value:
            self._id = value
        return None
