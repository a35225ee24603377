"""Networks and functions of one's own."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from support.annotators import SHAPE, square_video

from m3.annotation.annotators import FunctionAnnotator, OnnxAnnotator
from m3.annotation.divided_source import DividedSource
from m3.annotation.onnx_pose import OnnxPose, from_heat_maps, from_simcc
from m3.annotation.regions import Region
from m3.clips.base import ClipError
from m3.clips.video_files import VideoFiles

MEAN, STD = (0.0, 0.0, 0.0), (255.0, 255.0, 255.0)
HEIGHT, WIDTH = 64, 48


def write_network(path: Path, has_simcc: bool, num_keypoints: int = 17, size: Sequence[Any] = (HEIGHT, WIDTH)) -> Path:
    """Keypoint k is the brightest pixel of the red channel; in heat maps of cells of 4 × 4 pixels, or SimCC."""
    red = helper.make_node("Slice", ["input", "start", "stop", "axis"], ["red"])
    constants = [
        helper.make_tensor("start", TensorProto.INT64, [1], [0]),
        helper.make_tensor("stop", TensorProto.INT64, [1], [1]),
        helper.make_tensor("axis", TensorProto.INT64, [1], [1]),
        helper.make_tensor("ones", TensorProto.FLOAT, [1, num_keypoints, 1, 1], [1.0] * num_keypoints),
    ]  # fmt: skip
    nodes = [red]
    if has_simcc:
        nodes += [
            helper.make_node("Mul", ["red", "ones"], ["many"]),
            helper.make_node("ReduceMax", ["many", "rows"], ["x"], keepdims=0),
            helper.make_node("ReduceMax", ["many", "columns"], ["y"], keepdims=0),
        ]
        constants += [helper.make_tensor("rows", TensorProto.INT64, [1], [2]),
                      helper.make_tensor("columns", TensorProto.INT64, [1], [3])]  # fmt: skip
        outputs = [("x", [1, num_keypoints, size[1]]), ("y", [1, num_keypoints, size[0]])]
    else:
        nodes += [
            helper.make_node("MaxPool", ["red"], ["cells"], kernel_shape=[4, 4], strides=[4, 4]),
            helper.make_node("Mul", ["cells", "ones"], ["heat"]),
        ]
        outputs = [("heat", None)]
    graph = helper.make_graph(
        nodes, "pose", [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, *size])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs], constants,
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), str(path))
    return path


@pytest.mark.parametrize(("has_simcc", "within"), [(True, 1.5), (False, 5)])
def test_a_network_finds_its_keypoints_in_the_frame(tmp_path: Path, has_simcc: bool, within: float):
    network = OnnxPose(write_network(tmp_path / "pose.onnx", has_simcc), MEAN, STD, 17)
    frame = np.zeros((200, 300, 3), np.uint8)
    frame[80:82, 140:142, 0] = 255
    estimate = network(frame, Region(150, 90, 999, HEIGHT))  # of the region only place and height count
    assert np.abs(estimate.xy - (141, 81)).max() <= within
    assert estimate.confidence.min() > 0.9 and estimate.score > 0.9
    empty = network(np.zeros((200, 300, 3), np.uint8), Region(150, 90, 50, HEIGHT))
    assert empty.score == 0 and not empty.region.is_finite()


def test_the_next_region_holds_the_keypoints_at_the_sides_of_the_input(tmp_path: Path):
    network = OnnxPose(write_network(tmp_path / "pose.onnx", True), MEAN, STD, 17)
    network._outputs = lambda _: (np.linspace([0.2, 0.1], [0.8, 0.9], 17), np.ones(17))  # type: ignore[method-assign]
    region = network(np.zeros((200, 300, 3), np.uint8), Region(100, 100, 0, 64)).region
    assert (region.x, region.y, region.angle) == pytest.approx((100, 100, 0))
    assert region.height == pytest.approx(0.8 * 64 * 1.25) and region.width == pytest.approx(region.height * 0.75)


def test_places_of_outputs_by_hand():
    x, y = np.zeros((1, 8)), np.zeros((1, 4))
    x[0, 6], y[0, 1] = 0.9, 0.5
    places, confidence = from_simcc(x, y)
    assert places.tolist() == [[6.5 / 8, 1.5 / 4]] and confidence.tolist() == [0.5]
    heat = np.zeros((2, 4, 8))
    heat[0, 1, 6], heat[0, 1, 7], heat[0, 0, 6] = 0.7, 0.3, 0.2
    heat[1, 0, 0] = 2.0
    places, confidence = from_heat_maps(heat)
    assert np.allclose(places, [[6.75 / 8, 1.25 / 4], [0.5 / 8, 0.5 / 4]]) and confidence.tolist() == [0.7, 1.0]


def settings(**changes: Any) -> dict[str, Any]:
    usual = {"person": "largest", "min_seconds": 0.1, "min_mean_score": 0.3, "min_confidence": 0.3, "visibility": 0.3,
             "smoothing": 0.0}  # fmt: skip
    return {**usual, **changes}


def onnx_annotator(path: Path, **changes: Any) -> OnnxAnnotator:
    own = {"keypoints": "coco17", "mean": MEAN, "std": STD, "max_people": 2, "tiles": False, "min_score": 0.3,
           "max_jump": 0.06}  # fmt: skip
    return OnnxAnnotator(path=str(path), **settings(**{**own, **changes}))


def test_bad_networks_are_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="annotator.path=.*none.onnx: no such file"):
        onnx_annotator(tmp_path / "none.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"no network")
    with pytest.raises(ValueError, match="bad.onnx: not a readable .onnx network"):
        onnx_annotator(tmp_path / "bad.onnx")
    write_network(tmp_path / "few.onnx", True, num_keypoints=5)
    with pytest.raises(ValueError, match="5 keypoints, annotator.keypoints needs 17"):
        onnx_annotator(tmp_path / "few.onnx")
    write_network(tmp_path / "any.onnx", False, size=("height", "width"))
    with pytest.raises(ValueError, match="an input of shape .*need \\(1, 3, height, width\\)"):
        onnx_annotator(tmp_path / "any.onnx")


def test_other_weights_are_other_joints(tmp_path: Path):
    one = onnx_annotator(write_network(tmp_path / "one.onnx", True))
    two = onnx_annotator(write_network(tmp_path / "two.onnx", False))
    key = one.key()
    assert key != two.key() and pickle.loads(pickle.dumps(one)).key() == key
    moved = (tmp_path / "one.onnx").rename(tmp_path / "moved.onnx")
    assert onnx_annotator(moved).key() == key and onnx_annotator(moved, visibility=0.5).key() != key


def middle_of_square(frames: Sequence[np.ndarray]) -> np.ndarray:
    """The white square of `square_video`; in no frame but the first ten."""
    found = np.full((len(frames), 13, 3), np.nan)
    for t in range(min(len(frames), 10)):
        rows, columns = np.nonzero((frames[t] > 215).all(-1))
        found[t, :, :2] = SHAPE + (columns.mean() + 0.5, rows.mean() + 0.5)
        found[t, :, 2] = 0.9
    return found


def wrong(frames: Sequence[np.ndarray]) -> np.ndarray:
    return np.zeros((3, 13, 2))


def test_a_function_gives_the_joints(tmp_path: Path):
    square_video(tmp_path / "walk.mp4")
    annotator = FunctionAnnotator(function=f"{__name__}.middle_of_square", **settings())
    source = DividedSource(VideoFiles(tmp_path), annotator, tmp_path / "a")
    source.survey("walk")
    clip = source.read("walk")
    assert clip.joints is not None and len(clip.frames) == 10 and clip.joints.is_visible.all()
    assert np.abs(clip.joints.xy.mean(1) - SHAPE.mean(0) - [(18 + 3 * t, 16) for t in range(10)]).max() < 1


def test_a_function_that_gives_something_else_is_named(tmp_path: Path):
    square_video(tmp_path / "walk.mp4")
    source = DividedSource(
        VideoFiles(tmp_path), FunctionAnnotator(function=f"{__name__}.wrong", **settings()), tmp_path / "a"
    )
    source.survey("walk")
    with pytest.raises(ClipError, match=r"wrong gave an array of shape \(3, 13, 2\), need \(20, 13, 3\)"):
        source.read("walk")
    for name in ("nowhere.at_all", "m3.core.joints.nothing", "plain"):
        with pytest.raises(ValueError, match=f"annotator.function={name}: cannot be imported"):
            FunctionAnnotator(function=name, **settings())
