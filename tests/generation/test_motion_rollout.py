"""Roll-outs of a model with history, displacements, gaps and an action, against sums computed by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.oracle import Oracle, given_references

from m3.core.frames import TokenFrames, no_tokens, rolled_modalities
from m3.core.modalities import DISPLACEMENT, NOT_SEEN, ModalityTable
from m3.core.types import PackedTokens
from m3.generation.rollout import check_schemes, roll_out
from m3.sampling.settings import DecodingConfig, Sampling
from m3.tokens.displacement import FINENESS, displacement_tokens

NAMES = ("coords", "coords_prev", "motion_prev", "gap_prev", "gap_next", "action", "motion_next", "coords_next")
LENGTHS = (39, 39, 13, 1, 1, 1, 13, 39)
TABLE = ModalityTable(
    NAMES, [8192, 8192, 4226, 64, 64, 5, 4226, 8192], LENGTHS, [1] * 8, [0, 0, 0, 0, 0, 1, 1, 0], [8, 40], [8, 14]
)
SCHEMES = [DecodingConfig("motion_next", 1, pick="median")]


class Inertia(Oracle):
    """Every joint moves as it moved before: its displacement is that of the history. Remembers what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.table = TABLE
        self.seen: list[dict[str, dict[int, int]]] = []

    def encode(self, inputs: PackedTokens) -> dict:
        first: dict[str, dict[int, int]] = {name: {} for name in NAMES}
        for b, k, position, i in zip(inputs.sample, inputs.modality, inputs.position, inputs.ids):
            if b == 0:
                first[NAMES[k]][int(position)] = int(i)
        self.seen.append(first)
        places = zip(inputs.sample.tolist(), inputs.modality.tolist(), inputs.position.tolist())
        return dict(zip(places, inputs.ids.tolist()))

    def decode(self, context: dict, targets: PackedTokens) -> torch.Tensor:
        k = NAMES.index("motion_prev")
        moved = [
            context.get((b, k, p), NOT_SEEN // 2) for b, p in zip(targets.sample.tolist(), targets.position.tolist())
        ]
        return torch.tensor(moved).float()[:, None]

    def digit_logits(self, hidden: torch.Tensor, modality: int, num_ids: int | None = None) -> tuple[torch.Tensor, ...]:
        return (torch.nn.functional.one_hot(hidden[:, 0].long(), DISPLACEMENT.num_ids) * 50.0,)

    def num_logits(self, modality: int, num_ids: int | None = None) -> int:
        return DISPLACEMENT.num_ids

    def digits_of(self, ids: torch.Tensor, modality: int) -> tuple[torch.Tensor, ...]:
        return (ids,)

    def is_predicted(self, ids: torch.Tensor, modality: int) -> tuple[None]:
        return (None,)


def two_poses() -> tuple[np.ndarray, np.ndarray]:
    """(2, 3, 13) tokens each; joint 3 of the second sample is never seen."""
    rng = np.random.default_rng(0)
    before = np.concatenate([rng.integers(2500, 5500, (2, 2, 13)), np.ones((2, 1, 13), int)], 1)
    here = before.copy()
    here[:, :2] += rng.integers(-80, 80, (2, 2, 13))
    for pose in (before, here):
        pose[1, :, 3] = 0
    return before, here


def given(before: np.ndarray | None, here: np.ndarray, gaps: list[int]) -> tuple[TokenFrames, TokenFrames]:
    num = len(here)
    found, history = no_tokens(TABLE, (num, len(gaps))), no_tokens(TABLE, (num, 1))
    found.is_present[:] = True

    def put(frames: TokenFrames, name: str, frame: int, ids: np.ndarray) -> None:
        frames.ids[name][:, frame], frames.is_known[name][:, frame] = ids.reshape(num, -1), True

    put(found, "coords", 0, here)
    put(found, "action", 0, np.full((num, 1), 3))
    for frame, gap in enumerate(gaps):
        if gap:
            put(found, "gap", frame, np.full((num, 1), gap))
    if before is not None:
        put(history, "coords", 0, before)
        put(found, "motion", 0, displacement_tokens(before, here))
    return found, history


def middle_of(ids: np.ndarray) -> np.ndarray:
    """(…) → (…, 2): the middle of a cell by the formula of the grid, 0 for joints that are not seen."""
    cell = np.stack([ids % 65, ids // 65], -1) + 0.5
    moved = FINENESS * np.sinh((2 * cell / 65 - 1) * np.arcsinh(1 / FINENESS))
    return np.where((ids == NOT_SEEN)[..., None], 0, moved)


def test_joints_keep_their_displacement_in_sides_of_their_own_box() -> None:
    before, here = two_poses()
    model = Inertia()
    frames, history = given(before, here, [5, 7, 8, 9])
    made = roll_out(model, frames, SCHEMES, 3, 0, torch.arange(2), 8, history=history)
    motion = displacement_tokens(before, here)
    xy = np.swapaxes(here[:, :2], 1, 2).astype(float)
    for horizon in range(1, 4):
        poses = made.ids["coords"][:, horizon - 1].reshape(2, 3, 13)
        for n in range(2):
            placed = poses[n, 2] > 0
            side = max(np.ptp(poses[n, 0, placed]), np.ptp(poses[n, 1, placed]))
            xy[n, placed] += middle_of(motion[n])[placed] * side
        found = made.ids["coords"][:, horizon].reshape(2, 3, 13)
        assert (made.ids["motion"][:, horizon] == motion).all()
        for n in range(2):
            placed = found[n, 2] > 0
            assert placed.tolist() == [not (n == 1 and j == 3) for j in range(13)]
            assert np.abs(found[n, :2, placed] - xy[n, placed]).max() <= 0.5 + 1e-6  # no more than one rounding, ever
    assert all(known[:, 1:].all() for name, known in made.is_known.items())
    assert (made.ids["action"] == 3).all()


def test_every_step_sees_the_two_frames_before_it_and_its_own_gap() -> None:
    before, here = two_poses()
    model = Inertia()
    frames, history = given(before, here, [5, 7, 8, 9])
    made = roll_out(model, frames, SCHEMES, 3, 0, torch.arange(2), 8, history=history)
    poses = [before.reshape(2, -1), *(made.ids["coords"][:, k] for k in range(4))]
    assert len(model.seen) == 3
    for step, seen in enumerate(model.seen):
        assert list(seen["coords_prev"].values()) == poses[step][0].tolist()
        assert list(seen["coords"].values()) == poses[step + 1][0].tolist()
        assert list(seen["motion_prev"].values()) == made.ids["motion"][0, step].tolist()
        assert (seen["gap_prev"], seen["gap_next"]) == ({0: [5, 7, 8][step]}, {0: [7, 8, 9][step]})
        assert seen["action"] == {0: 3} and not seen["motion_next"] and not seen["coords_next"]


def test_a_photo_starts_without_history_and_makes_its_own() -> None:
    _, here = two_poses()
    model = Inertia()
    frames, history = given(None, here, [0, 7, 8])
    made = roll_out(model, frames, SCHEMES, 2, 0, torch.arange(2), 8, history=history)
    first, second = model.seen
    assert not first["coords_prev"] and not first["motion_prev"] and not first["gap_prev"]
    assert len(second["coords_prev"]) == 39 and second["gap_prev"] == {0: 7}
    assert list(second["motion_prev"].values()) == [NOT_SEEN // 2] * 13
    assert (made.ids["coords"][:, 2] == made.ids["coords"][:, 0]).all()  # nothing moved before, so nothing moves


def test_without_history_a_motion_fades_and_with_it_goes_on() -> None:
    """A model that always moves every joint by the same cell: 1 + 1/2 + 1/4 displacements without history, else 3."""
    before, here = two_poses()
    cell = 65 * 40 + 45

    class Mover(Inertia):
        def decode(self, context: dict, targets: PackedTokens) -> torch.Tensor:
            return torch.full((len(targets.ids), 1), float(cell))

    moved = middle_of(np.array(cell))
    for own, total in ((None, 1.75), (before, 3.0)):
        frames, history = given(own, here, [5, 5, 5, 5])
        made = roll_out(Mover(), frames, SCHEMES, 3, 0, torch.arange(2), 8, history=history, damping=0.5)
        first, last = (made.ids["coords"][0, k].reshape(3, 13)[:2].T for k in (0, 3))
        side = max(np.ptp(here[0, 0]), np.ptp(here[0, 1]))
        assert (
            np.abs((last - first) / side - total * moved).max() < 2e-3
        )  # the box keeps its size: all joints move alike
        motion = made.ids["motion"][0, 1:, 0]
        assert (motion == cell).all() if own is not None else (len(set(motion.tolist())) == 3 and motion[0] == cell)


def test_a_given_displacement_moves_the_joints() -> None:
    """A completion with motion_next given: coords_next follows, and is known to what is generated after it."""
    _, here = two_poses()
    frames, history = given(None, here, [0, 7])
    asked = np.random.default_rng(1).integers(0, NOT_SEEN, (2, 13))
    frames.ids["motion"][:, 1], frames.is_known["motion"][:, 1] = asked, True
    model = Inertia()
    made = roll_out(model, frames, [DecodingConfig("action", 1)], 1, 0, torch.arange(2), 8, history=history)
    assert (made.ids["motion"][:, 1] == asked).all() and made.is_known["coords"][:, 1].all()
    side = max(np.ptp(here[0, 0]), np.ptp(here[0, 1]))
    wanted = np.swapaxes(here[0, :2], 0, 1) + middle_of(asked[0]) * side
    found = made.ids["coords"][0, 1].reshape(3, 13)
    is_inside = ((wanted >= 0) & (wanted <= 8191)).all(1)
    assert (found[2] == is_inside).all()
    assert np.abs(found[:2, is_inside].T - wanted[is_inside]).max() <= 0.5


def test_displacements_take_the_place_of_the_joints_in_a_roll_out() -> None:
    assert rolled_modalities(TABLE) == {"coords": "motion_next"}
    check_schemes(SCHEMES, TABLE)
    with pytest.raises(ValueError, match="needs .'motion_next'., each once"):
        check_schemes([DecodingConfig("coords_next", 1)], TABLE)
    auto = Sampling("auto", "auto", {"default": {"num_steps": 1}}).for_model(TABLE)
    assert auto.generate == ["motion_next"]
    assert auto.given == ["coords", "coords_prev", "motion_prev", "gap_prev", "gap_next", "action"]


def test_a_model_of_places_gets_its_history_from_its_own_poses() -> None:
    """motion_prev without motion_next: the displacement between the last two poses."""
    names = ("coords", "motion_prev", "coords_next")
    table = ModalityTable(names, [8192, 4226, 8192], (39, 13, 39), [1, 1, 0], [0, 0, 1], [8, 40], [8, 14])

    class Places(Oracle):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.seen = table, []

        def encode(self, inputs: PackedTokens) -> PackedTokens:
            self.seen.append(inputs.ids[(inputs.modality == 1) & (inputs.sample == 0)].tolist())
            return inputs

        def decode(self, context: PackedTokens, targets: PackedTokens) -> torch.Tensor:
            return targets.position.float()[:, None]

        def digit_logits(self, hidden: torch.Tensor, modality: int, num_ids: int | None = None) -> tuple:
            ids = torch.where(hidden[:, 0] < 26, 3000 + 40 * hidden[:, 0], 1).long()
            return (torch.nn.functional.one_hot(ids, 8192)[:, :num_ids] * 50.0,)

    _, here = two_poses()
    model = Places()
    frames = given_references({"coords": here.reshape(2, -1)}, table)
    made = roll_out(model, frames, [DecodingConfig("coords_next", 1)], 2, 0, torch.arange(2), 8)
    poses = made.ids["coords"].reshape(2, 3, 3, 13)
    assert model.seen == [[], displacement_tokens(poses[0, 0], poses[0, 1]).tolist()]


def test_given_joints_of_the_successor_never_change() -> None:
    before, here = two_poses()
    frames, history = given(before, here, [5, 7])
    there = np.roll(here, 1, axis=2).reshape(2, -1)
    frames.ids["coords"][0, 1], frames.is_known["coords"][0, 1] = there[0], True
    made = roll_out(Inertia(), frames, SCHEMES, 1, 0, torch.arange(2), 8, history=history)
    assert (made.ids["coords"][0, 1] == there[0]).all()
    assert (made.ids["coords"][1, 1] != there[1]).any() and made.is_known["coords"][:, 1].all()


def test_without_a_pose_there_is_nothing_to_move() -> None:
    _, here = two_poses()
    frames, history = given(None, here, [0, 7, 7])
    frames.ids["coords"][1], frames.is_known["coords"][1] = 0, False
    made = roll_out(Inertia(), frames, SCHEMES, 2, 0, torch.arange(2), 8, history=history)
    assert made.is_known["coords"][0].all() and not made.is_known["coords"][1].any()
    assert not made.ids["coords"][1].any()


def test_joints_of_a_given_displacement_are_inputs_of_what_is_generated() -> None:
    _, here = two_poses()
    frames, history = given(None, here, [0, 7])
    frames.ids["motion"][:, 1], frames.is_known["motion"][:, 1] = NOT_SEEN // 2, True
    frames.is_known["action"][:] = False
    model = Inertia()
    roll_out(model, frames, [DecodingConfig("action", 1)], 1, 0, torch.arange(2), 8, history=history)
    assert list(model.seen[0]["coords_next"].values()) == here[0].ravel().tolist()  # nothing has moved
