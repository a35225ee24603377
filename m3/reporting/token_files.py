"""Arrays for further use: all tokens in `tokens.npz`, the scores of every sample in `samples.npz`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from m3.core.frames import TokenFrames
from m3.core.modalities import frame_of
from m3.generation.generation import Generation
from m3.metrics import Score
from m3.metrics.measures import Ratio
from m3.vocabularies.text import TextInterpreter


def rollout_arrays(made: Generation, rows: Sequence[int]) -> dict[str, np.ndarray]:
    """The tokens of some roll-outs. N rows, T horizons, S random samples, M a modality of a frame:

    clip (N,) text, reference_frame (N,), successor_frames (N, T): frame numbers in their clip, −1 without truth.
    predicted_M (N, T + 1, …) uint16: index 0 is the reference; in the shape of shards, (h, w) for tok_rgb and (3, 13)
    for coords. truth_M: the same, and is_truth (N, T + 1) bool, False where there is none. argmax_M like predicted_M
    and sample_M (S, N, T + 1, …): only with several samples.
    """
    chains = [made.prompts.chains[n] for n in rows]
    successors = np.full((len(chains), made.prompts.num_frames), -1)
    for n, chain in enumerate(chains):
        successors[n, : len(chain.rows)] = [pair.successor for pair in chain.pairs[: len(chain.rows)]]
    truth = made.prompts.tokens
    successors[~truth.is_present[list(rows), 1:]] = -1  # steps of another gap than the clip's own
    arrays = {
        "clip": np.array([chain.pairs[0].clip for chain in chains]),
        "reference_frame": np.array([chain.pairs[0].reference for chain in chains]),
        "successor_frames": successors,
        **_arrays(made, "predicted", made.predicted.tokens, rows),
        **_arrays(made, "truth", truth, rows),
        "is_truth": truth.is_present[list(rows)],
    }
    if made.argmax is not None:
        arrays |= _arrays(made, "argmax", made.argmax.tokens, rows)
    if made.samples:
        samples = [_arrays(made, "sample", each.tokens, rows) for each in made.samples]
        arrays |= {name: np.stack([each[name] for each in samples]) for name in samples[0]}
    return arrays


def _arrays(made: Generation, name: str, frames: TokenFrames | None, rows: Sequence[int]) -> dict[str, np.ndarray]:
    """uint16 arrays of each modality, in the shape of shards."""
    assert frames is not None, "decoded frames keep their tokens"
    arrays = {}
    for modality in sorted(frames.ids):
        ids = frames.ids[modality][list(rows)]
        interpreter = made.interpreters.get(modality)
        shape = ids.shape[2:] if interpreter is None else interpreter.stored_shape(ids.shape[2])
        arrays[f"{name}_{modality}"] = ids.reshape(*ids.shape[:2], *shape).astype(np.uint16)
    return arrays


def sample_arrays(made: Generation, scores: Mapping[str, Sequence[Score]]) -> dict[str, np.ndarray]:
    """The arrays of `samples.npz`: what every score is a sum of. N roll-outs or pairs, T horizons.

    clip (N,) text, frames (N, T + 1): the reference and its successors in the clip, −1 without truth.
    SCORE/SERIES/sum and SCORE/SERIES/weight, (N, T) float64, the sum also (N, T, M), for the series "model" and
    "nothing_moves": the score is a function of the quotient of both summed over N; a weight of 0 is not scored.
    FRAME/SCORE/… of completed pairs, whose FRAME is "reference" or "successor".
    """
    chains = made.prompts.chains
    frames = np.full((len(chains), made.truth.is_present.shape[1]), -1)
    for n, chain in enumerate(chains):
        known = [chain.pairs[0].reference, *(pair.successor for pair in chain.pairs[: len(chain.rows)])]
        known = known[: frames.shape[1]]
        frames[n, : len(known)] = known
    frames[~made.truth.is_present] = -1
    arrays: dict[str, np.ndarray] = {"clip": np.array([chain.pairs[0].clip for chain in chains]), "frames": frames}
    for frame, found in scores.items():
        for score in found:
            for name in ("model", "nothing_moves"):
                ratio = score.measured.get(name)
                if isinstance(ratio, Ratio):
                    key = "/".join([*([frame] if frame else []), score.name, name])
                    arrays |= {f"{key}/sum": ratio.numerator, f"{key}/weight": ratio.denominator}
    return arrays


def completion_arrays(made: Generation) -> dict[str, np.ndarray]:
    """The tokens of completed pairs: clip (N,), reference_frame, successor_frame (N,), −1 without truth, and for each
    modality M, (N, L):

    M uint16, given or generated, 0 where neither; is_given_M and is_known_M bool; truth_M uint16 and is_truth_M (N,)
    bool; sample_M (S, N, L) with several samples. Of captions also text_captions and truth_text_captions (N,) text, ""
    where there is none.
    """
    first = [chain.pairs[0] for chain in made.prompts.chains]
    arrays = {
        "clip": np.array([pair.clip for pair in first]),
        "reference_frame": np.array([pair.reference for pair in first]),
        "successor_frame": np.where(made.truth.is_present[:, 1], [pair.successor for pair in first], -1),
    }
    predicted, given, truth = made.predicted.tokens, made.given.tokens, made.prompts.tokens
    assert predicted is not None and given is not None, "decoded frames keep their tokens"
    for modality in made.modalities:
        name, frame = frame_of(modality)
        if frame < 0:
            history = made.prompts.history
            arrays[modality] = history.ids[name][:, 0].astype(np.uint16)
            arrays[f"is_known_{modality}"] = history.is_known[name][:, 0]
            continue
        arrays[modality] = predicted.ids[name][:, frame].astype(np.uint16)
        arrays[f"is_given_{modality}"] = given.is_known[name][:, frame]
        arrays[f"is_known_{modality}"] = predicted.is_known[name][:, frame]
        arrays[f"truth_{modality}"] = truth.ids[name][:, frame].astype(np.uint16)
        arrays[f"is_truth_{modality}"] = truth.is_present[:, frame]
        if isinstance(made.interpreters.get(name), TextInterpreter):
            for kind, frames in (("text", made.predicted), ("truth_text", made.truth)):
                arrays[f"{kind}_{modality}"] = frames.values[name][:, frame].astype(str)
        if made.samples:
            ids = [each.tokens.ids[name][:, frame] for each in made.samples if each.tokens is not None]
            arrays[f"sample_{modality}"] = np.stack(ids).astype(np.uint16)
    return arrays
