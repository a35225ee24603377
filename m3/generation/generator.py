"""Generates roll-outs or completed pairs from prompts with a trained model, and scores them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from m3.checkpoint import LoadedModel
from m3.core.frames import Frames, TokenFrames, rolled_modalities
from m3.core.modalities import GAPS, ModalityTable, check_names, frame_of
from m3.core.progress import progress_callback
from m3.core.validation import check
from m3.generation.completion import completion_scores
from m3.generation.generation import Generation
from m3.generation.prompts import Prompts, with_generated_reference
from m3.generation.rollout import check_schemes, num_steps, roll_out, rolls_out
from m3.metrics import Comparison, MetricSpec, Score, constant_velocity, damped_velocity, score
from m3.sampling.given import named_modality
from m3.sampling.settings import DecodingConfig, Sampling
from m3.tokens.base import PictureTokenizer
from m3.tokens.text import TextTokenizer
from m3.vocabularies import DecodingContext, Interpreter, decode, interpreters_of, metrics_of, without_interpreter


@dataclass(frozen=True)
class Generator:
    """A model, its tokenizer, and the settings of sampling.

    sampling: what is given and generated, and how.
    seed: of the sampling. batch_size: samples at a time; changes nothing but speed, up to rounding.
    num_samples: random samples of each prompt, besides the prediction; 1: none.
    sample_schemes: per-modality overrides of the decoding settings used for random samples; "default" for all others.
    damping: see `m3.generation.rollout.roll_out`.
    more_metrics: besides those of the model's modalities.
    """

    loaded: LoadedModel
    tokenizer: PictureTokenizer
    sampling: Sampling
    seed: int = 0
    batch_size: int = 32
    num_samples: int = 1
    sample_schemes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    damping: float = 1.0
    more_metrics: Sequence[MetricSpec] = ()

    def __post_init__(self) -> None:
        check("rollout.batch_size", self.batch_size, int, low=1)
        check("rollout.num_samples", self.num_samples, int, low=1)
        check("rollout.damping", self.damping, float, low=0, high=1)
        check_names("rollout.sample_schemes", self.sample_schemes, self.table)
        for name, changes in self.sample_schemes.items():
            if not isinstance(changes, Mapping | None):
                raise ValueError(f"rollout.sample_schemes.{name}={changes!r}: need keys of sampling.schemes.{name}")
            try:
                scheme = self.sampling.scheme(name, changes)
                if self.num_samples > 1 and name in self.sampling.generate:
                    scheme.for_table(self.table)
            except ValueError as error:
                raise ValueError(f"rollout.sample_schemes.{name}: {error}") from error

    @property
    def table(self) -> ModalityTable:
        return self.loaded.table

    @property
    def context(self) -> DecodingContext:
        data = self.loaded.data
        return DecodingContext(self.tokenizer, data["canvas_size"], data.get("actions", ()), self.text_tokenizer)

    @cached_property
    def text_tokenizer(self) -> TextTokenizer | None:
        """That of the training data's captions; None for a model without them."""
        stored = self.loaded.data.get("text_tokenizer")
        return None if stored is None else TextTokenizer(stored)

    @property
    def device(self) -> torch.device:
        return next(self.loaded.model.parameters()).device

    @cached_property
    def interpreters(self) -> dict[str, Interpreter]:
        return interpreters_of(self.table)

    @cached_property
    def metrics(self) -> dict[str, MetricSpec]:
        return metrics_of(self.table) | {spec.name: spec for spec in self.more_metrics}

    @property
    def rolls_out(self) -> bool:
        """Whether a whole successor is generated, with nothing of it given, so that it can be the next reference."""
        given = {frame_of(named_modality(entry)) for entry in self.sampling.given}
        is_successor_given = any(frame == 1 and name not in GAPS for name, frame in given)
        return rolls_out(self.sampling.generate, self.table) and not is_successor_given

    def decoded(self, tokens: TokenFrames) -> Frames:
        return decode(tokens, self.interpreters, self.context)

    def check_roll_out(self) -> None:
        """Raises ValueError naming the key unless there is a whole successor, and a reference picture to go on from."""
        check_schemes(self.sampling.for_table(self.table), self.table)
        if "tok_rgb" in rolled_modalities(self.table) and "tok_rgb" not in self.sampling.generate:
            if not self.sampling.is_given(self.table)[self.table.columns("tok_rgb")].all():
                raise ValueError(
                    "sampling.given: a roll-out goes on from a picture: give tok_rgb as a whole, or put it first in "
                    "sampling.generate"
                )

    def generate(self, prompts: Prompts) -> Generation:
        """Roll-outs as long as the prompts, or completed pairs, as the sampling asks.

        Joints of a roll-out's reference without annotation are generated first. Raises ValueError naming the key for
        a sampling that does not fit the model or the prompts.
        """
        schemes, is_given = self.sampling.for_table(self.table), self.sampling.is_given(self.table)
        if self.rolls_out:
            self.check_roll_out()
            if self._lacks_joints(prompts, is_given):
                schemes = [self.sampling.scheme("coords").for_table(self.table), *schemes]
        given = prompts.given(is_given, self.table)
        (predicted,) = self._frames(prompts, given, schemes, [0])
        made = Generation(
            prompts,
            self.decoded(given[0][:, :2]),
            predicted,
            self.decoded(prompts.tokens),
            generated=[scheme.modality for scheme in schemes],
            interpreters=self.interpreters,
            undecoded=without_interpreter(self.table),
            modalities=self.table.modalities,
            canvas_size=self.context.canvas_size,
            is_rollout=self.rolls_out,
            actions=self.context.actions,
        )
        if self.num_samples == 1:
            return made
        if self.rolls_out:
            greedy = [replace(scheme, pick="argmax", temperature=0.0, noise=0.0) for scheme in schemes]
            made = replace(made, argmax=self._frames(prompts, given, greedy, [0])[0])
        samples = self._frames(prompts, given, self._sample_schemes(schemes), range(1, self.num_samples + 1))
        return replace(made, samples=samples)

    def scores(self, made: Generation) -> dict[str, list[Score]]:
        """Scores of roll-outs under ""; of completed pairs by frame, "reference" and "successor"."""
        if not self.rolls_out:
            return completion_scores(made, self.metrics)
        prompts, truth, predicted = made.prompts, made.truth, made.predicted
        if made.is_reference_generated:
            truth = with_generated_reference(truth, predicted)
        moving = damped = None
        if prompts.previous is not None and "coords" in truth.values:
            moving = constant_velocity(truth, prompts.previous, self.context.codec)
            damped = damped_velocity(truth, prompts.previous, self.context.codec)
        compared = Comparison(
            predicted,
            truth,
            prompts.extent,
            clip=prompts.clip,
            action=prompts.actions,
            has_joints=prompts.has_joints,
            constant_velocity=moving,
            damped_velocity=damped,
            real=prompts.real,
            argmax=made.argmax,
            samples=made.samples,
        )
        rolled = rolled_modalities(self.table)
        wanted = {
            name: spec
            for name, spec in self.metrics.items()
            if spec.modality in rolled and (prompts.has_truth_of(spec.modality) or not spec.needs_truth)
        }
        with progress_callback(len(wanted), "scores") as on_metric:
            return {"": score(compared, wanted, on_metric)}

    def _sample_schemes(self, schemes: Sequence[DecodingConfig]) -> list[DecodingConfig]:
        changed = [self.sampling.scheme(each.modality, self._changes(each.modality)) for each in schemes]
        return [each.for_table(self.table) for each in changed]

    def _changes(self, modality: str) -> Mapping[str, Any] | None:
        return self.sample_schemes.get(modality, self.sample_schemes.get("default"))

    def _lacks_joints(self, prompts: Prompts, is_given: Tensor) -> bool:
        """Whether joints without annotation are to be given, are not generated, and the model can generate them."""
        if "coords" not in rolled_modalities(self.table) or "coords" in self.sampling.generate:
            return False
        if not self.table.is_ever_target("coords"):
            return False
        is_annotated = prompts.tokens.is_known["coords"][:, 0].all()
        return bool(is_given[self.table.columns("coords")].any()) and not is_annotated

    def _frames(
        self,
        prompts: Prompts,
        given: tuple[TokenFrames, TokenFrames],
        schemes: Sequence[DecodingConfig],
        numbers: Sequence[int],
    ) -> list[Frames]:
        """Frames of each prompt for each sample number; all sample numbers share the model's batches."""
        num_prompts, num_frames = len(prompts.chains), prompts.num_frames
        sample = torch.cat([prompts.sample_ids(number) for number in numbers]).to(self.device)
        rows = list(range(num_prompts)) * len(numbers)
        repeated, history = (part[rows] for part in given)
        total = num_steps(schemes, num_frames, len(sample), self.batch_size)
        names = ", ".join(scheme.modality for scheme in schemes)
        what = f"roll-out of {len(sample)} samples" if self.rolls_out else f"{names} of {len(sample)} pairs"
        with progress_callback(total, what) as on_step:
            tokens = roll_out(self.loaded.model, repeated, schemes, num_frames, self.seed, sample, self.batch_size,
                              on_step, first_epoch=int(self.rolls_out), history=history,
                              damping=self.damping)  # fmt: skip
        return [self.decoded(tokens[k * num_prompts : (k + 1) * num_prompts]) for k in range(len(numbers))]
