"""Roll-out: generate the successor, relabel it as the reference, repeat; and the truth to compare it with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from m3.core.frames import Chain, Frames, TokenFrames
from m3.core.modalities import COORDS_LENGTH, PICTURE_STRIDE, ModalityTable
from m3.core.types import PairInfo
from m3.model.encoder_decoder import EncoderDecoder
from m3.sampling.sampler import generate
from m3.sampling.settings import DecodingConfig
from m3.tokens.base import PictureTokenizer, to_frames
from m3.tokens.joints import JointCodec

SUCCESSOR_OF = {"tok_rgb": "tok_rgb_next", "coords": "coords_next"}
"""The modalities of a frame, and their names where the frame is the successor."""

_FRAMES_AT_ONCE = 64
_BLANK = 32
"""Grey level of a picture that nobody generates."""


def find_chains(
    pairs: Sequence[PairInfo], num_frames: int, starts: Literal["first", "disjoint"], max_samples: int | None = None
) -> list[Chain]:
    """Where to start rolling out, and the truth that follows.

    Args:
        pairs: rows of a split, in the order of its token table.
        num_frames: T, the most pairs of a chain. A chain is shorter where its clip, or the split, ends.
        starts: "first" starts at the first pair of each clip, "disjoint" wherever no earlier chain of the clip
            has used the pair.
        max_samples: at most so many chains, spread evenly over all of them.

    Returns:
        Chains in the order of clip and start. Raises ValueError naming the key for an impossible value.
    """
    if num_frames < 1:
        raise ValueError(f"rollout.frames={num_frames}: need at least 1")
    if starts not in ("first", "disjoint"):
        raise ValueError(f"rollout.starts={starts!r}: choose first or disjoint")
    if max_samples is not None and max_samples < 1:
        raise ValueError(f"rollout.max_samples={max_samples}: need at least 1, or null for all")
    row_of = {(pair.clip, pair.reference): row for row, pair in enumerate(pairs)}
    used: set[int] = set()
    clips: set[str] = set()
    chains = []
    for (clip, _), first_row in sorted(row_of.items()):
        if first_row in used or (starts == "first" and clip in clips):
            continue
        rows, row = [], first_row
        while row is not None and row not in used and len(rows) < num_frames:
            rows.append(row)
            row = row_of.get((clip, pairs[row].successor))
        used.update(rows)
        clips.add(clip)
        chains.append(Chain(tuple(rows), tuple(pairs[row] for row in rows)))
    if max_samples is not None and len(chains) > max_samples:
        chains = [chains[int(i)] for i in np.linspace(0, len(chains) - 1, max_samples).round()]
    return chains


def frame_modalities(table: ModalityTable) -> dict[str, str]:
    """Those of `SUCCESSOR_OF` that a model knows of both frames."""
    return {name: later for name, later in SUCCESSOR_OF.items() if {name, later} <= set(table.modalities)}


def is_roll_out(generated: Sequence[str], table: ModalityTable) -> bool:
    """Whether what is generated is a whole successor, perhaps with parts of the reference."""
    return {*frame_modalities(table).values()} <= {*generated} and bool(frame_modalities(table))


def true_frames(tokens: np.ndarray, table: ModalityTable, chains: Sequence[Chain], num_frames: int) -> TokenFrames:
    """What the split says of the chains' frames; `tokens`: (num_pairs, S) rows of the token table, any integers."""
    shape = len(chains), num_frames + 1
    is_present, ids = np.zeros(shape, dtype=bool), _no_ids(shape, table)
    for n, chain in enumerate(chains):
        is_present[n, : len(chain.rows) + 1] = True
        for name, successor in frame_modalities(table).items():
            ids[name][n, 0] = tokens[chain.rows[0], table.columns(name)]
            ids[name][n, 1 : len(chain.rows) + 1] = tokens[list(chain.rows), table.columns(successor)]
    return TokenFrames(ids["tok_rgb"], ids["coords"], is_present)


def _no_ids(shape: tuple[int, int], table: ModalityTable) -> dict[str, np.ndarray]:
    has_pictures = "tok_rgb" in frame_modalities(table)
    length = table.max_seq_lens[table.index("tok_rgb")] if has_pictures else 0
    return {"tok_rgb": np.zeros((*shape, length), np.int64), "coords": np.zeros((*shape, COORDS_LENGTH), np.int64)}


