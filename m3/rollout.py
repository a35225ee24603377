"""Roll-out: generate the successor, relabel it as the reference, repeat; and the truth to compare it with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from m3.modalities import PICTURE_STRIDE, ModalityTable
from m3.model.encoder_decoder import EncoderDecoder
from m3.records import PairInfo
from m3.sampling.sampler import generate
from m3.sampling.settings import SchemeSettings
from m3.tokens.base import PictureTokenizer, to_frames
from m3.tokens.joints import JointCodec

SUCCESSOR_OF = {"tok_rgb": "tok_rgb_next", "coords": "coords_next"}
"""The modalities of a frame, and their names where the frame is the successor."""

_FRAMES_AT_ONCE = 64


@dataclass(frozen=True)
class Chain:
    """Pairs of one clip, each one's successor frame being the next one's reference frame.

    rows: of the token table. Row k − 1 ends at horizon k, so the truth reaches to horizon len(rows).
    pairs: of the same rows.
    """

    rows: tuple[int, ...]
    pairs: tuple[PairInfo, ...]

    @property
    def title(self) -> str:
        """What a caption says of it: "golf swing · clip 0934, frame 12"."""
        first = self.pairs[0]
        action = f"{first.action.replace('_', ' ')} · " if first.action else ""
        return f"{action}clip {first.clip}, frame {first.reference}"


@dataclass(frozen=True)
class TokenFrames:
    """Frames as tokens: N samples of a reference frame (index 0) and its T successors (horizons 1 … T).

    tok_rgb: (N, T + 1, L) int64.
    coords: (N, T + 1, 39) int64.
    is_present: (N, T + 1) bool, False at horizons that the truth does not reach; ids are 0 there.
    """

    tok_rgb: np.ndarray
    coords: np.ndarray
    is_present: np.ndarray


@dataclass(frozen=True)
class Frames:
    """`TokenFrames`, decoded: what a person sees and what is scored.

    pictures: (N, T + 1, H, W, 3) uint8 RGB, black where not present.
    xy: (N, T + 1, 13, 2) float64 canvas pixels.
    is_visible: (N, T + 1, 13) bool.
    is_present: (N, T + 1) bool.
    """

    pictures: np.ndarray
    xy: np.ndarray
    is_visible: np.ndarray
    is_present: np.ndarray

    def samples(self, rows: Sequence[int]) -> Frames:
        """The frames of some samples, in that order."""
        chosen = list(rows)
        return Frames(self.pictures[chosen], self.xy[chosen], self.is_visible[chosen], self.is_present[chosen])


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


def true_frames(tokens: np.ndarray, table: ModalityTable, chains: Sequence[Chain], num_frames: int) -> TokenFrames:
    """What the split says of the chains' frames; `tokens`: (num_pairs, S) rows of the token table, any integers."""
    shape = len(chains), num_frames + 1
    is_present = np.zeros(shape, dtype=bool)
    ids = {name: np.zeros((*shape, table.max_seq_lens[table.index(name)]), np.int64) for name in SUCCESSOR_OF}
    for n, chain in enumerate(chains):
        is_present[n, : len(chain.rows) + 1] = True
        for name, successor in SUCCESSOR_OF.items():
            ids[name][n, 0] = tokens[chain.rows[0], table.columns(name)]
            ids[name][n, 1 : len(chain.rows) + 1] = tokens[list(chain.rows), table.columns(successor)]
    return TokenFrames(ids["tok_rgb"], ids["coords"], is_present)


