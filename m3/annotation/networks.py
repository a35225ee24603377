"""The networks of BlazePose, run by LiteRT on one CPU thread."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from m3.core.weights import fingerprint

try:
    from ai_edge_litert.interpreter import Interpreter
except ImportError:
    Interpreter = None

WEIGHTS = Path(__file__).parent / "weights"
"""The shipped networks; `weights/README.md` says where they are from."""

DETECTOR = WEIGHTS / "pose_detection.tflite"
LANDMARKS = {name: WEIGHTS / f"pose_landmark_{name}.tflite" for name in ("full", "lite")}


class Network:
    """A .tflite network with one input.

    path: the file.

    Raises ValueError where LiteRT is not installed, and where the file holds no network.
    """

    def __init__(self, path: Path) -> None:
        if Interpreter is None:
            raise ValueError("annotator=blazepose: LiteRT is not installed here; pip install 'm3-motion[pose]'")
        self.fingerprint = fingerprint([path])
        try:
            self._interpreter = Interpreter(model_path=str(path), num_threads=1)
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise ValueError(f"{path}: not a readable .tflite network ({error})") from error
        self._input = self._interpreter.get_input_details()[0]
        self._outputs = self._interpreter.get_output_details()

    @property
    def side(self) -> int:
        """Side of the square input, pixels."""
        return int(self._input["shape"][1])

    def __call__(self, picture: np.ndarray) -> list[np.ndarray]:
        """(side, side, 3) float32 → the outputs, in the network's order, without their batch axis."""
        self._interpreter.set_tensor(self._input["index"], picture[None].astype(np.float32))
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(output["index"])[0] for output in self._outputs]
