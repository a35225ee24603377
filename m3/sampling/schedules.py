"""Schedules of a sampler: tokens per step, and the temperature."""

from __future__ import annotations

import math
from typing import Literal

from torch import Tensor

Schedule = Literal["cosine", "linear"]
SCHEDULES: tuple[Schedule, ...] = ("cosine", "linear")

TemperatureSchedule = Literal["constant", "linear", "inverse_sqrt"]
TEMPERATURE_SCHEDULES: tuple[TemperatureSchedule, ...] = ("constant", "linear", "inverse_sqrt")

_INVERSE_SQRT_RANGE = 100  # 1/√x from x = 1 to this


def token_schedule(schedule: Schedule, num_tokens: int, num_steps: int) -> tuple[int, ...]:
    """Tokens decided at each of `num_steps` steps: all positive, `num_tokens` in sum.

    "cosine" leaves a share cos(π/2 · t/T) undecided after step t of T, few tokens first and many last
    (Chang et al., MaskGIT, CVPR 2022); "linear" leaves 1 − t/T. Where rounding would leave a step without a
    token, it gets one. Raises ValueError unless 1 <= num_steps <= num_tokens.
    """
    if not 1 <= num_steps <= num_tokens:
        raise ValueError(f"num_steps={num_steps}: need 1 <= num_steps <= {num_tokens}, the tokens to decide")
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule={schedule!r}: choose one of {', '.join(SCHEDULES)}")
    counts, undecided = [], num_tokens
    for step in range(1, num_steps + 1):
        share = math.cos(math.pi / 2 * step / num_steps) if schedule == "cosine" else 1 - step / num_steps
        # Each of the steps still to come needs a token, and so does this one.
        left = min(max(round(num_tokens * share), num_steps - step), undecided - 1)
        counts.append(undecided - left)
        undecided = left
    return tuple(counts)


def temperature_factor(schedule: TemperatureSchedule, decided: Tensor) -> Tensor:
    """The factor of the temperature; `decided`: share of the tokens decided before the step, of any shape.

    1 at a share of 0. "constant" stays 1; "linear" falls to 0 with the share; "inverse_sqrt" falls as 1/√x does for x
    from 1 to 100, to 0, fast first and slowly later. Positive for every share below 1.

    4M's `onex` has the same curve, but takes it at the number of the step among all tokens, and multiplies it by the
    share that is left to decide: docs/published.md has both formulas.
    """
    if schedule == "constant":
        return decided.new_ones(decided.shape)
    if schedule == "linear":
        return 1 - decided
    end = _INVERSE_SQRT_RANGE**-0.5
    return ((1 + (_INVERSE_SQRT_RANGE - 1) * decided) ** -0.5 - end) / (1 - end)
