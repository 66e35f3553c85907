"""Decodes JSON texts of the guest."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, cast

from ._errors import InvalidArgumentError

if TYPE_CHECKING:
    from ._arguments import JsonValue


def decode(text: str) -> JsonValue:
    """Returns the value of a JSON text, which the native module has validated."""
    try:
        return cast("JsonValue", json.loads(text))
    except RecursionError:
        raise InvalidArgumentError(
            "the guest's value is nested deeper than this interpreter can decode"
        ) from None
    except ValueError as error:
        # An integer of more digits than sys.get_int_max_str_digits().
        raise InvalidArgumentError(f"the guest's value cannot be decoded here: {error}") from None