def roll_out(
    model: EncoderDecoder,
    reference: dict[str, Tensor],
    schemes: Sequence[SchemeSettings],
    num_frames: int,
    seed: int,
    sample: Tensor,
    batch_size: int,
    on_step: Callable[[], None] = lambda: None,
) -> TokenFrames:
    """Continue from reference frames.

    Args:
        model: in eval mode.
        reference: "tok_rgb" → (N, L) and "coords" → (N, 39), int64, on the model's device.
        schemes: for coords_next and tok_rgb_next, in the order in which they are generated.
        num_frames: T.
        seed, sample: see `m3.sampling.sampler.generate`, whose epoch is the horizon; sample is (N,) int64.
        batch_size: samples at a time.
        on_step: called after each step of the sampler, `num_steps` times.

    Returns:
        (N, T + 1) frames, the reference first. Horizon k is generated from horizon k − 1 alone.
        Raises ValueError for schemes that do not generate each modality of the successor once.
    """
    check_schemes(schemes, model.table)
    ids: dict[str, list[np.ndarray]] = {name: [] for name in SUCCESSOR_OF}
    for rows in torch.arange(len(sample), device=sample.device).split(batch_size):
        frames = {name: [reference[name][rows]] for name in SUCCESSOR_OF}
        for horizon in range(1, num_frames + 1):
            newest = {name: steps[-1] for name, steps in frames.items()}
            successor = _successor(model, newest, schemes, seed, sample[rows], horizon, on_step)
            for name in SUCCESSOR_OF:
                frames[name].append(successor[name])
        for name, steps in frames.items():
            ids[name].append(torch.stack(steps, 1).cpu().numpy())  # (B, T + 1, L)
    tok_rgb, coords = (np.concatenate(ids[name]) for name in ("tok_rgb", "coords"))
    return TokenFrames(tok_rgb, coords, np.ones(tok_rgb.shape[:2], dtype=bool))


def num_steps(schemes: Sequence[SchemeSettings], num_frames: int, num_samples: int, batch_size: int) -> int:
    """Steps of the sampler in a roll-out."""
    return -(-num_samples // batch_size) * num_frames * sum(scheme.num_steps for scheme in schemes)


def _successor(
    model: EncoderDecoder,
    reference: dict[str, Tensor],
    schemes: Sequence[SchemeSettings],
    seed: int,
    sample: Tensor,
    horizon: int,
    on_step: Callable[[], None],
) -> dict[str, Tensor]:
    """One frame further: (B, L) for each modality of a frame → the same of its successor."""
    tokens = torch.zeros(len(sample), model.table.num_tokens, dtype=torch.int64, device=sample.device)
    is_known = torch.zeros_like(tokens, dtype=torch.bool)
    for name, ids in reference.items():
        tokens[:, model.table.columns(name)] = ids
        is_known[:, model.table.columns(name)] = True
    tokens = generate(model, tokens, is_known, schemes, seed, sample, horizon, on_step)
    return {name: tokens[:, model.table.columns(successor)] for name, successor in SUCCESSOR_OF.items()}


def check_schemes(schemes: Sequence[SchemeSettings], table: ModalityTable) -> None:
    """Raises ValueError naming the key unless the schemes generate a whole successor with this model."""
    generated = [scheme.modality for scheme in schemes]
    if sorted(generated) != sorted(SUCCESSOR_OF.values()):
        raise ValueError(f"sampling generates {generated}: a roll-out needs {list(SUCCESSOR_OF.values())}, each once")
    for name in (*SUCCESSOR_OF, *generated):
        table.index(name)
    for scheme in schemes:
        scheme.for_table(table)


def decode(frames: TokenFrames, tokenizer: PictureTokenizer, codec: JointCodec, canvas_size: int) -> Frames:
    """Tokens back to pictures and joints; a picture token grid is canvas_size / 16 on each side."""
    grid = canvas_size // PICTURE_STRIDE
    pictures = np.zeros((*frames.is_present.shape, canvas_size, canvas_size, 3), np.uint8)
    where = np.argwhere(frames.is_present)
    for chunk in np.array_split(where, max(1, -(-len(where) // _FRAMES_AT_ONCE))):
        sample, horizon = chunk.T
        ids = torch.as_tensor(frames.tok_rgb[sample, horizon]).view(-1, grid, grid)
        with torch.inference_mode():
            pictures[sample, horizon] = to_frames(tokenizer.decode(ids))
    xy, is_visible = codec.decode(frames.coords.reshape(*frames.is_present.shape, 3, -1))
    return Frames(pictures, xy, is_visible, frames.is_present)


def nothing_moves(frames: Frames) -> Frames:
    """The baseline: every successor is the reference frame, its picture and its joints."""

    def repeat(values: np.ndarray) -> np.ndarray:
        return np.broadcast_to(values[:, :1], values.shape)

    return Frames(repeat(frames.pictures), repeat(frames.xy), repeat(frames.is_visible), repeat(frames.is_present))
