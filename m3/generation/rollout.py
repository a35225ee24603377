"""Roll-out: generate the successor, relabel it as the reference, repeat. A completion is a roll-out of one step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from m3.core.frames import PairChain, TokenFrames, frame_modalities, no_tokens, rolled_modalities
from m3.core.modalities import ModalityTable, frame_of, successor_of
from m3.core.types import PairInfo
from m3.model.encoder_decoder import EncoderDecoder
from m3.sampling.sampler import generate
from m3.sampling.settings import DecodingConfig, Sampling


def find_chains(
    pairs: Sequence[PairInfo], num_frames: int, starts: Literal["first", "disjoint"], max_samples: int | None = None
) -> list[PairChain]:
    """The chains of pairs to roll out: each a reference with the truth that follows.

    Args:
        pairs: rows of a split, in the order of its token table.
        num_frames: T, the maximum number of pairs in a chain. A chain is shorter where its clip, or the split, ends.
        starts: "first" starts at the first pair of each clip, "disjoint" wherever no earlier chain of the clip
            has used the pair.
        max_samples: maximum number of chains, evenly spaced over all of them; None: all.

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
        chains.append(PairChain(tuple(rows), tuple(pairs[row] for row in rows)))
    if max_samples is not None and len(chains) > max_samples:
        chains = [chains[int(i)] for i in np.linspace(0, len(chains) - 1, max_samples).round()]
    return chains


def true_frames(tokens: np.ndarray, table: ModalityTable, chains: Sequence[PairChain], num_frames: int) -> TokenFrames:
    """The frames of chains, from (num_pairs, S) rows of the token table, any integers. All tokens are known."""
    frames = no_tokens(table, (len(chains), num_frames + 1))
    for n, chain in enumerate(chains):
        last = len(chain.rows)
        frames.is_present[n, : last + 1] = True
        for name in frame_modalities(table):
            if name in table.modalities:
                frames.ids[name][n, 0] = tokens[chain.rows[0], table.columns(name)]
                frames.is_known[name][n, 0] = True
            if (later := successor_of(name)) in table.modalities:
                frames.ids[name][n, 1 : last + 1] = tokens[list(chain.rows), table.columns(later)]
                frames.is_known[name][n, 1 : last + 1] = True
    return frames


def rolls_out(generated: Sequence[str], table: ModalityTable) -> bool:
    """Whether the generated modalities include all of the successor."""
    rolled = rolled_modalities(table)
    return bool(rolled) and {*rolled.values()} <= {*generated}


def whole_successor(sampling: Sampling, table: ModalityTable, has_references: bool = True) -> Sampling:
    """The sampling, which also gives and generates the modalities of `extra_vocabularies` if it generates all others.

    The defaults of `conf/sampling` name only the modalities that m3 itself has.

    has_references: False where prompts have none of the extra modalities to give, as files have not.
    """
    extra = table.extra_vocabularies or {}
    rolled = rolled_modalities(table)
    own = {later for name, later in rolled.items() if name not in extra}
    if not own or not own <= set(sampling.generate):
        return sampling
    unnamed = [later for later in rolled.values() if later not in sampling.generate]
    is_giving = has_references and len(sampling.given) > 0
    given = [name for name, later in rolled.items() if is_giving and later in unnamed and name not in sampling.given]
    return replace(sampling, given=[*sampling.given, *given], generate=[*sampling.generate, *unnamed])