def roll_out(
    model: EncoderDecoder,
    reference: Mapping[str, Tensor],
    schemes: Sequence[DecodingConfig],
    num_frames: int,
    seed: int,
    sample: Tensor,
    batch_size: int,
    on_step: Callable[[], None] = lambda: None,
    is_known: Mapping[str, Tensor] | None = None,
) -> TokenFrames:
    """Continue from reference frames.

    Args:
        model: in eval mode.
        reference: "tok_rgb" → (N, L) and "coords" → (N, 39), int64, on the model's device; what the model knows.
        schemes: for coords_next and tok_rgb_next, in the order in which they are generated. Those for coords and
            tok_rgb fill in what is not known of the reference.
        num_frames: T.
        seed, sample: see `m3.sampling.sampler.generate`, whose epoch is the horizon; sample is (N,) int64.
        batch_size: samples at a time.
        on_step: called after each step of the sampler, `num_steps` times.
        is_known: like the reference, bool: which of its tokens are given; None for all of them.

    Returns:
        (N, T + 1) frames, the reference first, with 0 for tokens that are neither known nor generated. Horizon k is
        generated from horizon k − 1 alone. Raises ValueError for schemes that do not generate each modality of the
        successor once.
    """
    check_schemes(schemes, model.table)
    names = frame_modalities(model.table)
    ids: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for rows in torch.arange(len(sample), device=sample.device).split(batch_size):
        tokens = torch.zeros(len(rows), model.table.num_tokens, dtype=torch.int64, device=sample.device)
        is_given = torch.zeros_like(tokens, dtype=torch.bool)
        for name in names:
            tokens[:, model.table.columns(name)] = reference[name][rows]
            is_given[:, model.table.columns(name)] = True if is_known is None else is_known[name][rows]
        frames = _frames(model, tokens, is_given, schemes, num_frames, seed, sample[rows], on_step)
        for name, steps in frames.items():
            ids[name].append(torch.stack(steps, 1).cpu().numpy())  # (B, T + 1, L)
    shape = len(sample), num_frames + 1
    whole = _no_ids(shape, model.table) | {name: np.concatenate(parts) for name, parts in ids.items()}
    return TokenFrames(whole["tok_rgb"], whole["coords"], np.ones(shape, dtype=bool))


def _frames(
    model: EncoderDecoder,
    tokens: Tensor,
    is_given: Tensor,
    schemes: Sequence[DecodingConfig],
    num_frames: int,
    seed: int,
    sample: Tensor,
    on_step: Callable[[], None],
) -> dict[str, list[Tensor]]:
    """From references, (B, S) tokens of which some are given, to [T + 1] tensors (B, L) of each modality of a frame."""
    names = frame_modalities(model.table)
    columns = {name: model.table.columns(name) for name in (*names, *names.values())}
    frames: dict[str, list[Tensor]] = {name: [] for name in names}
    for horizon in range(1, num_frames + 1):
        chosen = schemes if horizon == 1 else _of_successor(schemes)
        made = generate(model, tokens, is_given, chosen, seed, sample, horizon, on_step)
        if horizon == 1:
            for scheme in schemes:
                is_given[:, columns[scheme.modality]] = True
            for name in names:
                frames[name].append(made[:, columns[name]] * is_given[:, columns[name]])
        tokens, is_given = torch.zeros_like(made), torch.zeros_like(is_given)
        for name, successor in names.items():
            frames[name].append(made[:, columns[successor]])
            tokens[:, columns[name]], is_given[:, columns[name]] = frames[name][-1], True
    return frames


def num_steps(schemes: Sequence[DecodingConfig], num_frames: int, num_samples: int, batch_size: int) -> int:
    """Steps of the sampler in a roll-out."""
    of_successor = _of_successor(schemes)
    of_frame = [sum(scheme.num_steps for scheme in chosen) for chosen in (schemes, of_successor)]
    return -(-num_samples // batch_size) * (of_frame[0] + (num_frames - 1) * of_frame[1])


def _of_successor(schemes: Sequence[DecodingConfig]) -> list[DecodingConfig]:
    return [scheme for scheme in schemes if scheme.modality in SUCCESSOR_OF.values()]


def check_schemes(schemes: Sequence[DecodingConfig], table: ModalityTable) -> None:
    """Raises ValueError naming the key unless the schemes generate a whole successor with this model."""
    names = frame_modalities(table)
    generated = [scheme.modality for scheme in schemes]
    others = set(generated) - {*names, *names.values()}
    if not names or not is_roll_out(generated, table) or len(set(generated)) != len(generated) or others:
        raise ValueError(
            f"sampling generates {generated}: a roll-out with this model needs {list(names.values())}, each once"
        )
    for scheme in schemes:
        scheme.for_table(table)


def decode(frames: TokenFrames, tokenizer: PictureTokenizer, codec: JointCodec, canvas_size: int) -> Frames:
    """Tokens back to pictures and joints; a picture token grid is canvas_size / 16 on each side.

    Without picture tokens every picture is of one dark grey.
    """
    grid = canvas_size // PICTURE_STRIDE
    has_pictures = frames.tok_rgb.shape[-1] > 0
    pictures = np.full((*frames.is_present.shape, canvas_size, canvas_size, 3), 0 if has_pictures else _BLANK, np.uint8)
    where = np.argwhere(frames.is_present) if has_pictures else np.zeros((0, 2), int)
    for start in range(0, len(where), _FRAMES_AT_ONCE):
        sample, horizon = where[start : start + _FRAMES_AT_ONCE].T
        ids = torch.as_tensor(frames.tok_rgb[sample, horizon]).view(-1, grid, grid)
        with torch.inference_mode():
            pictures[sample, horizon] = to_frames(tokenizer.decode(ids))
    xy, is_visible = codec.decode(frames.coords.reshape(*frames.is_present.shape, 3, -1))
    return Frames(pictures, xy, is_visible, frames.is_present)
