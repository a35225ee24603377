"""A pose network of one's own in an .onnx file: RTMPose, ViTPose and others that look at one person at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from m3.annotation.blazepose import Estimate
from m3.annotation.regions import Region
from m3.core.weights import fingerprint

_MARGIN = 1.25
"""Height of the crop, in heights of the box around the keypoints."""

_MIN_CONFIDENCE = 0.3
"""Of a keypoint that says where the person is."""


class OnnxPose:
    """Keypoints of the person in an upright region whose sides are as those of the network's input.

    The input is (1, 3, height, width) float32 RGB minus `mean` by `std`. The outputs are heat maps (1, K, h, w), or
    SimCC: two arrays (1, K, width · n) and (1, K, height · n) of scores along x and y.

    path: the file. mean, std: of the red, green and blue values, 0 … 255.
    num_keypoints: K that the keypoint map needs, at least.

    Raises ValueError or FileNotFoundError naming the file where it is no such network.
    """

    def __init__(self, path: str | Path, mean: tuple[float, ...], std: tuple[float, ...], num_keypoints: int) -> None:
        try:
            import onnxruntime  # not above: it writes to the user's cache folder when it is imported
        except ImportError as error:
            raise ValueError(
                "annotator=onnx: ONNX Runtime is not installed here; pip install 'm3-motion[onnx]'"
            ) from error
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"annotator.path={path}: no such file; give a pose network in an .onnx file")
        self._name = path.name
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # of many kinds
            raise ValueError(f"annotator.path={path}: not a readable .onnx network ({_first_line(error)})") from error
        self.fingerprint = fingerprint([path])
        self._mean, self._std = (np.array(values, np.float32).reshape(3, 1, 1) for values in (mean, std))
        inputs = self._session.get_inputs()
        shape = inputs[0].shape
        if len(inputs) != 1 or len(shape) != 4 or shape[1] != 3 or not all(isinstance(side, int) for side in shape[2:]):
            raise ValueError(f"annotator.path={path}: an input of shape {shape}, need (1, 3, height, width)")
        self._input, self.size = inputs[0].name, (int(shape[2]), int(shape[3]))
        found = self._outputs(np.zeros((*self.size, 3), np.uint8))[1]
        if len(found) < num_keypoints:
            raise ValueError(
                f"annotator.path={path}: {len(found)} keypoints, annotator.keypoints needs {num_keypoints}; choose the "
                "layout that the network was trained for"
            )

    def __call__(self, frame: np.ndarray, region: Region) -> Estimate:
        """The person in a region of an (H, W, 3) uint8 frame, whatever the region's width and angle."""
        upright = self._upright(region.x, region.y, region.height)
        uv, confidence = self._outputs(upright.crop(frame, self.size))
        xy, is_sure = upright.to_frame(uv), confidence >= _MIN_CONFIDENCE
        following = Region(region.x, region.y, float("nan"), float("nan"))  # nobody is there
        if is_sure.sum() >= 3:
            low, high = xy[is_sure].min(0), xy[is_sure].max(0)
            height = max(high[1] - low[1], (high[0] - low[0]) * self.size[0] / self.size[1]) * _MARGIN
            x, y = ((low + high) / 2).tolist()
            following = self._upright(x, y, float(height))
        surest = np.sort(confidence)[-max(1, len(confidence) // 2) :]  # half of a person may be hidden
        return Estimate(xy, confidence, float(surest.mean()), following)

    def _upright(self, x: float, y: float, height: float) -> Region:
        return Region(x, y, height * self.size[1] / self.size[0], height)

    def _outputs(self, picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(height, width, 3) uint8 → (K, 2) places in it, 0 … 1, and (K,) confidences, 0 … 1."""
        pixels = (picture.astype(np.float32).transpose(2, 0, 1) - self._mean) / self._std
        outputs: Any = self._session.run(None, {self._input: pixels[None]})
        arrays = [np.asarray(output)[0].astype(np.float64) for output in outputs]
        if len(arrays) == 1 and arrays[0].ndim == 3:
            return from_heat_maps(arrays[0])
        if len(arrays) == 2 and all(each.ndim == 2 for each in arrays) and len(arrays[0]) == len(arrays[1]):
            return from_simcc(*arrays)
        shapes = [each.shape for each in arrays]
        raise ValueError(f"{self._name}: outputs of shapes {shapes}, need heat maps (K, h, w), or SimCC: two of (K, n)")


def from_simcc(along_x: np.ndarray, along_y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(K, m), (K, n) scores along x and y → (K, 2) places, 0 … 1, and (K,) confidences: the lower of the two best."""
    places = [(scores.argmax(axis=1) + 0.5) / scores.shape[1] for scores in (along_x, along_y)]
    return np.stack(places, axis=1), np.minimum(along_x.max(axis=1), along_y.max(axis=1)).clip(0, 1)


def from_heat_maps(heat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(K, h, w) → (K, 2) places, 0 … 1, and (K,) confidences.

    A place is the middle of the hottest cell, moved by a quarter of a cell toward the hotter one of its neighbors.
    """
    num, height, width = heat.shape
    rows, columns = np.divmod(heat.reshape(num, -1).argmax(axis=1), width)
    padded = np.pad(heat, ((0, 0), (1, 1), (1, 1)), mode="reflect")
    k = np.arange(num)
    x = columns + 0.25 * np.sign(padded[k, rows + 1, columns + 2] - padded[k, rows + 1, columns])
    y = rows + 0.25 * np.sign(padded[k, rows + 2, columns + 1] - padded[k, rows, columns + 1])
    return np.stack([(x + 0.5) / width, (y + 0.5) / height], axis=1), heat.reshape(num, -1).max(axis=1).clip(0, 1)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
