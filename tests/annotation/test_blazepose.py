"""BlazePose on rendered people, whose joints are known, and its steps by hand."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from m3.annotation.blazepose import BlazePose, Detector, refined, region_of, suppressed
from m3.annotation.networks import DETECTOR, LANDMARKS, WEIGHTS, Network
from m3.clips.demo import demo_clip
from m3.core.joints import MIRRORED, pose_extent
from m3.core.keypoints import LAYOUTS, to_joints

SIZE = (224, 224)


@pytest.fixture(scope="module")
def people() -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Errors of the joints in shares of the pose's box (13,), the same with sides exchanged, and true visibility."""
    detector, estimator, found = Detector(0.35), BlazePose("full"), []
    for number in range(9):
        clip = demo_clip(3, number, 1, SIZE)
        frame = clip.render(0, SIZE)
        region = estimator(frame, detector(frame)[0].region).region
        estimate = estimator(frame, region)
        assert estimate.score > 0.5
        xy, _ = to_joints(estimate.xy, estimate.confidence, LAYOUTS["blazepose33"])
        truth, extent = clip.joints.xy[0], pose_extent(clip.joints)
        found.append(
            (
                np.linalg.norm(xy - truth, axis=-1) / extent,
                np.linalg.norm(xy[MIRRORED] - truth, axis=-1) / extent,
                clip.joints.is_visible[0],
            )
        )
    return found


def test_joints_of_rendered_people_are_where_they_are(people):
    errors = np.concatenate([error[is_visible] for error, _, is_visible in people])
    assert np.mean(errors < 0.1) > 0.85 and np.median(errors) < 0.03


def test_left_and_right_are_those_of_penn_action(people):
    exchanged = np.concatenate([error[is_visible] for _, error, is_visible in people])
    assert np.mean(exchanged < 0.1) < 0.7


def test_a_picture_without_people_has_none():
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (120, 160, 3), dtype=np.uint8)
    assert Detector(0.5)(noise) == [] and Detector(0.5)(np.full((50, 400, 3), 90, np.uint8)) == []


def test_groups_of_boxes_are_those_of_a_naive_suppression():
    rng = np.random.default_rng(1)
    corners = rng.uniform(0, 1, (60, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(0.1, 0.4, (60, 2))], 1)
    scores = rng.uniform(0, 1, 60)

    def overlap(a, b):
        w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
        shared = max(w, 0) * max(h, 0)
        return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)

    remaining, wanted = sorted(range(60), key=lambda k: -scores[k]), []
    while remaining:
        group = [k for k in remaining if k == remaining[0] or overlap(boxes[remaining[0]], boxes[k]) > 0.3]
        wanted.append(group)
        remaining = [k for k in remaining if k not in group]
    groups = suppressed(boxes, scores)
    assert [members.tolist() for members, _ in groups] == wanted and len(wanted) > 5
    assert [score for _, score in groups] == [scores[group[0]] for group in wanted]


def test_a_landmark_moves_to_the_center_of_its_heat():
    heat = np.full((64, 64, 3), -20.0)
    heat[30, 40, 0] = heat[30, 42, 0] = 5.0  # equally hot left and right of 41
    heat[10, 10, 1] = -2.0  # less than half sure
    uv = np.array([[41.5, 29.5], [10.5, 10.5], [70, 5]]) / 64
    moved = refined(uv, heat) * 64
    assert np.allclose(moved[0], [41, 30], atol=1e-3)
    assert np.allclose(moved[1:], uv[1:] * 64)


def test_the_crop_stands_on_the_feet_of_a_person_who_lies():
    upright = region_of(np.array([50.0, 60]), np.array([50.0, 20]))
    assert (upright.x, upright.y, upright.angle) == (50, 60, 0) and upright.width == upright.height == 2 * 40 * 1.25
    lying = region_of(np.array([50.0, 60]), np.array([90.0, 60]))  # the head to the right
    assert np.isclose(lying.angle, np.pi / 2)
    assert np.allclose(lying.to_frame(np.array([0.5, 0.1])), [50 + 40, 60])


def test_the_shipped_networks_are_those_that_their_page_names():
    page = (WEIGHTS / "README.md").read_text(encoding="utf-8")
    for path in (DETECTOR, *LANDMARKS.values()):
        content = path.read_bytes()
        assert f"`{path.name}` | {len(content):,} | `{hashlib.sha256(content).hexdigest()}`" in page
    assert "Apache License" in (WEIGHTS / "LICENSE").read_text(encoding="utf-8")


def test_a_file_that_is_no_network_is_named(tmp_path):
    (tmp_path / "bad.tflite").write_bytes(b"not a network")
    with pytest.raises(ValueError, match="bad.tflite: not a readable .tflite network"):
        Network(tmp_path / "bad.tflite")
    with pytest.raises(ValueError, match="annotator.model='heavy': choose full or lite"):
        BlazePose("heavy")


def test_without_litert_the_extra_is_named(monkeypatch):
    monkeypatch.setattr("m3.annotation.networks.Interpreter", None)
    with pytest.raises(ValueError, match=r"pip install 'm3-motion\[pose\]'"):
        Network(DETECTOR)
