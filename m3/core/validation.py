"""Checks of configuration values, so that a wrong value is named before any work."""

from __future__ import annotations

import math
from typing import Any


class SettingError(ValueError):
    """An impossible setting that can be noticed only while the run works."""


def check(key: str, value: Any, kind: Any, low: float = -math.inf, high: float = math.inf) -> None:
    """Raises ValueError naming the key unless the value has the type `kind` and low ≤ value ≤ high.

    kind: a type or union (int, float, int | None …). An int is accepted as a float; True and False are not accepted
        as numbers; a float must be finite. None and text are not compared with the bounds.
    """
    name = getattr(kind, "__name__", str(kind))
    allowed = (int, kind) if kind is float else kind
    if not isinstance(value, allowed) or isinstance(value, bool):
        raise ValueError(f"{key}={value!r}: need {'a number' if kind is float else name}")
    if value is None or isinstance(value, str):
        return
    if not math.isfinite(value) or not low <= value <= high:
        bounds = f"at least {low:g}" if high == math.inf else f"{low:g} … {high:g}"
        raise ValueError(f"{key}={value!r}: need {bounds}")
