"""A trained model at work: from starts to roll-outs and their scores, or to completed pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from m3.checkpoint import LoadedModel
from m3.core.frames import Frames, TokenFrames
from m3.core.modalities import ModalityTable
from m3.core.progress import progress_callback
from m3.core.validation import check
from m3.generation.completion import Completion, Filled, complete, completion_scores, given_pairs
from m3.generation.prompts import Starts, completed_truth
from m3.generation.rollout import (
    SUCCESSOR_OF,
    check_schemes,
    decode,
    frame_modalities,
    is_roll_out,
    num_steps,
    roll_out,
)
from m3.metrics import Context, Draw, RolloutTokens, Score, score
from m3.reporting.figures import panels
from m3.sampling.given import named_modality
from m3.sampling.settings import DecodingConfig, Sampling
from m3.tokens.base import PictureTokenizer
from m3.tokens.joints import JointCodec


@dataclass(frozen=True)
class RollOuts:
    """All that was generated from N starts, and its truth.

    predicted: (N, T + 1) frames and their tokens, as sampling.schemes says.
    truth: (N, T + 1) frames of the starts' tokens.
    argmax: with the likeliest id everywhere. draws: drawn at random. Both only where several were asked for.
    is_reference_made: whether parts of the references were generated too.
    """

    starts: Starts
    predicted: Draw
    truth: Frames
    argmax: Draw | None = None
    draws: Sequence[Draw] = ()
    is_reference_made: bool = False

    def panels_of(self, rows: Sequence[int], num_draws: int) -> list[tuple[str, Frames]]:
        """What pictures of some starts show."""
        drawn = [draw.frames.samples(rows) for draw in self.draws[:num_draws]]
        return panels(self.predicted.frames.samples(rows), self.truth.samples(rows), drawn)


@dataclass(frozen=True)
class Generator:
    """What is the same for every start.

    sampling: what is given and generated, and how.
    seed: of what is sampled. batch_size: samples at a time; changes nothing but speed, up to rounding.
    num_draws: above 1, so many are drawn at random from each start besides.
    draw_changes: modality → what of its scheme is otherwise for them.
    """

    loaded: LoadedModel
    tokenizer: PictureTokenizer
    sampling: Sampling
    seed: int = 0
    batch_size: int = 32
    num_draws: int = 1
    draw_changes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check("rollout.batch_size", self.batch_size, int, low=1)
        check("rollout.num_samples", self.num_draws, int, low=1)
        for name, changes in self.draw_changes.items():
            if not isinstance(changes, Mapping | None):
                raise ValueError(f"rollout.sample_schemes.{name}={changes!r}: need keys of sampling.schemes.{name}")
            try:
                drawn = self.sampling.scheme(name, changes)
                if self.num_draws > 1 and name in self.sampling.generate:
                    drawn.for_table(self.table)
            except ValueError as error:
                raise ValueError(f"rollout.sample_schemes.{name}: {error}") from error

    @property
    def table(self) -> ModalityTable:
        return self.loaded.table

    @property
    def codec(self) -> JointCodec:
        return JointCodec(self.loaded.data["canvas_size"])

    @property
    def device(self) -> torch.device:
        return next(self.loaded.model.parameters()).device

    @property
    def rolls_out(self) -> bool:
        """Whether a whole successor is generated, which can be the next reference, and nothing of it is given."""
        given = {named_modality(entry) for entry in self.sampling.given}
        return is_roll_out(self.sampling.generate, self.table) and not given & {*SUCCESSOR_OF.values()}

    def decoded(self, tokens: TokenFrames) -> Frames:
        return decode(tokens, self.tokenizer, self.codec, self.codec.canvas_size)

    def check_roll_out(self) -> None:
        """Raises ValueError naming the key unless there is a whole successor, and a reference picture to go on from."""
        schemes = self.sampling.for_table(self.table)
        check_schemes(schemes, self.table)
        if "tok_rgb" in frame_modalities(self.table) and "tok_rgb" not in self.sampling.generate:
            if not self.sampling.is_given(self.table)[self.table.columns("tok_rgb")].all():
                raise ValueError(
                    "sampling.given: a roll-out goes on from a picture: give tok_rgb as a whole, or put it first in "
                    "sampling.generate"
                )

    def roll_out(self, starts: Starts, num_frames: int) -> RollOuts:
        """num_frames: T, that of the starts. Joints of the references that nobody annotated are generated first."""
        self.check_roll_out()
        schemes, is_given = self.sampling.for_table(self.table), self.sampling.is_given(self.table)
        if self._lacks_joints(starts, is_given):
            schemes = [self.sampling.scheme("coords").for_table(self.table), *schemes]
        (predicted,) = self._draws(starts, schemes, is_given, num_frames, [0])
        truth, is_made = self.decoded(starts.tokens), any(scheme.modality in SUCCESSOR_OF for scheme in schemes)
        if self.num_draws == 1:
            return RollOuts(starts, predicted, truth, is_reference_made=is_made)
        greedy = [replace(scheme, pick="argmax", temperature=0.0, noise=0.0) for scheme in schemes]
        (argmax,) = self._draws(starts, greedy, is_given, num_frames, [0])
        draws = self._draws(starts, self._drawn(schemes), is_given, num_frames, range(1, self.num_draws + 1))
        return RollOuts(starts, predicted, truth, argmax, draws, is_made)

    def scores(self, made: RollOuts) -> list[Score]:
        """Of roll-outs; without any truth only the diversity."""
        starts, predicted, num_frames = made.starts, made.predicted, made.truth.is_present.shape[1] - 1
        truth = completed_truth(made.truth, predicted.frames) if made.is_reference_made else made.truth
        context = Context(
            has_joints=starts.has_joints,
            has_pictures="tok_rgb" in frame_modalities(self.table),
            clip=starts.clip,
            action=starts.actions,
            constant_velocity=starts.constant_velocity(truth),
            tokens=RolloutTokens(predicted.tokens, starts.tokens, self.codec),
            real_pictures=starts.real_pictures,
            is_real=starts.is_real,
            argmax=made.argmax,
            draws=made.draws,
        )
        with progress_callback(num_frames, "scores") as on_horizon:
            scores = score(predicted.frames, truth, starts.extent, on_horizon, context)
        return [each for each in scores if starts.has_truth or each.name.startswith("diversity")]

    def complete(self, starts: Starts) -> tuple[Completion, dict[str, list[Score]]]:
        """What the sampling generates of the pairs of each start and its successor, and its scores by frame."""
        schemes = self.sampling.for_table(self.table)
        given = given_pairs(starts, self.sampling.is_given(self.table), self.table)

        def filled(chosen: Sequence[DecodingConfig], draw: int) -> Filled:
            sample = starts.sample_ids(draw).to(self.device)
            total = sum(scheme.num_steps for scheme in chosen) * -(-len(sample) // self.batch_size)
            with progress_callback(total, f"{', '.join(self.sampling.generate)} of {len(sample)} pairs") as on_step:
                return complete(self.loaded.model, given, chosen, self.seed, sample, self.batch_size, on_step)

        numbers = range(1, self.num_draws + 1) if self.num_draws > 1 else []
        draws = [filled(self._drawn(schemes), number) for number in numbers]
        made = Completion(starts, given, filled(schemes, 0), draws, self.table, self.sampling.generate)
        return made, completion_scores(made, self.tokenizer, self.codec, self.decoded(starts.tokens))

    def _drawn(self, schemes: Sequence[DecodingConfig]) -> list[DecodingConfig]:
        changed = [self.sampling.scheme(each.modality, self.draw_changes.get(each.modality)) for each in schemes]
        return [each.for_table(self.table) for each in changed]

    def _lacks_joints(self, starts: Starts, is_given: Tensor) -> bool:
        """Whether joints are to be given that nobody annotated and nothing else generates."""
        if "coords" not in frame_modalities(self.table) or "coords" in self.sampling.generate:
            return False
        return bool(is_given[self.table.columns("coords")].any()) and not starts.are_joints_known[:, 0].all()

    def _draws(
        self,
        starts: Starts,
        schemes: Sequence[DecodingConfig],
        is_given: Tensor,
        num_frames: int,
        numbers: Sequence[int],
    ) -> list[Draw]:
        """A roll-out of each start for each number; all of them go through the model together."""
        sample = torch.cat([starts.sample_ids(number) for number in numbers]).to(self.device)
        reference, is_known = (
            {name: values.repeat(len(numbers), 1) for name, values in each.items()}
            for each in (starts.reference(self.device), starts.is_known(is_given, self.table, self.device))
        )
        with progress_callback(
            num_steps(schemes, num_frames, len(sample), self.batch_size), f"roll-out of {len(sample)} samples"
        ) as on_step:
            tokens = roll_out(self.loaded.model, reference, schemes, num_frames, self.seed, sample, self.batch_size,
                              on_step, is_known)  # fmt: skip
        num_starts = len(starts.chains)
        parts = [tokens.samples(range(k * num_starts, (k + 1) * num_starts)) for k in range(len(numbers))]
        return [Draw(self.decoded(part), part) for part in parts]
