"""What tokens mean: one interpreter per vocabulary, which decodes, draws and scores its tokens.

Vocabulary NAME is interpreted by `m3/vocabularies/NAME.py`; to add one, see docs/extending.md.
"""

from m3.vocabularies.base import DecodingContext, Interpreter
from m3.vocabularies.lookup import decode, interpreter_of, interpreters_of, metrics_of, without_interpreter

__all__ = [
    "DecodingContext",
    "Interpreter",
    "decode",
    "interpreter_of",
    "interpreters_of",
    "metrics_of",
    "without_interpreter",
]