def check_schemes(schemes: Sequence[DecodingConfig], table: ModalityTable) -> None:
    """Raises ValueError naming the key unless the schemes generate a whole successor with this model."""
    rolled = rolled_modalities(table)
    generated = [scheme.modality for scheme in schemes]
    others = set(generated) - {*rolled, *rolled.values()}
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
) -> TokenFrames:
    """Continue from reference frames, or with one step: complete pairs of frames.

    Args:
        model: in eval mode.
        given: (N, 2) frames: the known tokens of the references and of their first successors.
        schemes: in the order in which modalities are generated. Those of the reference generate its unknown
            tokens; above one step those of the successor must cover all of its modalities (`check_schemes`).
        num_frames: T.
        seed, sample: see `m3.sampling.sampler.generate`; sample is (N,) int64 on the model's device.
        batch_size: samples at a time.
        on_step: called after each step of the sampler, `num_steps` times.
        first_epoch: epoch of the sampler at horizon 1; it increases by 1 per horizon. Two generations of the same
            samples in different epochs are independent.

    Returns:
        (N, T + 1) frames, all present, the reference first. Horizon k is generated from horizon k − 1 alone.

    Raises:
        ValueError above one step for schemes that do not generate each modality of the successor once.
    """
    if num_frames > 1:
        check_schemes(schemes, model.table)
    parts = []
    for rows in torch.arange(len(sample), device=sample.device).split(batch_size):
        state = _State.of(given[rows.cpu().numpy()], model.table, sample.device)
        for horizon in range(1, num_frames + 1):
            chosen = schemes if horizon == 1 else _of_successor(schemes)
            state.step(generate(model, state.tokens, state.is_known, chosen, seed, sample[rows],
                                first_epoch + horizon - 1, on_step), chosen)  # fmt: skip
        parts.append(state)
    names = frame_modalities(model.table)
    ids, is_known = (
        {name: np.concatenate([part.stacked(which, name) for part in parts]) for name in names}
        for which in ("ids", "are_known")
    )
    return TokenFrames(ids, is_known, np.ones((len(sample), num_frames + 1), dtype=bool))


@dataclass
class _State:
    """The state of a roll-out of B samples.

    tokens, is_known: (B, S) int64 and bool, input of the next step.
    ids, are_known: modality → the frames so far, each (B, L).
    """

    table: ModalityTable
    tokens: Tensor
    is_known: Tensor
    ids: dict[str, list[Tensor]] = field(default_factory=dict)
    are_known: dict[str, list[Tensor]] = field(default_factory=dict)

    @classmethod
    def of(cls, given: TokenFrames, table: ModalityTable, device: torch.device) -> _State:
        shape = len(given.is_present), table.num_tokens
        state = cls(table, torch.zeros(shape, dtype=torch.int64, device=device),
                    torch.zeros(shape, dtype=torch.bool, device=device))  # fmt: skip
        for modality in table.modalities:
            (name, frame), columns = frame_of(modality), table.columns(modality)
            state.tokens[:, columns] = torch.as_tensor(given.ids[name][:, frame], device=device)
            state.is_known[:, columns] = torch.as_tensor(given.is_known[name][:, frame], device=device)
        return state

    def step(self, made: Tensor, schemes: Sequence[DecodingConfig]) -> None:
        """Keeps the frames of a step, (B, S) tokens generated by the schemes, and relabels successor as reference."""
        for scheme in schemes:
            self.is_known[:, self.table.columns(scheme.modality)] = True
        made = made * self.is_known
        tokens, is_known = torch.zeros_like(made), torch.zeros_like(self.is_known)
        for name in frame_modalities(self.table):
            if name not in self.ids:
                self._keep(name, name, made)
            self._keep(name, successor_of(name), made)
            if name in self.table.modalities:
                tokens[:, self.table.columns(name)] = self.ids[name][-1]
                is_known[:, self.table.columns(name)] = self.are_known[name][-1]
        self.tokens, self.is_known = tokens, is_known

    def _keep(self, name: str, modality: str, made: Tensor) -> None:
        """Appends a frame of modality `name`; its tokens are unknown where the table lacks `modality`."""
        ids, are_known = self.ids.setdefault(name, []), self.are_known.setdefault(name, [])
        if modality in self.table.modalities:
            columns = self.table.columns(modality)
            ids.append(made[:, columns])
            are_known.append(self.is_known[:, columns])
        else:
            like = made[:, self.table.columns(name if name in self.table.modalities else successor_of(name))]
            ids.append(torch.zeros_like(like))
            are_known.append(torch.zeros_like(like, dtype=torch.bool))

    def stacked(self, which: Literal["ids", "are_known"], name: str) -> np.ndarray:
        """(B, T + 1, L)."""
        return torch.stack(getattr(self, which)[name], 1).cpu().numpy()


def num_steps(schemes: Sequence[DecodingConfig], num_frames: int, num_samples: int, batch_size: int) -> int:
    """Steps of the sampler in a roll-out."""
    per_frame = [sum(scheme.num_steps or 1 for scheme in chosen) for chosen in (schemes, _of_successor(schemes))]
    return -(-num_samples // batch_size) * (per_frame[0] + (num_frames - 1) * per_frame[1])


def _of_successor(schemes: Sequence[DecodingConfig]) -> list[DecodingConfig]:
    return [scheme for scheme in schemes if frame_of(scheme.modality)[1]]
