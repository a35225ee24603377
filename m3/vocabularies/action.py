"""Labels of actions."""

from __future__ import annotations

import numpy as np

from m3.vocabularies.base import DecodingContext, WordsInterpreter


class ActionInterpreter(WordsInterpreter):
    """Labels of actions."""

    def words(self, ids: np.ndarray, context: DecodingContext) -> str:
        number = int(ids[0])
        return context.actions[number].replace("_", " ") if number < len(context.actions) else f"label {number}"


INTERPRETER = ActionInterpreter()
