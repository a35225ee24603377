"""What a data set and a training cost here, and what follows from it for other sizes and machines.

    python bench/sizing.py [--json FILE] [--models tiny small m3 base] [--head flat]

Measured on this machine:

data    `preprocess.py` (mini tokenizer, 256 px, one process for each core) on generated JPEG clips of 480 × 270 px, 60
        frames each: with a few clips, with more, and with these and a threshold that gives more pairs. The differences
        are what a clip costs without the start, and what a further pair of it costs. Bytes of the shards and of the
        token table for each pair.
model   Training steps of bench/step.py's worker (m3 recipe, fp32, `--batch-size`): nominal tokens/s, peak memory, and
        the operations that a nominal token needs.

Counted: parameters, and the 16 bytes of each that training in fp32 keeps (weight, gradient, two moments).

Computed from that, and marked so: other numbers of clips and cores (proportional), and hours of the published recipe
(5,000 M nominal tokens) on H100s at an assumed share `--mfu` of their bf16 peak. No GPU is measured here.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "bench")]

import torch  # noqa: E402
from hydra import compose, initialize_config_dir  # noqa: E402
from hydra.utils import instantiate  # noqa: E402
from step import measure as measure_step  # noqa: E402
from step import write_random_data  # noqa: E402

from m3.batches.table import TokenTable  # noqa: E402
from m3.clips.demo import Demo  # noqa: E402
from m3.shards.manifest import Manifest  # noqa: E402
from m3.shards.split import SPLITS  # noqa: E402
from m3.training.device_flops import published_peak  # noqa: E402

FEW_CLIPS, MORE_CLIPS = 6, 30
MORE_PAIRS = 0.97
"""SSIM below which a frame is a successor."""
NUM_FRAMES, HEIGHT, WIDTH = 60, 270, 480
RECIPE_TOKENS = 5_000e6
DATA_SIZES = (1_000, 10_000, 100_000, 1_000_000)
CPU_CORES = (2, 16, 128, 1_024)
GPUS = (1, 8, 64)


def measure_data(folder: Path) -> dict[str, float]:
    """Seconds, pairs and bytes of a clip."""
    seconds, num_pairs = {}, {}
    for name, num_clips, options in (
        ("few", FEW_CLIPS, []), ("more", MORE_CLIPS, []), ("dense", MORE_CLIPS, [f"pairs.threshold={MORE_PAIRS}"])
    ):  # fmt: skip
        clips, root = folder / f"clips{num_clips}", folder / name
        Demo(clips, num_clips=num_clips, num_frames=NUM_FRAMES, height=HEIGHT, width=WIDTH, seed=0)
        command = [sys.executable, "preprocess.py", "source=penn_action", f"source.root={clips}", f"out={root}",
                   "contact_sheet.num_pairs=0", "split=pair", *options]  # fmt: skip
        begin = time.perf_counter()
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        seconds[name] = time.perf_counter() - begin
        manifest = Manifest.load(root)
        num_pairs[name] = sum(manifest.num_pairs(split) for split in SPLITS)
    shard_bytes = sum(path.stat().st_size for path in root.rglob("*.tar"))
    rows = TokenTable.open(root, "train").tokens
    return {
        "seconds_per_clip": (seconds["more"] - seconds["few"]) / (MORE_CLIPS - FEW_CLIPS),
        "pairs_per_clip": num_pairs["more"] / MORE_CLIPS,
        "seconds_per_further_pair": (seconds["dense"] - seconds["more"]) / (num_pairs["dense"] - num_pairs["more"]),
        "shard_bytes_per_pair": shard_bytes / num_pairs["dense"],
        "table_bytes_per_pair": rows.shape[1] * rows.itemsize,
    }


def num_parameters(model: str, head: str) -> int:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"), torch.device("meta"):
        made = instantiate(compose("train", [f"model={model}", "modalities=m3", f"model.head={head}"]).model)
    return sum(parameter.numel() for parameter in made.parameters())


def measure_model(model: str, arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    spec = argparse.Namespace(
        data=folder / "random", model=model, modalities="m3", clamped="redistribute", batch_size=arguments.batch_size,
        steps=arguments.steps, warmup_steps=2, threads=os.cpu_count(), device="cpu", dtype="fp32",
    )  # fmt: skip
    if not spec.data.exists():
        write_random_data(spec.data, max(256, 4 * arguments.batch_size))
    found = measure_step(spec, arguments.head, folder)
    num_steps, step_s = len(found["step_s"]), sorted(found["step_s"])
    return {
        "nominal_tokens_per_s": found["tokens_per_step"] / step_s[num_steps // 2],
        "peak_bytes": found["peak_bytes"],
        "flops_per_nominal_token": sum(found["real_flops"]) / num_steps / found["tokens_per_step"],
        "num_parameters": num_parameters(model, arguments.head),
    }


def duration(seconds: float) -> str:
    """In the largest unit of which there is one: "19 s", "2.5 min", "1,332 h"."""
    unit, size = next(((unit, size) for unit, size in (("h", 3600), ("min", 60)) if seconds >= size), ("s", 1))
    number = seconds / size
    return f"{number:,.0f} {unit}" if number >= 10 else f"{number:.1f} {unit}"


def data_rows(data: dict[str, float]) -> list[str]:
    cores, on_cores = os.cpu_count(), " | ".join(f"{n:,} cores" for n in CPU_CORES)
    lines = [
        f"| clips | pairs | shards of 1,000 | disk, GB | token table, GB | {on_cores} |",
        "|" + "---:|" * (5 + len(CPU_CORES)),
    ]
    for num_clips in DATA_SIZES:
        pairs = num_clips * data["pairs_per_clip"]
        times = [duration(num_clips * data["seconds_per_clip"] * cores / n) for n in CPU_CORES]
        disk = [f"{pairs * data[f'{kind}_bytes_per_pair'] / 1e9:,.2f}" for kind in ("shard", "table")]
        lines.append(f"| {num_clips:,} | {pairs:,.0f} | {math.ceil(pairs / 1000):,} | {' | '.join([*disk, *times])} |")
    return lines


def model_rows(models: dict[str, dict[str, Any]], mfu: float) -> list[str]:
    peak = published_peak("NVIDIA H100 80GB HBM3", "bf16").flops_per_s * mfu
    lines = [
        "| model | parameters, M | their state, GB | peak memory here, GB | nominal tokens/s here | "
        "MFLOP a nominal token | 5,000 M tokens here | " + " | ".join(f"{n} × H100" for n in GPUS) + " |",
        "|---|" + "---:|" * (6 + len(GPUS)),
    ]
    for name, one in models.items():
        here = duration(RECIPE_TOKENS / one["nominal_tokens_per_s"])
        on_gpus = [duration(RECIPE_TOKENS * one["flops_per_nominal_token"] / peak / n) for n in GPUS]
        lines.append(
            f"| `{name}` | {one['num_parameters'] / 1e6:,.0f} | {16 * one['num_parameters'] / 1e9:.1f} | "
            f"{one['peak_bytes'] / 1e9:.1f} | {one['nominal_tokens_per_s']:,.0f} | "
            f"{one['flops_per_nominal_token'] / 1e6:,.0f} | {here} | {' | '.join(on_gpus)} |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["tiny", "small", "m3", "base"], help="of conf/model")
    parser.add_argument("--head", choices=("flat", "factorized"), default="flat")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--steps", type=int, default=3, help="measured of each model")
    parser.add_argument("--mfu", type=float, default=0.3, help="assumed of the GPUs")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = measure_data(folder)
        models = {model: measure_model(model, arguments, folder) for model in arguments.models}
    print(f"measured: {data['seconds_per_clip']:.2f} s a clip of {NUM_FRAMES} frames on {os.cpu_count()} cores, "
          f"{data['pairs_per_clip']:.2f} pairs a clip, {1e3 * data['seconds_per_further_pair']:.1f} ms for each "
          f"further pair, {data['shard_bytes_per_pair']:,.0f} bytes a pair in shards, "
          f"{data['table_bytes_per_pair']:,.0f} in the table")  # fmt: skip
    print("\n".join([*data_rows(data), "", *model_rows(models, arguments.mfu)]))
    if arguments.json:
        arguments.json.write_text(json.dumps({"data": data, "models": models}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
