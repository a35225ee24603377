"""NVIDIA's Cosmos-0.1 DI16×16: two published TorchScript files, `encoder.jit` and `decoder.jit`.

The encoder returns (ids, FSQ values, a loss), of which only the ids are used. The published files compute in bfloat16.
"""

from __future__ import annotations

import warnings
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from m3.core.devices import torch_device
from m3.core.modalities import PICTURE, PICTURE_STRIDE
from m3.core.weights import find_weights, fingerprint
from m3.tokens.base import PictureTokenizer, check_pixels

REPOSITORY = "nvidia/Cosmos-0.1-Tokenizer-DI16x16"
FILES = ("encoder.jit", "decoder.jit")
ADVICE = (
    f"Get encoder.jit and decoder.jit from https://huggingface.co/{REPOSITORY} (weights under the NVIDIA Open Model "
    "License), put both into one folder and give it as tokenizer.path=FOLDER; "
    f"or give tokenizer.path={REPOSITORY} on a machine with network access "
    "(after `hf auth login` if the hub asks for it)"
)


class CosmosTokenizer(PictureTokenizer):
    """The published networks as a tokenizer. They compute in the dtype in which they were saved, on any device.

    Args:
        path: a folder with encoder.jit and decoder.jit, or the id of a Hugging Face repository that holds them.
        device: where to compute; "auto" is the GPU if there is one.

    Raises FileNotFoundError, with where to get the files, or ValueError naming a file that is something else.
    """

    name = "cosmos"

    def __init__(self, path: str = REPOSITORY, device: str = "auto") -> None:
        self.device = torch_device("tokenizer.device", device)
        folder = find_weights("tokenizer.path", path, FILES, (), ADVICE)
        self._encoder_path, self._decoder_path = (folder / name for name in FILES)
        self.fingerprint = fingerprint((self._encoder_path, self._decoder_path))
        self._encoder_dtypes: list[torch.dtype] | None = None

    @cached_property
    def encoder(self) -> torch.jit.ScriptModule:
        return _load(self._encoder_path, self.device)

    @cached_property
    def decoder(self) -> torch.jit.ScriptModule:
        """Loaded by the first `decode`: preprocessing may not need it."""
        return _load(self._decoder_path, self.device)

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """See `PictureTokenizer.encode`. Raises ValueError unless the network returns legal ids."""
        check_pixels(pixels)
        output = self._run_encoder(pixels.to(self.device))
        ids = output[0] if isinstance(output, (tuple, list)) and output else output
        grid = tuple(side // PICTURE_STRIDE for side in pixels.shape[2:])
        if not isinstance(ids, Tensor) or ids.is_floating_point() or ids.shape != (len(pixels), *grid):
            raise ValueError(
                f"{self._encoder_path} returned {_describe(output)} for pixels {tuple(pixels.shape)}, need integer ids "
                f"{(len(pixels), *grid)} first: not the encoder of a discrete 16 × 16 image tokenizer. {ADVICE}"
            )
        ids = ids.long()
        _check_legal(ids, f"{self._encoder_path} returned")
        return ids

    @torch.no_grad()
    def decode(self, ids: Tensor) -> Tensor:
        """(B, h, w) integer ids → (B, 3, 16h, 16w) float32, clamped to [−1, 1]; the network itself does not clamp.

        Raises ValueError for an illegal id, which the network would silently decode like another one.
        """
        if ids.ndim != 3 or ids.is_floating_point():
            raise ValueError(f"ids {_describe(ids)}: need integers (B, h, w)")
        _check_legal(ids.long(), "cannot decode")
        try:
            pixels = _run(self.decoder, ids.to(self.device, torch.int32))
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, torch.jit.Error) as error:
            raise self._run_error(self._decoder_path, _last_line(error)) from error
        expected = (len(ids), 3, *(PICTURE_STRIDE * side for side in ids.shape[1:]))
        if not isinstance(pixels, Tensor) or not pixels.is_floating_point() or pixels.shape != expected:
            raise ValueError(
                f"{self._decoder_path} returned {_describe(pixels)} for ids {tuple(ids.shape)}, need {expected}: "
                f"not the decoder of a discrete 16 × 16 image tokenizer. {ADVICE}"
            )
        return pixels.float().clamp(-1, 1)

    def _run_encoder(self, pixels: Tensor) -> Any:
        """The encoder's output for pixels in the dtype of its weights.

        A frozen file has no visible weights: then in the first dtype that it accepts, float32 before bfloat16.
        """
        if self._encoder_dtypes is None:
            self._encoder_dtypes = _candidate_dtypes(self.encoder)
        failures = []
        for dtype in self._encoder_dtypes:
            try:
                output = _run(self.encoder, pixels.to(dtype))
            except torch.OutOfMemoryError:
                raise
            except (RuntimeError, torch.jit.Error) as error:
                failures.append(f"{_last_line(error)} (fed {dtype})")
            else:
                self._encoder_dtypes = [dtype]
                return output
        raise self._run_error(self._encoder_path, failures[0])

    def _run_error(self, path: Path, reason: str) -> ValueError:
        other = "cuda" if self.device.type == "cpu" else "cpu"
        return ValueError(f"{path} does not run on {self.device}: {reason}. Try tokenizer.device={other}. {ADVICE}")


def _run(network: torch.jit.ScriptModule, argument: Tensor) -> Any:
    """The network's output without the executor's optimizations.

    They rewrite a network after its first calls, but the same picture must give the same ids in every call.
    """
    with torch.jit.optimized_execution(False):  # pyright: ignore[reportPrivateImportUsage]: documented, not in __all__
        return network(argument)


def _load(path: Path, device: torch.device) -> torch.jit.ScriptModule:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # deprecated, but the published format
        try:
            return torch.jit.load(path, map_location=device).eval()
        except (RuntimeError, torch.jit.Error) as error:
            raise ValueError(f"{path}: not a TorchScript file ({_last_line(error)}). {ADVICE}") from error


def _candidate_dtypes(module: torch.jit.ScriptModule) -> list[torch.dtype]:
    """Dtypes to try, likeliest first: those of the parameters, in order (the first layer's first), then others.

    There are several because files may have mixed dtypes or no visible parameters.
    """
    weights = [tensor.dtype for tensors in (module.parameters(), module.buffers()) for tensor in tensors]
    floating = [dtype for dtype in weights if dtype.is_floating_point]
    return list(dict.fromkeys([*floating, torch.float32, torch.bfloat16, torch.float16]))


def _check_legal(ids: Tensor, what: str) -> None:
    """Raises ValueError naming the first of the (B, h, w) int64 ids outside 0 … 63,999."""
    is_illegal = (ids < 0) | (ids >= PICTURE.num_ids)
    if bool(is_illegal.any()):
        sample, row, column = is_illegal.nonzero()[0].tolist()
        value = int(ids[sample, row, column])
        raise ValueError(
            f"{what} token id {value} (sample {sample}, row {row}, column {column}): "
            f"legal ids are 0 … {PICTURE.num_ids - 1}"
        )


def _describe(output: Any) -> str:
    if isinstance(output, Tensor):
        return f"{str(output.dtype).removeprefix('torch.')} {tuple(output.shape)}"
    if isinstance(output, (tuple, list)):
        return f"({', '.join(_describe(item) for item in output)})"
    return type(output).__name__


def _last_line(error: Exception) -> str:
    """The last line of the message, which holds the cause: TorchScript's own stack precedes it."""
    return str(error).strip().splitlines()[-1].removeprefix("RuntimeError: ")
