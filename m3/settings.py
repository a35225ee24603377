"""Checking what configuration says, so that a wrong value is named before any work."""

from __future__ import annotations

import math
from typing import Any


def require(key: str, value: Any, kind: Any, low: float = -math.inf, high: float = math.inf) -> None:
    """Raises ValueError naming the key unless the value is of a kind (int, float, int | None …) and low ≤ it ≤ high.

    An int passes for a float; True and False pass for no number; float values must be finite.
    """
    name = getattr(kind, "__name__", str(kind))
    allowed = (int, kind) if kind is float else kind
    if not isinstance(value, allowed) or isinstance(value, bool):
        raise ValueError(f"{key}={value!r}: need {'a number' if kind is float else name}")
    if value is None:
        return
    if not math.isfinite(value) or not low <= value <= high:
        bounds = f"at least {low:g}" if high == math.inf else f"{low:g} … {high:g}"
        raise ValueError(f"{key}={value!r}: need {bounds}")
