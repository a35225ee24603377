"""Roll-out: generate the successor, relabel it as the reference, repeat. A completion is a roll-out of one step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from m3.batches.datamodule import SampleRows
from m3.core.frames import PairChain, TokenFrames, frame_length, frame_modalities, no_tokens, rolled_modalities
from m3.core.joints import NUM_JOINTS
from m3.core.modalities import CLIP_MODALITIES, GAPS, NOT_SEEN, TEXT, ModalityTable, frame_of, modality_at
from m3.core.types import PairInfo
from m3.model.encoder_decoder import EncoderDecoder
from m3.sampling.sampler import generate
from m3.sampling.settings import DecodingConfig
from m3.tokens.displacement import (
    decode_displacement,
    displaced,
    displacement_tokens,
    encode_displacement,
    places,
    usable_places,
)
from m3.tokens.text import is_content

Starts = Literal["disjoint", "history", "first"]
STARTS: tuple[Starts, ...] = get_args(Starts)


def find_chains(
    pairs: Sequence[PairInfo], num_frames: int, starts: Starts, max_samples: int | None = None
) -> list[PairChain]:
    """The chains of pairs to roll out: each a reference with the truth that follows.

    Args:
        pairs: rows of a split, in the order of its token table.
        num_frames: T, the maximum number of pairs in a chain. A chain is shorter where its clip, or the split, ends.
        starts: "first" starts at the first pair of each clip, "disjoint" wherever no earlier chain of the clip
            has used the pair, "history" likewise, but only at pairs with a frame before the reference.
        max_samples: maximum number of chains, evenly spaced over all of them; None: all.

    Returns:
        Chains in the order of clip and start. Raises ValueError naming the key for an impossible value.
    """
    if num_frames < 1:
        raise ValueError(f"rollout.frames={num_frames}: need at least 1")
    if starts not in STARTS:
        raise ValueError(f"rollout.starts={starts!r}: choose {', '.join(STARTS)}")
    if max_samples is not None and max_samples < 1:
        raise ValueError(f"rollout.max_samples={max_samples}: need at least 1, or null for all")
    row_of = {(pair.clip, pair.reference): row for row, pair in enumerate(pairs)}
    used: set[int] = set()
    clips: set[str] = set()
    chains = []
    for (clip, _), first_row in sorted(row_of.items()):
        if first_row in used or (starts == "first" and clip in clips):
            continue
        if starts == "history" and pairs[first_row].previous is None:
            continue
        rows, row = [], first_row
        while row is not None and row not in used and len(rows) < num_frames:
            rows.append(row)
            row = row_of.get((clip, pairs[row].successor))
        used.update(rows)
        clips.add(clip)
        chains.append(PairChain(tuple(rows), tuple(pairs[row] for row in rows)))
    if max_samples is not None and len(chains) > max_samples:
        chains = [chains[int(i)] for i in np.linspace(0, len(chains) - 1, max_samples).round()]
    return chains


def true_frames(tokens: RowTokens, table: ModalityTable, chains: Sequence[PairChain], num_frames: int) -> TokenFrames:
    """The frames of chains, (N, T + 1). Tokens are known where a pair has them.

    tokens: of all rows of the chains, in the modalities of the table.
    """
    frames = no_tokens(table, (len(chains), num_frames + 1))
    for n, chain in enumerate(chains):
        last = len(chain.rows)
        frames.is_present[n, : last + 1] = True
        for modality in table.modalities:
            name, frame = frame_of(modality)
            ids, is_known = tokens.of(modality, chain.rows)
            if name in CLIP_MODALITIES:
                frames.ids[name][n], frames.is_known[name][n] = ids[0], is_known[0]
            elif frame == 0:
                frames.ids[name][n, 0], frames.is_known[name][n, 0] = ids[0], is_known[0]
            elif frame == 1:
                frames.ids[name][n, 1 : last + 1], frames.is_known[name][n, 1 : last + 1] = ids, is_known
    return frames


@dataclass(frozen=True)
class RowTokens:
    """Tokens of some rows of a split.

    rows: (R,) int64, ascending. tokens: (R, S) int64 in the order of `table`. lengths: (R, K) int64.
    """

    table: ModalityTable
    rows: np.ndarray
    tokens: np.ndarray
    lengths: np.ndarray

    @classmethod
    def read(cls, samples: SampleRows, rows: np.ndarray) -> RowTokens:
        tokens, lengths = samples.read(rows)
        whole = np.broadcast_to(samples.table.max_seq_lens, (len(rows), samples.table.num_modalities))
        return cls(samples.table, rows, tokens.numpy(), whole if lengths is None else lengths.numpy())

    def of(self, modality: str, rows: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """(n, L) int64 ids of a modality in some rows, and (n, L) bool, True where a row has the token."""
        places = np.searchsorted(self.rows, rows)
        ids = self.tokens[places, self.table.columns(modality)]
        return ids, np.arange(ids.shape[1]) < self.lengths[places, self.table.index(modality), None]


def rolls_out(generated: Sequence[str], table: ModalityTable) -> bool:
    """Whether the generated modalities include all of the successor."""
    rolled = rolled_modalities(table)
    return bool(rolled) and {*rolled.values()} <= {*generated}


def check_schemes(schemes: Sequence[DecodingConfig], table: ModalityTable) -> None:
    """Raises ValueError naming the key unless the schemes generate a whole successor with this model."""
    rolled = rolled_modalities(table)
    generated = [scheme.modality for scheme in schemes]
    others = {name for name in generated if frame_of(name)[1] == 1} - {*rolled.values()}
    if not rolls_out(generated, table) or len(set(generated)) != len(generated) or others:
        raise ValueError(
            f"sampling generates {generated}: a roll-out with this model needs {list(rolled.values())}, each once"
        )
    for scheme in schemes:
        scheme.for_table(table)


def roll_out(
    model: EncoderDecoder,
    given: TokenFrames,
    schemes: Sequence[DecodingConfig],
    num_frames: int,
    seed: int,
    sample: Tensor,
    batch_size: int,
    on_step: Callable[[], object] = lambda: None,
    first_epoch: int = 1,
    history: TokenFrames | None = None,
    damping: float = 1.0,
) -> TokenFrames:
    """Continue from reference frames, or with one step: complete pairs of frames.

    The successor becomes the reference and the reference the previous frame. Joints that follow from displacements are
    rounded to tokens for the model, and carried on without rounding.

    Args:
        model: in eval mode.
        given: (N, 2) frames, or more: the known tokens of the references and of their first successors; and of later
            frames only the gaps GAPS, which are the steps that are asked for.
        schemes: in the order in which modalities are generated. Those of the reference generate its unknown
            tokens; above one step those of the successor must cover all of its modalities (`check_schemes`).
        num_frames: T.
        seed, sample: see `m3.sampling.sampler.generate`; sample is (N,) int64 on the model's device.
        batch_size: samples at a time.
        on_step: called after each step of the sampler, `num_steps` times.
        first_epoch: epoch of the sampler at horizon 1; it increases by 1 per horizon. Two generations of the same
            samples in different epochs are independent.
        history: (N, 1) frames: the known tokens of the frames before the references; None: none are known.
        damping: factor on the displacements of roll-outs that start without a history that the model takes: damping^k
            in step k + 1, of what the model predicts after the damped steps before. From one frame the direction of a
            motion is a guess, which each further step would take for known.

    Returns:
        (N, T + 1) frames, all present, the reference first. Horizon k is generated from horizon k − 1, and the frame
        before it, alone.

    Raises:
        ValueError above one step for schemes that do not generate each modality of the successor once.
    """
    if num_frames > 1:
        check_schemes(schemes, model.table)
    if history is None:
        history = no_tokens(model.table, (len(sample), 1))
    parts = []
    for rows in torch.arange(len(sample), device=sample.device).split(batch_size):
        own = rows.cpu().numpy()
        state = _State.of(given[own], history[own], model.table, sample.device, damping)
        for horizon in range(1, num_frames + 1):
            chosen = schemes if horizon == 1 else _of_successor(schemes)
            for stage in _stages(chosen):
                made = generate(model, state.tokens, state.is_known, stage, seed, sample[rows],
                                first_epoch + horizon - 1, on_step, state.displacement)  # fmt: skip
                state.take(made, stage)
            state.advance()
        parts.append(state)
    names = frame_modalities(model.table)
    ids, is_known = (
        {name: np.concatenate([part.stacked(which, name) for part in parts]) for name in names}
        for which in ("ids", "are_known")
    )
    return TokenFrames(ids, is_known, np.ones((len(sample), num_frames + 1), dtype=bool))


def _stages(schemes: Sequence[DecodingConfig]) -> list[list[DecodingConfig]]:
    """The schemes up to that of motion_next, from which the successor's joints follow, and those after it."""
    names = [scheme.modality for scheme in schemes]
    after = names.index("motion_next") + 1 if "motion_next" in names else len(schemes)
    return [list(stage) for stage in (schemes[:after], schemes[after:]) if stage]


