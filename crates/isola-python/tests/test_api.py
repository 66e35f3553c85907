"""The names and errors that isola has in all languages: `crates/isola/api.json`."""

from __future__ import annotations

import json
from operator import attrgetter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import isola
import isola.sync
from isola import _errors

API: dict[str, list[dict[str, Any]]] = json.loads(
    (Path(__file__).parents[2] / "isola" / "api.json").read_text()
)

HALVES = [isola, isola.sync]


def test_each_code_has_the_same_class_in_all_languages() -> None:
    expected = {error["code"]: error["class"] for error in API["errors"]}
    assert len(expected) == len(API["errors"])
    assert {code: kind.__name__ for code, kind in _errors.CLASSES.items()} == expected


@pytest.mark.parametrize("half", HALVES, ids=lambda half: half.__name__)
def test_each_class_is_exported(half: ModuleType) -> None:
    for code, kind in _errors.CLASSES.items():
        assert kind.__name__ in half.__all__
        assert getattr(half, kind.__name__) is kind
        raised = _errors.from_native(code, "the message", None)
        assert type(raised) is kind
        assert (raised.code, str(raised)) == (code, "the message")
    for error in API["errors"]:
        base = error.get("extends", "IsolaError")
        # A `FileError` is an `OSError` as well.
        more = (OSError,) if error["class"] == "FileError" else ()
        assert getattr(half, error["class"]).__bases__ == (getattr(half, base), *more)
    assert half.SandboxClosedError is half.ClosedError


@pytest.mark.parametrize("half", HALVES, ids=lambda half: half.__name__)
def test_each_verb_of_the_life_cycle_exists(half: ModuleType) -> None:
    names = [verb["python"] for verb in API["life_cycle"] if verb["python"] is not None]
    assert "Sandbox.evaluate" in names
    for name in names:
        if half is isola.sync:
            # What has to be awaited to be closed is closed by `close`.
            name = name.replace(".aclose", ".close")
        assert name.partition(".")[0] in half.__all__
        assert callable(attrgetter(name)(half)), name
