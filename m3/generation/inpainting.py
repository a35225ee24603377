"""In-painting of poses: some joints are hidden, generated from the rest and compared with the truth."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from m3.batches.table import TokenTable
from m3.checkpoint import BINDING, LoadedModel
from m3.core.frames import no_tokens
from m3.core.joints import JOINT_NAMES, NUM_JOINTS
from m3.core.modalities import COORDS_LENGTH
from m3.core.rng import numpy_generator
from m3.core.validation import check
from m3.generation.rollout import roll_out
from m3.metrics.bootstrap import ClipBootstrap, interval
from m3.metrics.measures import joint_error_px
from m3.sampling.settings import DecodingConfig, Sampling
from m3.tokens.joints import JointCodec

GUESSES = {
    "model": "the hidden joints, generated from the others",
    "mean_pose": "the mean of each joint over the poses of train in which it is visible",
    "fitted_mean_pose": "the mean pose, moved and scaled to fit the given joints in least squares",
}
_BATCH_SIZE = 64


@dataclass(frozen=True)
class InpaintingResult:
    """N poses with hidden joints, and guesses of these joints.

    rows: (N,) int, of the token table of the split.
    is_hidden: (N, 13) bool.
    truth: (N, 13, 2) canvas pixels. is_visible: (N, 13) bool, of the truth.
    guesses: (N, 13, 2) canvas pixels, equal to the truth where nothing is hidden.
    record: content of `inpainting.json`.
    canvas_size: pixels. num_shown: poses in the picture.
    """

    rows: np.ndarray
    is_hidden: np.ndarray
    truth: np.ndarray
    is_visible: np.ndarray
    guesses: dict[str, np.ndarray]
    record: dict[str, Any]
    canvas_size: int
    num_shown: int


@dataclass(frozen=True)
class Inpainting:
    """Constructed from `conf/generate/experiment/inpaint.yaml`, whose keys are these fields.

    root, split: of the data set; the mean pose is that of its train split.
    num_poses: reference poses, of different clips as far as there are.
    num_hidden: joints hidden in each pose, with x, y and visibility.
    num_shown: poses in the picture.
    sampling: its scheme for coords generates the hidden joints; its `given` and `generate` are not read.

    Raises ValueError naming the key for an impossible value.
    """

    root: str
    split: str
    num_poses: int
    num_hidden: int
    num_shown: int
    seed: int
    sampling: Sampling

    def __post_init__(self) -> None:
        check("inpaint.num_poses", self.num_poses, int, low=1)
        check("inpaint.num_shown", self.num_shown, int, low=1)
        check("inpaint.num_hidden", self.num_hidden, int, low=1)
        if self.num_hidden >= NUM_JOINTS:
            raise ValueError(f"inpaint.num_hidden={self.num_hidden}: a pose has {NUM_JOINTS} joints, one must be given")
        check("inpaint.seed", self.seed, int, low=0)
        _ = self.scheme

    @property
    def scheme(self) -> DecodingConfig:
        """How the hidden joints are generated."""
        return self.sampling.scheme("coords")

    def run(self, loaded: LoadedModel) -> InpaintingResult:
        """Hides, generates and scores.

        Raises ValueError where model and data are not compatible or the split has too few poses.
        """
        scheme = self.scheme.for_table(loaded.table)
        split, train = TokenTable.open(self.root, self.split), TokenTable.open(self.root, "train")
        codec = JointCodec(split.manifest.canvas_size)
        if loaded.data["canvas_size"] != codec.canvas_size:
            raise ValueError(
                f"{self.root} has a canvas of {codec.canvas_size} px, the model was trained on one of "
                f"{loaded.data['canvas_size']}: give its own data.root"
            )
        rows, is_hidden, coords = self._hide(split, codec)
        truth, is_visible = codec.decode(coords)
        made = self._generated(loaded, scheme, coords, is_hidden)
        mean = mean_pose(*codec.decode(_coords_of(train)))
        guesses = {
            "model": codec.decode(made)[0],
            "mean_pose": np.broadcast_to(mean, truth.shape),
            "fitted_mean_pose": fitted(mean, truth, is_visible & ~is_hidden),
        }
        guesses = {name: np.where(is_hidden[..., None], guess, truth) for name, guess in guesses.items()}
        is_scored = is_visible & is_hidden
        clip = np.array([split.pairs[row].clip for row in rows])
        record = self._record(loaded, guesses, truth, is_scored, clip)
        return InpaintingResult(rows, is_hidden, truth, is_visible, guesses, record, codec.canvas_size, self.num_shown)

    def _hide(self, split: TokenTable, codec: JointCodec) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows (N,), hidden joints (N, 13) bool and tokens (N, 3, 13) of poses that show a hidden and a given joint."""
        rng = numpy_generator(self.seed, "inpainting")
        coords = _coords_of(split)
        is_hidden = rng.permuted(np.tile(np.arange(NUM_JOINTS) < self.num_hidden, (len(coords), 1)), axis=1)
        is_visible = codec.decode(coords)[1]
        is_usable = np.any(is_visible & is_hidden, 1) & np.any(is_visible & ~is_hidden, 1)
        seen_of_clip: Counter[str] = Counter()
        ranked = []  # the first pose of every clip goes before the second of any
        for place, row in enumerate(rng.permutation(len(coords)).tolist()):
            if is_usable[row]:
                ranked.append((seen_of_clip[split.pairs[row].clip], place, row))
                seen_of_clip[split.pairs[row].clip] += 1
        rows = np.array([row for _, _, row in sorted(ranked)[: self.num_poses]], dtype=int)
        if len(rows) < self.num_poses:
            raise ValueError(
                f"inpaint.num_poses={self.num_poses}: {self.root} has {len(rows)} poses in {self.split} that show a "
                "hidden and a given joint; ask for fewer, or choose another data.split"
            )
        return rows, is_hidden[rows], coords[rows]

    def _generated(
        self, loaded: LoadedModel, scheme: DecodingConfig, coords: np.ndarray, is_hidden: np.ndarray
    ) -> np.ndarray:
        """(N, 3, 13) tokens with the hidden ones generated; nothing else of the pair is given."""
        device, num_poses = next(loaded.model.parameters()).device, len(coords)
        given = no_tokens(loaded.table, (num_poses, 2))
        given.ids["coords"][:, 0] = coords.reshape(num_poses, -1)
        given.is_known["coords"][:, 0] = np.tile(~is_hidden, 3)  # x, y, visibility
        sample = torch.arange(num_poses, device=device)
        made = roll_out(loaded.model, given, [scheme], 1, self.seed, sample, _BATCH_SIZE, first_epoch=0)
        return made.ids["coords"][:, 0].reshape(coords.shape)

    def _record(
        self,
        loaded: LoadedModel,
        guesses: dict[str, np.ndarray],
        truth: np.ndarray,
        is_scored: np.ndarray,
        clip: np.ndarray,
    ) -> dict[str, Any]:
        bootstrap = ClipBootstrap(clip)
        errors: dict[str, Any] = {}
        for name, guess in guesses.items():
            ratio = joint_error_px(guess[:, None], truth[:, None], is_scored[:, None])
            low, high = interval(bootstrap.resampled(ratio, lambda quotients: quotients))
            by_joint = {
                JOINT_NAMES[j]: float(np.linalg.norm((guess - truth)[:, j], axis=-1)[is_scored[:, j]].mean())
                for j in range(NUM_JOINTS)
                if is_scored[:, j].any()
            }
            errors[name] = {
                "is": GUESSES[name],
                "mean_error_px": float(ratio.numerator.sum() / ratio.denominator.sum()),
                "ci95": [float(low[0]), float(high[0])] if bootstrap.num_clips > 1 else None,
                "by_joint": by_joint,
            }
        return {
            "schema_version": 1,
            "step": loaded.step,
            "weights": loaded.fingerprint,
            "data": {"root": self.root, "split": self.split, **{key: loaded.data[key] for key in BINDING}},
            "num_poses": len(truth),
            "num_clips": bootstrap.num_clips,
            "num_hidden": self.num_hidden,
            "num_scored_joints": int(is_scored.sum()),
            "scored": "hidden joints that are visible in the truth",
            "seed": self.seed,
            "scheme": asdict(self.scheme),
            "guesses": errors,
        }


