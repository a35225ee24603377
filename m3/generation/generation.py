"""The record of what was generated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from m3.core.frames import Frames
from m3.core.modalities import frame_of
from m3.generation.prompts import Prompts
from m3.vocabularies import Interpreter


@dataclass(frozen=True)
class Generation:
    """All that was generated from N prompts, with the ground truth.

    given: (N, 2) frames, what the model was given of reference and first successor.
    predicted: (N, T + 1) frames, decoded as sampling.schemes sets. T is 1 for completed pairs.
    truth: (N, T + 1) frames of the prompts.
    generated: names of the generated modalities.
    interpreters: modality → the one that decodes and draws it. undecoded: modality → why it has no interpreter.
    modalities: of the model's table. canvas_size: pixels. is_rollout: False for completed pairs.
    actions: labels of the ids of the modality action.
    argmax: (N, T + 1) frames with the likeliest id everywhere. samples: (N, T + 1) frames of each random sample. None
        and empty unless several samples were requested.
    """

    prompts: Prompts
    given: Frames
    predicted: Frames
    truth: Frames
    generated: Sequence[str]
    interpreters: Mapping[str, Interpreter]
    undecoded: Mapping[str, str]
    modalities: Sequence[str]
    canvas_size: int
    is_rollout: bool
    actions: Sequence[str] = ()
    argmax: Frames | None = None
    samples: Sequence[Frames] = ()

    @property
    def is_reference_generated(self) -> bool:
        """Whether parts of the references were generated too."""
        return any(frame_of(name)[1] == 0 for name in self.generated)
