"""How faithful and how fast the mini tokenizer is.

    python bench/tokenizer.py [--labels PENN_ACTION/labels] [--video FILE] [--weights FILE] [--pictures FOLDER]

Prints the PSNR in dB (mean over frames of the 8-bit pictures) at 256 and 128 px: on label files that no training saw,
with bodies and places of their own; on generated clips of unseen seeds; on 100 frames of a video. Then the speed.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image

from m3.clips.canvas import CropCanvas
from m3.tokens.base import to_frames, to_pixels
from m3.tokens.mini import MiniTokenizer
from m3.training.rendered_frames import demo_frames, held_out, pose_frames

SEED = 20_260  # of looks that no training drew: trainings take small seeds
NUM_FRAMES = 100


def evaluation_sets(labels: str | None, video: str | None, size: int) -> Iterator[tuple[str, np.ndarray]]:
    """Names and (N, size, size, 3) uint8 frames."""
    if labels:
        ids = held_out(sorted(path.stem for path in Path(labels).glob("*.mat")))[:NUM_FRAMES]
        yield "unseen poses", np.concatenate([pose_frames(labels, i, SEED, 1, size) for i in ids])
    yield "unseen demo", np.concatenate([demo_frames(k, SEED, 1, size) for k in range(NUM_FRAMES)])
    if video:
        yield Path(video).name, video_frames(video, size)


def video_frames(path: str, size: int) -> np.ndarray:
    """(N, size, size, 3) uint8: frames spread over the video, center-cropped."""
    with av.open(path) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    window = CropCanvas(size).window(frames[0].shape[:2])
    chosen = np.linspace(0, len(frames) - 1, min(NUM_FRAMES, len(frames))).round().astype(int)
    return np.stack([window.picture(frames[t]) for t in chosen])


def reconstructed(tokenizer: MiniTokenizer, frames: np.ndarray) -> np.ndarray:
    """(N, H, W, 3) uint8 through ids and back."""
    batches = (to_pixels(frames[k : k + 16]) for k in range(0, len(frames), 16))
    return np.concatenate([to_frames(tokenizer.decode(tokenizer.encode(pixels))) for pixels in batches])


def mean_psnr(frames: np.ndarray, decoded: np.ndarray) -> float:
    error = np.square(frames.astype(np.float64) - decoded).mean(axis=(1, 2, 3))
    return float(np.mean(10 * np.log10(255**2 / np.maximum(error, 1e-3))))


def speed(tokenizer: MiniTokenizer, size: int, num_frames: int = 16) -> tuple[float, float]:
    """Frames per second of encoding and decoding, the best of five batches."""
    pixels = to_pixels(np.random.default_rng(0).integers(0, 256, (num_frames, size, size, 3), dtype=np.uint8))
    encode, decode = [], []
    for _ in range(5):
        start = time.perf_counter()
        ids = tokenizer.encode(pixels)
        middle = time.perf_counter()
        tokenizer.decode(ids)
        encode.append(middle - start)
        decode.append(time.perf_counter() - middle)
    return num_frames / min(encode), num_frames / min(decode)


def save_picture(path: Path, frames: np.ndarray, decoded: np.ndarray, columns: int = 6) -> None:
    """Rows of originals, each above its reconstructions."""
    chosen = np.linspace(0, len(frames) - 1, 3 * columns).round().astype(int).reshape(-1, columns)
    rows = [np.concatenate(list(pictures[row]), axis=1) for row in chosen for pictures in (frames, decoded)]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(rows)).save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", help="Penn Action's labels folder, the one that the training saw")
    parser.add_argument("--video", help="a video file")
    parser.add_argument("--weights", help="a .safetensors file; the shipped weights if absent")
    parser.add_argument("--pictures", type=Path, help="folder for side-by-side pictures")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    tokenizer = MiniTokenizer(arguments.weights)
    for size in (256, 128):
        for name, frames in evaluation_sets(arguments.labels, arguments.video, size):
            decoded = reconstructed(tokenizer, frames)
            print(f"{name:>16} {size} px: {mean_psnr(frames, decoded):6.2f} dB on {len(frames)} frames", flush=True)
            if arguments.pictures:
                save_picture(arguments.pictures / f"{name.replace(' ', '_')}_{size}.png", frames, decoded)
        encode, decode = speed(tokenizer, size)
        print(f"{'speed':>16} {size} px: encode {encode:.0f}, decode {decode:.0f} frames/s")


if __name__ == "__main__":
    main()
