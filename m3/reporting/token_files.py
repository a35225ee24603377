"""Arrays of `tokens.npz`: all tokens, for further use."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from m3.core.frames import TokenFrames
from m3.core.modalities import frame_of
from m3.generation.generation import Generation
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