def first_input(given: tuple[TokenFrames, TokenFrames], table: ModalityTable) -> tuple[Tensor, Tensor]:
    """The tokens with which a roll-out, or a completion, begins.

    given: from `Prompts.given`: (N, 2) frames or more, and (N, 1) frames of the history.
    Returns (N, S) int64 tokens in the order of the table, 0 where unknown, and (N, S) bool is_known, on the CPU.
    """
    state = _State.of(*given, table, torch.device("cpu"), damping=1.0)
    return state.tokens, state.is_known


class _State:
    """The state of a roll-out of B samples.

    tokens, is_known: (B, S) int64 and bool, input of the next step of the sampler.
    displacement: (B, 13, 2) float64 of motion_next, not rounded to cells.
    ids, are_known: modality → the frames so far, each (B, L).
    """

    def __init__(self, table: ModalityTable, given: TokenFrames, device: torch.device) -> None:
        shape = len(given.is_present), table.num_tokens
        self.table, self._given = table, given
        self.tokens = torch.zeros(shape, dtype=torch.int64, device=device)
        self.is_known = torch.zeros(shape, dtype=torch.bool, device=device)
        self.displacement = torch.zeros(shape[0], NUM_JOINTS, 2, dtype=torch.float64, device=device)
        self.ids: dict[str, list[Tensor]] = {}
        self.are_known: dict[str, list[Tensor]] = {}
        self._xy: np.ndarray | None = None  # (B, 13, 2) float64 bins of the reference's joints, once they follow
        self._successor: tuple[np.ndarray, np.ndarray] | None = None  # tokens and places of the successor's joints
        self._is_derived = torch.zeros(0, dtype=torch.bool)  # (B, 39) of the successor's joints
        self._damping = torch.ones(shape[0], dtype=torch.float64, device=device)  # (B,)

    @classmethod
    def of(
        cls,
        given: TokenFrames,
        history: TokenFrames,
        table: ModalityTable,
        device: torch.device,
        damping: float,
    ) -> _State:
        state = cls(table, given, device)
        for modality in table.modalities:
            name, frame = frame_of(modality)
            source, index = (history, 0) if frame < 0 else (given, frame)
            state._set(modality, *(getattr(source, part)[name][:, index] for part in ("ids", "is_known")))
        if "motion_prev" in table.modalities:
            has_history = state.is_known[:, table.columns("motion_prev")].any(1)
            state._damping = torch.where(has_history, 1.0, damping).double()
        if "motion_next" in table.modalities:
            state.displacement[:] = decode_displacement(state.tokens[:, table.columns("motion_next")])[0]
        state._derive_successor()
        return state

    def _set(self, modality: str, ids: np.ndarray | Tensor, is_known: np.ndarray | Tensor) -> None:
        columns, device = self.table.columns(modality), self.tokens.device
        self.is_known[:, columns] = torch.as_tensor(is_known, device=device)
        self.tokens[:, columns] = torch.as_tensor(ids, device=device) * self.is_known[:, columns]

    def take(self, made: Tensor, schemes: Sequence[DecodingConfig]) -> None:
        """Takes over what the schemes generated, (B, S), and the joints that follow from a displacement."""
        for scheme in schemes:
            columns = self.table.columns(scheme.modality)
            is_text = self.table.vocabularies[self.table.index(scheme.modality)].name == TEXT
            is_known = is_content(made[:, columns]) if is_text else torch.ones_like(made[:, columns], dtype=torch.bool)
            self._set(scheme.modality, made[:, columns], is_known)
            if scheme.modality == "motion_next":
                self._damp()
        self._derive_successor()

    def _damp(self) -> None:
        """Shortens the displacements of roll-outs without history; their tokens follow."""
        factor = self._damping ** (self._horizon - 1)
        is_damped = factor != 1
        if is_damped.any():
            columns = self.table.columns("motion_next")
            self.displacement *= factor[:, None, None]
            ids = encode_displacement(self.displacement, self.tokens[:, columns] != NOT_SEEN)
            self.tokens[:, columns] = torch.where(is_damped[:, None], ids, self.tokens[:, columns])

    @property
    def _horizon(self) -> int:
        """Of the successor, from 1 on."""
        return len(next(iter(self.ids.values()), [()]))

    def _derive_successor(self) -> None:
        """Joints of the successor, where the table derives them and the displacement is known."""
        if "coords" not in self.table.modalities or "motion_next" not in self.table.modalities:
            return
        motion = self.tokens[:, self.table.columns("motion_next")].cpu().numpy()
        earlier = self._poses("coords")
        is_moved = self.is_known[:, self.table.columns("motion_next")].cpu().numpy()  # (B, 13)
        is_moved &= usable_places(earlier).any(-1, keepdims=True)  # without a pose there is nothing to move
        if not is_moved.any():
            return
        xy = places(earlier) if self._xy is None else self._xy
        self._successor = displaced(earlier, xy, self.displacement.cpu().numpy(), is_moved & (motion != NOT_SEEN))
        self._is_derived = torch.as_tensor(np.tile(is_moved, 3), device=self.tokens.device)
        if "coords_next" in self.table.modalities:
            columns = self.table.columns("coords_next")
            derived = torch.as_tensor(self._successor[0].reshape(len(motion), -1), device=self.tokens.device)
            is_new = self._is_derived & ~self.is_known[:, columns]  # given joints never change
            self.tokens[:, columns] = torch.where(is_new, derived, self.tokens[:, columns])
            self.is_known[:, columns] |= is_new

    def _poses(self, modality: str) -> np.ndarray:
        """(B, 3, 13) int64; unknown joints are invisible and have no place."""
        return self.tokens[:, self.table.columns(modality)].cpu().numpy().reshape(-1, 3, NUM_JOINTS)

    def advance(self) -> None:
        """Keeps the frames of a step, and relabels successor as reference and reference as previous frame."""
        horizon = self._horizon
        for name in frame_modalities(self.table):
            if name not in self.ids:
                self._keep(name, *self._part(name, 0))
            if name in CLIP_MODALITIES:
                self._keep(name, self.ids[name][-1], self.are_known[name][-1])
            elif name == "coords" and self._successor is not None and "coords_next" not in self.table.modalities:
                ids = torch.as_tensor(self._successor[0].reshape(len(self.tokens), -1), device=self.tokens.device)
                self._keep(name, ids * self._is_derived, self._is_derived)
            else:
                self._keep(name, *self._part(name, 1))
        self.tokens, self.is_known = torch.zeros_like(self.tokens), torch.zeros_like(self.is_known)
        self._xy = None if self._successor is None else self._successor[1]
        for modality in self.table.modalities:
            name, frame = frame_of(modality)
            if frame < 1:
                self._set(modality, self.ids[name][frame - 1], self.are_known[name][frame - 1])
                if modality == "motion_prev" and self._successor is not None:
                    self._hide_what_left(self._successor[0][:, 2] > 0)
            elif name in GAPS and horizon + 1 < self._given.is_present.shape[1]:
                self._set(modality, *(getattr(self._given, part)[name][:, horizon + 1] for part in ("ids", "is_known")))
        self._successor = None
        self._derive_history()

    def _hide_what_left(self, is_visible: np.ndarray) -> None:
        """A joint that is invisible after its displacement, (B, 13), is `NOT_SEEN`, as in the data."""
        columns = self.table.columns("motion_prev")
        is_hidden = self.is_known[:, columns] & ~torch.as_tensor(is_visible, device=self.tokens.device)
        self.tokens[:, columns] = self.tokens[:, columns].masked_fill(is_hidden, NOT_SEEN)

    def _derive_history(self) -> None:
        """motion_prev from two poses, for models that predict places and not displacements."""
        names = self.table.modalities
        if "motion_prev" in names and "motion_next" not in names and "coords" in self.ids:
            earlier, later = (self.ids["coords"][index].cpu().numpy().reshape(-1, 3, NUM_JOINTS) for index in (-2, -1))
            is_known = (self.are_known["coords"][-2].all(1) & self.are_known["coords"][-1].all(1))[:, None]
            self._set("motion_prev", displacement_tokens(earlier, later), is_known.expand(-1, NUM_JOINTS))

    def _part(self, name: str, frame: int) -> tuple[Tensor, Tensor]:
        """Tokens and is_known of a frame, (B, L); unknown where the table lacks the modality."""
        modality = modality_at(name, frame)
        if modality is not None and modality in self.table.modalities:
            columns = self.table.columns(modality)
            return self.tokens[:, columns], self.is_known[:, columns]
        like = self.tokens.new_zeros(len(self.tokens), frame_length(self.table, name))
        return like, like.bool()

    def _keep(self, name: str, ids: Tensor, is_known: Tensor) -> None:
        """Appends a frame of modality `name`."""
        self.ids.setdefault(name, []).append(ids)
        self.are_known.setdefault(name, []).append(is_known)

    def stacked(self, which: Literal["ids", "are_known"], name: str) -> np.ndarray:
        """(B, T + 1, L)."""
        return torch.stack(getattr(self, which)[name], 1).cpu().numpy()


def num_steps(schemes: Sequence[DecodingConfig], num_frames: int, num_samples: int, batch_size: int) -> int:
    """Steps of the sampler in a roll-out."""
    per_frame = [sum(scheme.num_steps or 1 for scheme in chosen) for chosen in (schemes, _of_successor(schemes))]
    return -(-num_samples // batch_size) * (per_frame[0] + (num_frames - 1) * per_frame[1])


def _of_successor(schemes: Sequence[DecodingConfig]) -> list[DecodingConfig]:
    return [scheme for scheme in schemes if frame_of(scheme.modality)[1] == 1]
