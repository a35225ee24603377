"""A small network with random weights and the very interface of Cosmos-0.1 DI16×16, saved as TorchScript.

Its quantizer is written from the published formulas, apart from m3's own.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn


class Quantizer(nn.Module):
    """FSQ as the published files have it: float values in, int32 indices and codes of the values' dtype out."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("levels", torch.tensor([8, 8, 8, 5, 5, 5], dtype=torch.int32), persistent=False)
        self.register_buffer("counts", torch.tensor([1, 8, 64, 512, 2560, 12800], dtype=torch.int32), persistent=False)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        channels_last = z.permute(0, 2, 3, 1).float()
        half = (self.levels - 1) * 1.001 / 2
        offset = torch.where(self.levels % 2 == 0, 0.5, 0.0)
        bounded = (channels_last + torch.atanh(offset / half)).tanh() * half - offset
        codes = bounded.round() / (self.levels // 2)
        digits = codes * (self.levels // 2) + self.levels // 2
        indices = (digits * self.counts).sum(-1).to(torch.int32)
        out = codes.permute(0, 3, 1, 2).to(z.dtype)
        return indices, out, torch.zeros_like(out.mean(dim=[1, 2, 3], keepdim=True))

    def codes(self, indices: Tensor) -> Tensor:
        digits = (indices.unsqueeze(-1) // self.counts) % self.levels
        return ((digits - self.levels // 2) / (self.levels // 2)).permute(0, 3, 1, 2)


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.SiLU(), nn.Conv2d(8, 6, 4, stride=4))
        self.quantizer = Quantizer()

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.quantizer(self.net(pixels))


class Decoder(nn.Module):
    """Shows code k in a sixth of each patch: channel k % 3 of its upper (k < 3) or lower half; times 1.5, unclamped."""

    def __init__(self) -> None:
        super().__init__()
        self.quantizer = Quantizer()
        self.net = nn.Conv2d(6, 768, 1)
        self.shuffle = nn.PixelShuffle(16)
        weight = torch.zeros(3, 16, 16, 6)  # channel, row, column of a patch ← code
        for k in range(6):
            weight[k % 3, slice(0, 8) if k < 3 else slice(8, 16), :, k] = 1.5
        self.net.weight.data = weight.reshape(768, 6, 1, 1)
        nn.init.zeros_(self.net.bias)

    def forward(self, indices: Tensor) -> Tensor:
        return self.shuffle(self.net(self.quantizer.codes(indices).to(self.net.weight.dtype)))


def networks(dtype: torch.dtype, seed: int = 0) -> tuple[Encoder, Decoder]:
    torch.manual_seed(seed)
    encoder, decoder = Encoder(), Decoder()
    for module in encoder.net:
        if isinstance(module, nn.Conv2d):
            module.weight.data *= 6  # so that many ids occur
    return encoder.to(dtype).eval(), decoder.to(dtype).eval()


def save(module: nn.Module, path: Path, how: str, example: Tensor) -> None:
    """how: "script", "trace", or "frozen", which leaves no parameters."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        scripted = torch.jit.trace(module, example) if how == "trace" else torch.jit.script(module)
        torch.jit.save(torch.jit.freeze(scripted) if how == "frozen" else scripted, str(path))


def write_cosmos(folder: Path, dtype: torch.dtype = torch.bfloat16, how: str = "trace", seed: int = 0) -> Path:
    """A folder with encoder.jit and decoder.jit."""
    folder.mkdir(parents=True, exist_ok=True)
    encoder, decoder = networks(dtype, seed)
    save(encoder, folder / "encoder.jit", how, torch.zeros(1, 3, 64, 64, dtype=dtype))
    save(decoder, folder / "decoder.jit", how, torch.zeros(1, 4, 4, dtype=torch.int32))
    return folder