def _coords_of(table: TokenTable) -> np.ndarray:
    """(num_pairs, 3, 13) uint16: the poses of the reference frames."""
    start = 0
    for modality in table.manifest.modalities:
        if modality.name == "coords":
            return np.asarray(table.tokens[:, start : start + COORDS_LENGTH]).reshape(-1, 3, NUM_JOINTS)
        start += modality.length
    raise ValueError("inpaint: the data set stores no coords")


def mean_pose(xy: np.ndarray, is_visible: np.ndarray) -> np.ndarray:
    """(N, 13, 2), (N, 13) → (13, 2): each joint's mean over the poses in which it is visible.

    Raises ValueError where a joint is visible in none.
    """
    counts = is_visible.sum(0)
    if not counts.all():
        raise ValueError(f"inpaint: {JOINT_NAMES[int(counts.argmin())]} is visible in no pose of train")
    return np.where(is_visible[..., None], xy, 0.0).sum(0) / counts[:, None]


def fitted(mean: np.ndarray, xy: np.ndarray, is_given: np.ndarray) -> np.ndarray:
    """The mean pose (13, 2) moved and scaled to the given joints, (N, 13) bool, of each pose (N, 13, 2).

    One factor and one offset per pose, least squares; the factor is 1 where one given joint does not
    determine it, or where it would be negative (the pose turned over).
    """
    weight = is_given[..., None].astype(float)  # (N, 13, 1)
    count = weight.sum(1, keepdims=True)
    center_of_mean = (mean * weight).sum(1, keepdims=True) / count  # (N, 1, 2)
    center = (xy * weight).sum(1, keepdims=True) / count
    shape, target = (mean - center_of_mean) * weight, (xy - center) * weight
    squares = np.square(shape).sum((1, 2), keepdims=True)
    products = (shape * target).sum((1, 2), keepdims=True)
    factor = np.divide(products, squares, out=np.ones_like(squares), where=squares > 0)
    factor = np.where(factor > 0, factor, 1.0)
    return (mean - center_of_mean) * factor + center
