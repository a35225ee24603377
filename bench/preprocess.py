"""How fast pairs are mined, beside the plain loop, on the same clips.

    python bench/preprocess.py [--clips 24] [--rounds 3] [--workers 2] [--json FILE]

The clips are generated people (`source=demo`) of 480 × 270 px, 60 frames each, written as JPEGs in Penn Action's
layout. Both sides start from these files and end with the pairs of all clips (`pairs=chain`, SSIM below 0.89).

plain   One process. Pillow decodes each frame once; scikit-image compares the reference with each later frame, float32
        `L` pictures, `data_range=255`, until the first one below the threshold, which is the next reference.
m3      What preprocess.py does before the tokenizer, in its worker processes: reading labels, decoding, pairs, and, as
        the plain loop does not, the canvas pictures (256 px) and joint tokens of the frames that occur in pairs.
        Starting the processes is part of the time.
m3, 1   The same in one process.

The order of the three changes from round to round; medians of the clips per second are compared. `ratio` is that of m3
to the plain loop.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
from PIL import Image
from skimage.metrics import structural_similarity

from m3.clips.canvas import CropCanvas
from m3.clips.demo import Demo
from m3.clips.penn_action import PennAction
from m3.pairs import Chain
from m3.preprocessing.prepare import ClipPreparer, PreparedClip
from m3.preprocessing.workers import prepare_clips

THRESHOLD = 0.89
SIZE = (270, 480)
NUM_FRAMES = 60
CANVAS = 256

Pairs = dict[str, list[tuple[int, int]]]
"""Clip → (reference, successor) frames."""


def plain_loop(root: Path) -> Pairs:
    """The pairs of all clips as one would first write it."""
    found: Pairs = {}
    for folder in sorted((root / "frames").iterdir()):
        pairs, reference, reference_index = [], None, 0
        for index, path in enumerate(sorted(folder.glob("*.jpg"))):
            with Image.open(path) as picture:
                frame = np.asarray(picture.convert("L")).astype(np.float32)
            if reference is None:
                reference = frame
            elif structural_similarity(reference, frame, data_range=255) < THRESHOLD:
                pairs.append((reference_index, index))
                reference, reference_index = frame, index
        if pairs:
            found[folder.name] = pairs
    return found


def with_m3(root: Path, num_workers: int) -> Pairs:
    """The pairs of all clips by the stage of preprocess.py; 0 workers: in this process."""
    source = PennAction(root)
    preparer = ClipPreparer(source, CropCanvas(CANVAS), Chain(THRESHOLD))
    prepared = prepare_clips(preparer, source.clip_ids(), num_workers)
    return {
        clip.staged.clip: [(pair.reference, pair.successor) for pair in clip.staged.pairs]
        for clip in prepared
        if isinstance(clip, PreparedClip)
    }


def timed(work: Callable[[], Pairs]) -> tuple[float, Pairs]:
    """Seconds and result."""
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def measure(root: Path, num_clips: int, num_rounds: int, num_workers: int) -> dict:
    """All three ways, `num_rounds` times, and what is the same and what is not."""
    ways: dict[str, Callable[[], Pairs]] = {
        "plain": lambda: plain_loop(root),
        "m3": lambda: with_m3(root, num_workers),
        "m3_one_process": lambda: with_m3(root, 0),
    }
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    pairs: dict[str, Pairs] = {}
    for turn in range(num_rounds):
        names = list(ways)[turn % 3 :] + list(ways)[: turn % 3]
        for name in names:
            seconds, pairs[name] = timed(ways[name])
            speeds[name].append(num_clips / seconds)
    median = {name: statistics.median(values) for name, values in speeds.items()}
    return {
        "ratio": median["m3"] / median["plain"],
        "ratio_one_process": median["m3_one_process"] / median["plain"],
        "identical_pairs": pairs["m3"] == pairs["plain"] == pairs["m3_one_process"],
        "num_pairs": sum(len(found) for found in pairs["plain"].values()),
        "clips_per_s": {name: round(value, 3) for name, value in median.items()},
        "rounds_clips_per_s": {name: [round(value, 3) for value in values] for name, values in speeds.items()},
        "num_clips": num_clips,
        "num_frames": NUM_FRAMES,
        "size": list(SIZE),
        "workers": num_workers,
        "cpu_count": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("numpy", "pillow", "scikit-image", "scipy")},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--json", type=Path, help="write the figures there too")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "clips"
        Demo(root, num_clips=arguments.clips, num_frames=NUM_FRAMES, height=SIZE[0], width=SIZE[1], seed=0)
        figures = measure(root, arguments.clips, arguments.rounds, arguments.workers)
    speed = figures["clips_per_s"]
    print(f"{arguments.clips} clips of {NUM_FRAMES} frames, {SIZE[1]} x {SIZE[0]} px; {figures['num_pairs']} pairs, "
          f"{'the same' if figures['identical_pairs'] else 'NOT THE SAME'} of all three")  # fmt: skip
    print(f"plain loop       {speed['plain']:6.2f} clips/s")
    print(f"m3, {arguments.workers} workers    {speed['m3']:6.2f} clips/s, {figures['ratio']:.2f} times the plain loop")
    print(f"m3, one process  {speed['m3_one_process']:6.2f} clips/s, {figures['ratio_one_process']:.2f} times")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")
    if not figures["identical_pairs"]:
        raise SystemExit("the pairs differ")


if __name__ == "__main__":
    main()
