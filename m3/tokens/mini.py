"""The mini tokenizer: m3's own small FSQ auto-encoder, with the interface of Cosmos DI16×16 and weights in the package.

It is fully convolutional, so that it works for all canvas sizes that are multiples of 16. A token depends on its own
16 × 16 pixels and little around them, and stays the same where a picture does. The decoder sees far, by wide depthwise
kernels at stride 16: sixteen bits are too few for 16 × 16 pixels on their own.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from m3.core.devices import torch_device
from m3.core.files import write_atomic
from m3.core.modalities import FSQ_LEVELS
from m3.core.weights import not_finite
from m3.tokens.base import PictureTokenizer, check_pixels
from m3.tokens.fsq import FSQ

_FOLDER = Path(__file__).parent / "weights"

WEIGHTS = {1: _FOLDER / "mini1.safetensors", 2: _FOLDER / "mini2.safetensors"}
"""Version → the shipped weights; `README.md` beside them describes their training."""

FIRST_FINGERPRINT = "9a085155552cafd4ae28a0b5fbe72ef91fc627c0c48de71bfcc3c8006470d301"
"""Of version 1, which made the data of m3 0.1."""


class ResidualBlock(nn.Module):
    """x + conv(act(conv(x))), without a norm, as in EDSR (Lim et al. 2017): norms reduce contrast."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class ContextBlock(nn.Module):
    """x + MLP(norm(depthwise 7 × 7(x))), a ConvNeXt block (Liu et al. 2022)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 7, padding=3, groups=width),
            nn.GroupNorm(1, width),
            nn.Conv2d(width, 2 * width, 1),
            nn.SiLU(),
            nn.Conv2d(2 * width, width, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class PatchBlock(nn.Module):
    """x + MLP(x) at each place on its own, so that no place sees another."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(width, 2 * width, 1), nn.SiLU(), nn.Conv2d(2 * width, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class Upsample(nn.Sequential):
    """(B, C, h, w) → (B, C', 2h, 2w) by a sub-pixel convolution (Shi et al. 2016)."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__(nn.Conv2d(width_in, 4 * width_out, 1), nn.PixelShuffle(2))


class PatchEncoder(nn.Module):
    """(B, 3, H, W) → (B, 6, h, w), each token from its own 16 × 16 pixels and 8 pixels around them.

    So the tokens of what does not move stay what they are. What is around lets neighbors describe together what crosses
    their border.

    Args: see `MiniAutoEncoder`.
    """

    NUM_AROUND = 16
    """Features of each 4 × 4 pixels that are seen from around a patch."""

    def __init__(self, widths: tuple[int, int, int], depths: tuple[int, int, int]) -> None:
        super().__init__()
        fine, middle, coarse = widths
        self.cells = nn.Sequential(nn.Conv2d(3, fine, 4, stride=4), *(PatchBlock(fine) for _ in range(depths[0])))
        self.patch = nn.Sequential(
            nn.Conv2d(fine, middle, 2, stride=2),  # (B, 192, H/8, W/8)
            *(PatchBlock(middle) for _ in range(depths[1])),
            nn.Conv2d(middle, coarse, 2, stride=2),  # (B, 256, h, w)
        )
        self.around = nn.Sequential(
            nn.Conv2d(fine, self.NUM_AROUND, 1),
            nn.Conv2d(self.NUM_AROUND, coarse, 8, stride=4, padding=2),  # of the 32 × 32 pixels around
        )
        self.mix = nn.Sequential(*(PatchBlock(coarse) for _ in range(depths[2])), nn.Conv2d(coarse, len(FSQ_LEVELS), 1))

    def forward(self, pixels: Tensor) -> Tensor:
        cells = self.cells(pixels)  # (B, 96, H/4, W/4)
        return self.mix(self.patch(cells) + self.around(cells))


class MiniAutoEncoder(nn.Module):
    """Pixels → FSQ values → pixels.

    A token depends on its own 16 × 16 pixels and at most 8 around them (`PatchEncoder`). The decoder looks far: its
    blocks at stride 16 have 7 × 7 kernels.

    Args:
        widths: channels of the decoder at stride 4, 8 and 16.
        decoder_depths: its residual blocks at stride 4 and 8, context blocks at stride 16.
        encoder_widths: channels of the encoder at stride 4, 8 and 16.
        encoder_depths: its blocks there.
    """

    def __init__(
        self,
        widths: tuple[int, int, int] = (64, 128, 256),
        decoder_depths: tuple[int, int, int] = (3, 3, 5),
        encoder_widths: tuple[int, int, int] = (96, 192, 256),
        encoder_depths: tuple[int, int, int] = (1, 1, 2),
    ) -> None:
        super().__init__()
        self.encoder = self._encoder(encoder_widths, encoder_depths)
        self.quantize = FSQ()
        fine, middle, coarse = widths
        self.decoder = nn.Sequential(
            nn.Conv2d(len(FSQ_LEVELS), coarse, 3, padding=1),
            *(ContextBlock(coarse) for _ in range(decoder_depths[2])),
            Upsample(coarse, middle),
            *(ResidualBlock(middle) for _ in range(decoder_depths[1])),
            Upsample(middle, fine),
            *(ResidualBlock(fine) for _ in range(decoder_depths[0])),
            nn.Conv2d(fine, 48, 3, padding=1),
            nn.PixelShuffle(4),
        )

    def _encoder(self, widths: tuple[int, int, int], depths: tuple[int, int, int]) -> nn.Module:
        return PatchEncoder(widths, depths)

    def initialize(self, generator: torch.Generator) -> None:
        """Draws initial weights: He-normal kernels, residual branches scaled to a tenth, equal sub-pixel copies."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="linear", generator=generator)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for module in self.modules():
            if isinstance(module, (ResidualBlock, ContextBlock, PatchBlock)):
                module.body[-1].get_parameter("weight").data *= 0.1
            elif isinstance(module, PatchEncoder):
                module.around[-1].get_parameter("weight").data.zero_()  # at first, patches on their own
            elif isinstance(module, Upsample):
                # (4 C', C, 1, 1); equal copies avoid a checkerboard (Aitken et al. 2017)
                kernel = module[0].get_parameter("weight").data
                kernel.copy_(kernel[::4].repeat_interleave(4, dim=0))

    def levels(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) in [−1, 1] → (B, h, w, 6) float32 numbers that `FSQ.round` rounds, h = H/16."""
        return self.quantize.bound(self.encoder(pixels).float().permute(0, 2, 3, 1))

    def encode(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) in [−1, 1] → (B, h, w, 6) float32 values on the FSQ grid, h = H/16."""
        return self.quantize.round(self.levels(pixels))

    def decode(self, values: Tensor) -> Tensor:
        """(B, h, w, 6) FSQ values → (B, 3, H, W), about [−1, 1], not clamped."""
        return self.decoder(values.permute(0, 3, 1, 2).contiguous())

    def forward(self, pixels: Tensor) -> Tensor:
        return self.decode(self.encode(pixels))


