"""How faithful, how steady and how fast the mini tokenizer is.

    python bench/tokenizer.py [--labels PENN_ACTION/labels] [--video FILE] [--version 1] [--weights FILE]
        [--demo CLIPS] [--pictures FOLDER]

For each canvas and at 256 and 128 px: the PSNR in dB (mean over frames of the 8-bit pictures) of the whole frame and of
the person's box (visible joints and a tenth around them), and the share of tokens that stay from a frame to one 1 … 4
frames later. On label files that no training saw, with bodies and places of their own; on generated clips of unseen
seeds; on 100 frames of a video. With --demo, a folder of `source=demo`, also the share of tokens that stay in the pairs
of `pairs=chain`, as the demo trains on them. Then the speed.
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

from m3.clips.canvas import Canvas, CropCanvas, ZoomCanvas
from m3.clips.penn_action import PennAction
from m3.pairs import Chain
from m3.tokens.base import to_frames, to_pixels
from m3.tokens.mini import MiniTokenizer
from m3.training.rendered_frames import FramePair, demo_pair, held_out, pose_pair

SEED = 20_260  # of looks that no training drew: trainings take small seeds
NUM_FRAMES = 100


def evaluation_sets(labels: str | None, video: str | None, size: int) -> Iterator[tuple[str, FramePair]]:
    """Names and pairs of frames, (N, 2, size, size, 3) uint8, with boxes (N, 2, 4) in sides of the picture."""
    canvases: tuple[Canvas, ...] = (CropCanvas(size), ZoomCanvas(size))
    if labels:
        ids = held_out(sorted(path.stem for path in Path(labels).glob("*.mat")))[:NUM_FRAMES]
        for canvas in canvases:
            yield f"unseen poses, {canvas.mode}", stacked([pose_pair(labels, i, SEED, canvas) for i in ids])
    for canvas in canvases:
        yield f"unseen demo, {canvas.mode}", stacked([demo_pair(k, SEED, canvas) for k in range(NUM_FRAMES)])
    if video:
        yield Path(video).name, video_frames(video, size)


def stacked(pairs: list[FramePair]) -> FramePair:
    return FramePair(np.stack([pair.frames for pair in pairs]), np.stack([pair.boxes for pair in pairs]))


def video_frames(path: str, size: int) -> FramePair:
    """Frames spread over the video, center-cropped, each with the next one; without boxes."""
    with av.open(path) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    window = CropCanvas(size).window(frames[0].shape[:2])
    chosen = np.linspace(0, len(frames) - 2, min(NUM_FRAMES, len(frames) - 1)).round().astype(int)
    pairs = np.stack([[window.picture(frames[t]), window.picture(frames[t + 1])] for t in chosen])
    return FramePair(pairs, np.zeros((len(pairs), 2, 4), np.float32))


def demo_chains(folder: str, size: int) -> Iterator[tuple[str, FramePair]]:
    """The pairs of every tenth clip of a demo folder, on both canvases."""
    source = PennAction(folder)
    for canvas in (CropCanvas(size), ZoomCanvas(size)):
        pairs = []
        for clip_id in source.clip_ids()[::10]:
            clip = source.read(clip_id)
            window = canvas.window(clip.size, clip.joints)
            pictures = np.stack([window.picture(frame) for frame in clip.frames])
            pairs += [pictures[[pair.reference, pair.successor]] for pair in Chain(0.89).pairs(pictures)]
        yield f"demo pairs, {canvas.mode}", FramePair(np.stack(pairs), np.zeros((len(pairs), 2, 4), np.float32))


def tokens_and_pictures(tokenizer: MiniTokenizer, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N, H, W, 3) uint8 → (N, h, w) ids, and the frames through ids and back."""
    ids, decoded = [], []
    for k in range(0, len(frames), 16):
        ids.append(tokenizer.encode(to_pixels(frames[k : k + 16].copy())))
        decoded.append(to_frames(tokenizer.decode(ids[-1])))
    return torch.cat(ids).numpy(), np.concatenate(decoded)


def mean_psnr(frames: np.ndarray, decoded: np.ndarray, boxes: np.ndarray | None = None) -> float:
    """Of whole frames, or of the boxes (N, 4) in sides of the picture; NaN where all are empty."""
    found = []
    for k, error in enumerate(np.square(frames.astype(np.float64) - decoded).mean(axis=-1)):
        if boxes is not None:
            left, top, right, bottom = (boxes[k] * len(error)).round().astype(int)
            error = error[top:bottom, left:right]
        if error.size:
            found.append(10 * np.log10(255**2 / max(error.mean(), 1e-3)))
    return float(np.mean(found)) if found else float("nan")


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
    parser.add_argument("--version", type=int, default=2, help="of the shipped weights")
    parser.add_argument("--weights", help="a .safetensors file, instead of shipped weights")
    parser.add_argument("--demo", help="folder of the clips of source=demo")
    parser.add_argument("--pictures", type=Path, help="folder for side-by-side pictures")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    tokenizer = MiniTokenizer(arguments.weights, arguments.version)
    for size in (256, 128):
        for name, (pairs, boxes) in evaluation_sets(arguments.labels, arguments.video, size):
            ids, decoded = tokens_and_pictures(tokenizer, pairs[:, 0])
            stay = (ids == tokens_and_pictures(tokenizer, pairs[:, 1])[0]).mean()
            whole, box = mean_psnr(pairs[:, 0], decoded), mean_psnr(pairs[:, 0], decoded, boxes[:, 0])
            print(f"{name:>20} {size} px: {whole:6.2f} dB, box {box:6.2f} dB, {stay:6.1%} of tokens stay", flush=True)
            if arguments.pictures:
                file = f"{name.replace(' ', '_').replace(',', '')}_{size}.png"
                save_picture(arguments.pictures / file, pairs[:, 0], decoded)
        for name, (pairs, _) in demo_chains(arguments.demo, size) if arguments.demo else ():
            first, second = (tokens_and_pictures(tokenizer, pairs[:, k])[0] for k in (0, 1))
            print(f"{name:>20} {size} px: {(first == second).mean():6.1%} of tokens stay in {len(pairs)} pairs")
        encode, decode = speed(tokenizer, size)
        print(f"{'speed':>20} {size} px: encode {encode:.0f}, decode {decode:.0f} frames/s")


if __name__ == "__main__":
    main()
