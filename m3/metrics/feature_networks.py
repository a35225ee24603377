"""FID and FVD: distances between generated and true pictures and videos in the features of a network of the user.

Both are the squared Fréchet distance (`m3.metrics.feature_sets`) between the features of the generated and of the true
set: FID (Heusel et al., 2017) of the pictures at a horizon, FVD (Unterthiner et al., 2018) of the videos of all frames,
the reference first. The networks are the usual TorchScript files, called as StyleGAN2-ADA, StyleGAN3 and StyleGAN-V do:

* FID: Inception, (N, 3, H, W) uint8, `return_features=True` → (N, F).
* FVD: I3D, (N, 3, T + 1, H, W) uint8, `rescale=True, resize=True, return_features=True` → (N, F). I3D needs about ten
  frames.

Loading such a file runs the code in it: whoever names it vouches for it.

True pictures are the real frames where they are known, else the truth's tokens, decoded. Sets of at most as many
samples as features are far apart even if nothing is wrong: distances compare only between sets of equal size.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from m3.core.frames import Frames
from m3.metrics.comparison import Comparison
from m3.metrics.feature_sets import FeatureSets
from m3.metrics.frechet import MIN_SAMPLES
from m3.metrics.specs import MetricSpec

_SERIES = ("model", "nothing_moves", "tokenizer", "real_reference", "argmax")
_PICTURES_AT_ONCE = 32
"""Through the network; videos are so many frames."""


@dataclass(frozen=True)
class FeatureNetwork:
    """A TorchScript network that makes features of pictures or videos.

    script: the network in eval mode. options: its keyword arguments. num_features: F. fingerprint: SHA-256 of its file.
    """

    script: Callable[..., Any]
    options: Mapping[str, bool]
    num_features: int
    fingerprint: str
    device: torch.device

    @classmethod
    def load(
        cls, key: str, path: str, shape: tuple[int, ...], options: Mapping[str, bool], device: torch.device
    ) -> FeatureNetwork:
        """The network of a file, tried on one black input.

        Args:
            key: of the configuration, for messages.
            shape: of an input, (3, H, W) or (3, T + 1, H, W).
        Raises:
            FileNotFoundError, or ValueError for a file that is no TorchScript and a network of another interface.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"{key}={path}: no such file; give a TorchScript network, or null")
        fingerprint = hashlib.sha256(Path(path).read_bytes()).hexdigest()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # deprecated, but the published format
            try:
                script = torch.jit.load(path, map_location=device).eval()
            except (RuntimeError, ValueError) as error:
                reason = _reason(error).split(". ")[0]
                raise ValueError(f"{key}={path}: not a TorchScript file ({reason}); pickles are not read") from None
        network = cls(script, options, 0, fingerprint, device)
        words = ", ".join(f"{name}={value}" for name, value in options.items())
        called = f"called with {(1, *shape)} uint8 and {words}"
        try:
            found = network._call(torch.zeros((1, *shape), dtype=torch.uint8))
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever the code in the file raises
            remedy = "; I3D needs about 10 frames: give rollout.frames=15" if len(shape) == 4 else ""
            raise ValueError(f"{key}={path}: fails when {called}: {_reason(error)}{remedy}") from None
        if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != 1 or not found.is_floating_point():
            got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ValueError(f"{key}={path}: {called} it returns {got}; need (1, F) floating-point features")
        return cls(script, options, found.shape[1], fingerprint, device)

    def features(self, pictures: np.ndarray, is_counted: np.ndarray) -> np.ndarray:
        """(…, F) float32 features of (…, 3, H, W) or (…, 3, T + 1, H, W) uint8 inputs; 0 where `is_counted` is False.

        Raises ValueError where the network returns values that are not finite.
        """
        found = np.zeros((*is_counted.shape, self.num_features), np.float32)
        where = np.argwhere(is_counted)
        num_frames = pictures.shape[-3] if pictures.ndim - is_counted.ndim == 4 else 1
        size = max(1, _PICTURES_AT_ONCE // num_frames)
        for start in range(0, len(where), size):
            rows = tuple(where[start : start + size].T)
            found[rows] = self._call(torch.from_numpy(np.ascontiguousarray(pictures[rows]))).float().cpu().numpy()
        if not np.isfinite(found).all():
            raise ValueError(f"the feature network {self.fingerprint[:12]}… returns values that are not finite")
        return found

    @torch.inference_mode()
    def _call(self, inputs: Tensor) -> Tensor:
        """Without the executor's optimizations, which rewrite a network after its first calls: each gives the same."""
        with torch.jit.optimized_execution(False):  # pyright: ignore[reportPrivateImportUsage]: documented
            return self.script(inputs.to(self.device), **self.options)


def fid_spec(path: str, canvas_size: int, device: torch.device) -> MetricSpec:
    """FID by a TorchScript Inception. Raises as `FeatureNetwork.load`."""
    network = FeatureNetwork.load("metrics.fid", path, (3, canvas_size, canvas_size), {"return_features": True}, device)

    def inputs(frames: Frames) -> np.ndarray:
        return np.moveaxis(frames.values["tok_rgb"][:, 1:], -1, -3)  # (N, T, 3, H, W)

    def is_present(frames: Frames) -> np.ndarray:
        return frames.is_present[:, 1:]

    return _spec("fid", "FID", "pictures", network, inputs, is_present)


def fvd_spec(path: str, canvas_size: int, num_frames: int, device: torch.device) -> MetricSpec:
    """FVD by a TorchScript I3D, of roll-outs of `num_frames` horizons. Raises as `FeatureNetwork.load`."""
    options = {"rescale": True, "resize": True, "return_features": True}
    network = FeatureNetwork.load("metrics.fvd", path, (3, num_frames + 1, canvas_size, canvas_size), options, device)

    def inputs(frames: Frames) -> np.ndarray:
        return np.moveaxis(frames.values["tok_rgb"], -1, 1)[:, None]  # (N, 1, 3, T + 1, H, W)

    def is_present(frames: Frames) -> np.ndarray:
        return np.asarray(frames.is_present.all(1, keepdims=True))

    return _spec("fvd", "FVD", "videos", network, inputs, is_present, rollouts_only=True)


def _spec(
    name: str,
    label: str,
    what: str,
    network: FeatureNetwork,
    inputs: Callable[[Frames], np.ndarray],
    is_present: Callable[[Frames], np.ndarray],
    **options: Any,
) -> MetricSpec:
    def measure(frames: Frames, compared: Comparison) -> FeatureSets | None:
        true = compared.truth if compared.real is None else compared.real
        if "tok_rgb" not in frames.values or "tok_rgb" not in true.values:
            return None
        is_counted = is_present(frames) & is_present(compared.truth) & is_present(true)
        if is_counted.sum(0).max(initial=0) < MIN_SAMPLES:
            return None
        key = name, network.fingerprint
        if key not in compared.cache:
            compared.cache[key] = network.features(inputs(true), is_present(compared.truth) & is_present(true))
        return _at_last(FeatureSets(network.features(inputs(frames), is_counted), compared.cache[key], is_counted),
                        compared.truth.is_present.shape[1] - 1)  # fmt: skip

    return MetricSpec(
        name, "tok_rgb", measure, "squared distance", "lower", label,
        f"squared Fréchet distance between the {network.num_features:,} features of generated and true {what} by the "
        f"network {network.fingerprint[:12]}…; the true ones are the real frames where source=… gives them, else the "
        "truth's tokens, decoded; compare equal numbers only",
        f"fewer than {MIN_SAMPLES} {what} with a truth{' for all frames' if what == 'videos' else ''}, or no pictures",
        min_samples=MIN_SAMPLES, is_error=True, short=label, series=_SERIES,
        num_features=network.num_features, **options,
    )  # fmt: skip


def _at_last(sets: FeatureSets, num_horizons: int) -> FeatureSets:
    """(N, 1, F) features of whole videos at the last of T horizons, where none are counted at the others."""
    if sets.is_counted.shape[1] == num_horizons:
        return sets
    is_counted = np.zeros((len(sets.is_counted), num_horizons), bool)
    is_counted[:, -1:] = sets.is_counted
    made, true = (np.broadcast_to(each, (*is_counted.shape, each.shape[-1])) for each in (sets.made, sets.true))
    return FeatureSets(made, true, is_counted)


def _reason(error: Exception) -> str:
    """The last line of the message: those of TorchScript start with a traceback."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