class FirstMiniAutoEncoder(MiniAutoEncoder):
    """Version 1, whose encoder looks far too: neighboring tokens share what they have in common, such as a sky, and
    change with it."""

    def __init__(self) -> None:
        super().__init__(encoder_widths=(64, 128, 256), encoder_depths=(1, 1, 2))

    def _encoder(self, widths: tuple[int, int, int], depths: tuple[int, int, int]) -> nn.Sequential:
        fine, middle, coarse = widths
        return nn.Sequential(
            nn.PixelUnshuffle(4),  # (B, 48, H/4, W/4)
            nn.Conv2d(48, fine, 3, padding=1),
            *(ResidualBlock(fine) for _ in range(depths[0])),
            nn.Conv2d(fine, middle, 2, stride=2),  # (B, 128, H/8, W/8)
            *(ResidualBlock(middle) for _ in range(depths[1])),
            nn.Conv2d(middle, coarse, 2, stride=2),  # (B, 256, h, w)
            *(ContextBlock(coarse) for _ in range(depths[2])),
            nn.Conv2d(coarse, len(FSQ_LEVELS), 1),
        )


def save_weights(model: MiniAutoEncoder, path: Path) -> None:
    """Writes the weights as fp16 safetensors. Raises WriteError where that fails."""
    halves = {name: tensor.detach().half().cpu().contiguous() for name, tensor in model.state_dict().items()}
    write_atomic(path, safetensors.torch.save(halves))


class MiniTokenizer(PictureTokenizer):
    """The trained auto-encoder as a tokenizer, computing in float32.

    Args:
        path: a safetensors file of `save_weights` or of version 1, or None for shipped weights.
        version: of the shipped weights: 2, or 1 for data that m3 0.1 made.
        device: where to compute; "auto" is the GPU if there is one.

    Raises FileNotFoundError or ValueError naming the key or the file where it holds no weights of the mini tokenizer.
    """

    name = "mini"

    def __init__(self, path: str | None = None, version: int = 2, device: str = "cpu") -> None:
        self.device = torch_device("tokenizer.device", device)
        if version not in WEIGHTS:
            raise ValueError(f"tokenizer.version={version!r}: choose {' or '.join(map(str, WEIGHTS))}")
        source = WEIGHTS[version] if path is None else Path(path)
        if not source.is_file():
            raise FileNotFoundError(f"tokenizer.path={source}: no such file; leave it null for the shipped weights")
        content = source.read_bytes()
        self.fingerprint = hashlib.sha256(content).hexdigest()
        try:
            weights = safetensors.torch.load(content)
            is_first = not any(name.startswith("encoder.patch.") for name in weights)
            self.model = FirstMiniAutoEncoder() if is_first else MiniAutoEncoder()
            self.model.load_state_dict(weights)
        except Exception as error:  # headers of many kinds pass safetensors and fail in torch
            reason = str(error).partition("\n")[0]
            raise ValueError(f"tokenizer.path={source}: not weights of the mini tokenizer: {reason}") from error
        if bad := not_finite(self.model.state_dict()):
            raise ValueError(f"tokenizer.path={source}: weights that are not finite, the first are those of {bad[0]}")
        self.model.eval().requires_grad_(False).to(self.device)

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        check_pixels(pixels)
        values = self.model.encode(pixels.to(self.device, torch.float32))
        return self.model.quantize.values_to_ids(values)

    @torch.no_grad()
    def decode(self, ids: Tensor) -> Tensor:
        if ids.ndim != 3:
            raise ValueError(f"ids of shape {tuple(ids.shape)}: need (B, h, w)")
        values = self.model.quantize.ids_to_values(ids.to(self.device))
        return self.model.decode(values).clamp(-1, 1)
