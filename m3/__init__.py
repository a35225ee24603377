"""Masked multimodal modeling of human motion: `m3.load` gives a trained model to call (docs/api.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from m3.api import Generated, Model, load

__all__ = ["Generated", "Model", "load"]


def __getattr__(name: str) -> Any:
    """The names above are imported when they are first used: PyTorch and Hydra take seconds to import."""
    if name in __all__:
        from m3 import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
