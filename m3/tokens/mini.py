"""The mini tokenizer: m3's own small FSQ auto-encoder, with the interface of Cosmos DI16×16 and weights in the package.

It is fully convolutional, so that it works for all canvas sizes that are multiples of 16. Most channels are at stride
16, where wide depthwise kernels give each token and each decoded patch a large receptive field: sixteen bits are too
few for 16 × 16 pixels on their own, but neighboring tokens can share what they have in common, such as a sky.
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

WEIGHTS = Path(__file__).parent / "weights" / "mini.safetensors"
"""The shipped weights; `weights/README.md` beside them describes their training."""


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


class Upsample(nn.Sequential):
    """(B, C, h, w) → (B, C', 2h, 2w) by a sub-pixel convolution (Shi et al. 2016)."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__(nn.Conv2d(width_in, 4 * width_out, 1), nn.PixelShuffle(2))


class MiniAutoEncoder(nn.Module):
    """Pixels → FSQ values → pixels.

    Args:
        widths: channels at stride 4, 8 and 16.
        encoder_depths, decoder_depths: residual blocks at stride 4 and 8, context blocks at stride 16.
    """

    def __init__(
        self,
        widths: tuple[int, int, int] = (64, 128, 256),
        encoder_depths: tuple[int, int, int] = (1, 1, 2),
        decoder_depths: tuple[int, int, int] = (3, 3, 5),
    ) -> None:
        super().__init__()
        fine, middle, coarse = widths
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(4),  # (B, 48, H/4, W/4)
            nn.Conv2d(48, fine, 3, padding=1),
            *(ResidualBlock(fine) for _ in range(encoder_depths[0])),
            nn.Conv2d(fine, middle, 2, stride=2),  # (B, 128, H/8, W/8)
            *(ResidualBlock(middle) for _ in range(encoder_depths[1])),
            nn.Conv2d(middle, coarse, 2, stride=2),  # (B, 256, h, w)
            *(ContextBlock(coarse) for _ in range(encoder_depths[2])),
            nn.Conv2d(coarse, len(FSQ_LEVELS), 1),
        )
        self.quantize = FSQ()
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

    def initialize(self, generator: torch.Generator) -> None:
        """Draws initial weights: He-normal kernels, residual branches scaled to a tenth, equal sub-pixel copies."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="linear", generator=generator)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for module in self.modules():
            if isinstance(module, (ResidualBlock, ContextBlock)):
                module.body[-1].get_parameter("weight").data *= 0.1
            elif isinstance(module, Upsample):
                # (4 C', C, 1, 1); equal copies avoid a checkerboard (Aitken et al. 2017)
                kernel = module[0].get_parameter("weight").data
                kernel.copy_(kernel[::4].repeat_interleave(4, dim=0))

    def encode(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) in [−1, 1] → (B, h, w, 6) float32 values on the FSQ grid, h = H/16."""
        return self.quantize(self.encoder(pixels).float().permute(0, 2, 3, 1))

    def decode(self, values: Tensor) -> Tensor:
        """(B, h, w, 6) FSQ values → (B, 3, H, W), about [−1, 1], not clamped."""
        return self.decoder(values.permute(0, 3, 1, 2).contiguous())

    def forward(self, pixels: Tensor) -> Tensor:
        return self.decode(self.encode(pixels))


def save_weights(model: MiniAutoEncoder, path: Path) -> None:
    """Writes the weights as fp16 safetensors. Raises WriteError where that fails."""
    halves = {name: tensor.detach().half().cpu().contiguous() for name, tensor in model.state_dict().items()}
    write_atomic(path, safetensors.torch.save(halves))


class MiniTokenizer(PictureTokenizer):
    """The trained auto-encoder as a tokenizer, computing in float32.

    Args:
        path: a safetensors file of `save_weights`, or None for the shipped weights.
        device: where to compute; "auto" is the GPU if there is one.

    Raises FileNotFoundError or ValueError naming the file where it holds no weights of the mini tokenizer.
    """

    name = "mini"

    def __init__(self, path: str | None = None, device: str = "cpu") -> None:
        self.device = torch_device("tokenizer.device", device)
        source = WEIGHTS if path is None else Path(path)
        if not source.is_file():
            raise FileNotFoundError(f"tokenizer.path={source}: no such file; leave it null for the shipped weights")
        content = source.read_bytes()
        self.fingerprint = hashlib.sha256(content).hexdigest()
        self.model = MiniAutoEncoder()
        try:
            self.model.load_state_dict(safetensors.torch.load(content))
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
