"""Any modality from any others: parts of pairs are given, others generated, and compared with what is true."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from m3.core.frames import Frames, TokenFrames
from m3.core.joints import NUM_JOINTS
from m3.core.modalities import COORDS_LENGTH, PICTURE_STRIDE, ModalityTable
from m3.core.palette import BLANK
from m3.generation.prompts import Starts
from m3.generation.rollout import decode
from m3.metrics.context import Context, Draw
from m3.metrics.kinds import OF_JOINTS
from m3.metrics.scores import Score, score
from m3.metrics.tallies import RolloutTokens
from m3.model.encoder_decoder import EncoderDecoder
from m3.reporting.figures import column_sheet
from m3.sampling.sampler import generate
from m3.sampling.settings import DecodingConfig
from m3.tokens.base import PictureTokenizer
from m3.tokens.joints import JointCodec

FRAMES = {"reference": ("tok_rgb", "coords"), "successor": ("tok_rgb_next", "coords_next")}
"""The frames of a pair and their modalities."""

_OF_PICTURES = ("psnr", "ssim", "psnr_real", "ssim_real", "tok_rgb_accuracy")


@dataclass(frozen=True)
class Filled:
    """N pairs after generation.

    tokens: (N, S) int64. is_known: (N, S) bool, given or generated.
    """

    tokens: np.ndarray
    is_known: np.ndarray


@dataclass(frozen=True)
class Completion:
    """N pairs, completed.

    starts: the pairs, as references with one successor each.
    given: what was given of them. filled: the same with what was generated, as sampling.schemes says.
    draws: the same, drawn at random.
    table: of the modalities, in whose order the tokens lie. generated: names of modalities.
    """

    starts: Starts
    given: Filled
    filled: Filled
    draws: Sequence[Filled]
    table: ModalityTable
    generated: Sequence[str]

    def generated_frames(self) -> list[str]:
        """Names of the frames of which something was generated."""
        return [frame for frame, names in FRAMES.items() if {*names} & {*self.generated}]


def given_pairs(starts: Starts, is_given: Tensor, table: ModalityTable) -> Filled:
    """What of the pairs is known at the start; `is_given`: (S,) bool, from `Sampling.is_given`.

    Raises ValueError where a frame is asked for that a start does not have.
    """
    shape = len(starts.chains), table.num_tokens
    tokens, is_known = np.zeros(shape, np.int64), np.zeros(shape, bool)
    for frame, (picture, joints) in enumerate(FRAMES.values()):
        is_there = starts.tokens.is_present[:, frame, None]
        for name, ids, is_annotated in (
            (picture, starts.tokens.tok_rgb, True),
            (joints, starts.tokens.coords, np.tile(starts.are_joints_known[:, frame], 3)),
        ):
            if name not in table.modalities:
                continue
            columns = table.columns(name)
            asked = is_given[columns].numpy()
            if asked.any() and not is_there.all():
                lacking = starts.chains[int(is_there[:, 0].argmin())].pairs[0].clip
                raise ValueError(f"sampling.given: {lacking} has no {name} to give; leave it out")
            if ids.shape[-1]:
                tokens[:, columns] = ids[:, frame]
            is_known[:, columns] = asked & is_there & is_annotated
    return Filled(tokens, is_known)


def complete(
    model: EncoderDecoder,
    given: Filled,
    schemes: Sequence[DecodingConfig],
    seed: int,
    sample: Tensor,
    batch_size: int,
    on_step: Callable[[], None] = lambda: None,
) -> Filled:
    """Generates what the schemes say; `sample`: (N,) identities of the draws."""
    device = sample.device
    made = []
    for rows in torch.arange(len(sample)).split(batch_size):
        tokens, is_known = (
            torch.as_tensor(each[rows.numpy()], device=device) for each in (given.tokens, given.is_known)
        )
        made.append(generate(model, tokens, is_known, schemes, seed, sample[rows], 0, on_step).cpu().numpy())
    is_known = given.is_known.copy()
    for scheme in schemes:
        is_known[:, model.table.columns(scheme.modality)] = True
    return Filled(np.concatenate(made), is_known)


def pair_frames(
    filled: Filled, table: ModalityTable, tokenizer: PictureTokenizer, codec: JointCodec
) -> tuple[Frames, TokenFrames]:
    """(N, 2) frames, reference and successor: what is not known of a picture is dark, unknown joints are invisible."""
    shape, grid = (len(filled.tokens), 2), codec.canvas_size // PICTURE_STRIDE
    has_pictures = any(name in table.modalities for name, _ in FRAMES.values())
    tok_rgb = np.zeros((*shape, grid**2 if has_pictures else 0), np.int64)
    coords, is_seen = np.zeros((*shape, COORDS_LENGTH), np.int64), np.zeros((*shape, grid, grid), bool)
    for frame, (picture, joints) in enumerate(FRAMES.values()):
        for name, ids in ((picture, tok_rgb), (joints, coords)):
            if name in table.modalities:
                columns = table.columns(name)
                ids[:, frame] = filled.tokens[:, columns] * filled.is_known[:, columns]
        if picture in table.modalities:
            is_seen[:, frame] = filled.is_known[:, table.columns(picture)].reshape(-1, grid, grid)
    tokens = TokenFrames(tok_rgb, coords, np.ones(shape, bool))
    frames = decode(tokens, tokenizer, codec, codec.canvas_size)
    is_pixel_seen = is_seen.repeat(PICTURE_STRIDE, 2).repeat(PICTURE_STRIDE, 3)[..., None]
    return replace(frames, pictures=np.where(is_pixel_seen, frames.pictures, np.uint8(BLANK))), tokens


def completion_scores(
    made: Completion, tokenizer: PictureTokenizer, codec: JointCodec, truth: Frames
) -> dict[str, list[Score]]:
    """Frame → scores of what was generated of it. "Nothing moves" is the pair's other frame.

    truth: (N, 2) frames of the starts. Joints that were given are not scored, nor the tokens of a modality of which
    some were given.
    """
    found = {}
    for frame in made.generated_frames():
        place, names = list(FRAMES).index(frame), set(made.generated) & {*FRAMES[frame]}
        order = [1 - place, place]
        is_true = made.starts.tokens.is_present[:, place]
        if not is_true.any():
            continue
        scored = _Scored(made, order, FRAMES[frame])
        drawn = [scored.draw(*pair_frames(each, made.table, tokenizer, codec)) for each in (made.filled, *made.draws)]
        true_tokens = scored.ordered_tokens(made.starts.tokens)
        true = scored.ordered(truth)
        context = Context(
            has_joints=made.starts.has_joints,
            has_pictures=true_tokens.tok_rgb.shape[-1] > 0,
            clip=made.starts.clip,
            action=made.starts.actions,
            tokens=RolloutTokens(drawn[0].tokens, true_tokens, codec),
            draws=drawn[1:],
        )
        if made.starts.real_pictures is not None:
            context = replace(context, real_pictures=made.starts.real_pictures[:, order],
                              is_real=made.starts.is_real[:, order])  # fmt: skip
        scores = score(drawn[0].frames, true, made.starts.extent, context=context)
        found[frame] = [each for each in scores if each.name in scored.names(names)]
    return found


@dataclass(frozen=True)
class _Scored:
    """Frames of a pair in the order in which `score` wants them: the other frame, then the one that was generated.

    modalities: picture and joints of the generated frame.
    """

    completion: Completion
    order: list[int]
    modalities: tuple[str, str]

    def names(self, generated: set[str]) -> set[str]:
        """Scores of what was generated."""
        picture, joints = self.modalities
        names = {*_OF_PICTURES, "diversity_pictures"} if picture in generated else set()
        names |= {*OF_JOINTS, "diversity_joints"} if joints in generated else set()
        partly = {"tok_rgb_accuracy": picture, "coords_accuracy": joints}
        return names - {name for name, modality in partly.items() if self._given(modality).any()}

    def draw(self, frames: Frames, tokens: TokenFrames) -> Draw:
        other = self.ordered(frames)
        return Draw(other, self.ordered_tokens(tokens))

    def ordered(self, frames: Frames) -> Frames:
        """Joints that were given of the generated frame are invisible in both, so that they do not count."""
        ordered = Frames(
            *(getattr(frames, name)[:, self.order] for name in ("pictures", "xy", "is_visible", "is_present"))
        )
        is_given = self._given(self.modalities[1])
        if is_given.size:
            is_visible = ordered.is_visible & ~is_given.reshape(-1, 1, 3, NUM_JOINTS)[:, :, :2].all(2)
            ordered = replace(ordered, is_visible=is_visible)
        return ordered

    def ordered_tokens(self, tokens: TokenFrames) -> TokenFrames:
        return TokenFrames(*(getattr(tokens, name)[:, self.order] for name in ("tok_rgb", "coords", "is_present")))

    def _given(self, modality: str) -> np.ndarray:
        """(N, L) bool, empty for one that the model does not know."""
        table = self.completion.table
        columns = table.columns(modality) if modality in table.modalities else slice(0, 0)
        return self.completion.given.is_known[:, columns]


def completion_sheet(
    made: Completion,
    tokenizer: PictureTokenizer,
    codec: JointCodec,
    truth: Frames,
    rows: Sequence[int],
    cell_px: int,
    num_draws: int,
) -> Image.Image:
    """A row for each of some pairs: what was given, what was generated of each frame, its samples, and the truth."""
    chosen = list(rows)

    def column(frames: Frames, place: int) -> Frames:
        return Frames(*(getattr(frames, name)[chosen, place : place + 1]
                        for name in ("pictures", "xy", "is_visible", "is_present")))  # fmt: skip

    columns: list[tuple[str, Frames]] = []
    given, _ = pair_frames(made.given, made.table, tokenizer, codec)
    filled, *draws = (pair_frames(each, made.table, tokenizer, codec)[0]
                      for each in (made.filled, *made.draws[:num_draws]))  # fmt: skip
    for place, (frame, names) in enumerate(FRAMES.items()):
        known = [made.given.is_known[:, made.table.columns(name)] for name in names if name in made.table.modalities]
        if any(each.any() for each in known):
            columns.append((f"given, {frame}", column(given, place)))
    for frame in made.generated_frames():
        place = list(FRAMES).index(frame)
        columns.append((f"generated, {frame}", column(filled, place)))
        columns += [(f"sample {number}", column(each, place)) for number, each in enumerate(draws, 1)]
        if made.starts.tokens.is_present[chosen, place].any():
            columns.append((f"truth, {frame}", column(truth, place)))
    return column_sheet(columns, [made.starts.chains[n].title for n in chosen], cell_px)


def completion_arrays(made: Completion) -> dict[str, np.ndarray]:
    """For an .npz file: clip (N,), reference_frame and successor_frame (N,), and for each modality M, (N, L):

    M uint16, given or generated; is_given_M and is_known_M bool; truth_M uint16, and is_truth_M (N,) bool where there
    is one; sample_M (draws, N, L) where several were drawn.
    """
    first = [chain.pairs[0] for chain in made.starts.chains]
    arrays = {
        "clip": np.array([pair.clip for pair in first]),
        "reference_frame": np.array([pair.reference for pair in first]),
        "successor_frame": np.array([pair.successor for pair in first]),
    }
    for name in made.table.modalities:
        place = next((place for place, names in enumerate(FRAMES.values()) if name in names), None)
        columns = made.table.columns(name)
        arrays[name] = made.filled.tokens[:, columns].astype(np.uint16)
        arrays[f"is_given_{name}"] = made.given.is_known[:, columns]
        arrays[f"is_known_{name}"] = made.filled.is_known[:, columns]
        if place is not None:
            true: Mapping[bool, np.ndarray] = {True: made.starts.tokens.tok_rgb, False: made.starts.tokens.coords}
            arrays[f"truth_{name}"] = true[name.startswith("tok_rgb")][:, place].astype(np.uint16)
            arrays[f"is_truth_{name}"] = made.starts.tokens.is_present[:, place]
        if made.draws:
            arrays[f"sample_{name}"] = np.stack([each.tokens[:, columns] for each in made.draws]).astype(np.uint16)
    return arrays
