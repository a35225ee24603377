"""How fast and how lean a training step is, against the usual implementation of the same model.

    python bench/step.py [--json FILE] [--batch-size 16] [--model m3] [--data ROOT]
    python bench/step.py --device cuda --dtype bf16 --batch-size 512 [--profile]

Runs one after the other, each in a process of its own, round after round, on the same samples:

  m3, flat and factorized head: what train.py runs (its trainer, module, data module): token table, masks, packing,
      forward, backward, clipping, fused AdamW; `logits=legal`, all else from `model=…` and `modalities=…`, but
      `clamped=drop` (`--clamped`): the published distribution of token budgets, as in the baseline, so that both have
      the same real tokens. m3's default, `redistribute`, gives a sample 16% more of them.
  baseline: bench/nano4m.py: padded to the largest budgets, masked sample by sample by loader workers, attention
      written out, logits of the whole table for padding too, AdamW as PyTorch has it by default.
  tuned baseline, on a GPU: the same with PyTorch's attention kernel, compiled as one graph, with fused AdamW.

First both must give the same loss and gradients from the same weights and masks (`logits=table`, `loss.reduction=all`),
and on a processor the baseline must reach half of the machine's rate of large matrix products, padding counted:
otherwise the comparison is void, which ends with exit status 1. Speed and memory are compared with the faster baseline.

Speed: the median over all measured steps; a step lasts from the end of the one before, loading and all. A sample has
`num_tokens_per_sample` nominal tokens (conf/optim). Memory: on a CPU the largest resident set of the process from its
start on, interpreter and libraries included, loader workers not; on a GPU the largest allocation. FLOP/s: matrix
products of forward and backward (m3/model/flops.py), of real tokens for m3, of all that it executes for the baseline.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from m3.core.joints import NUM_JOINTS  # noqa: E402
from m3.core.modalities import NUM_JOINT_BINS, PICTURE  # noqa: E402
from m3.core.types import TokenizedPair  # noqa: E402
from m3.shards.manifest import Manifest, pair_modalities  # noqa: E402
from m3.shards.writer import write_shards  # noqa: E402

TITLES = {"flat": "m3, flat head", "factorized": "m3, factorized head", "nano4m": "baseline", "tuned": "tuned baseline"}
GRID = (16, 16)
SHARE_OF_VISIBLE_JOINTS = 0.78  # in Penn Action
FAIR_SHARE = 0.5
LARGEST_DIFFERENCE = 1e-5


def write_random_data(root: Path, num_pairs: int) -> None:
    """A data set of random legal ids: the time and memory of a step do not depend on the ids."""
    rng = np.random.default_rng(0)

    def pair(split: str, number: int) -> TokenizedPair:
        tokens = {}
        for suffix in ("", "_next"):
            places = rng.integers(0, NUM_JOINT_BINS, (2, NUM_JOINTS))
            is_visible = rng.random((1, NUM_JOINTS)) < SHARE_OF_VISIBLE_JOINTS
            tokens[f"tok_rgb{suffix}"] = rng.integers(0, PICTURE.num_ids, GRID).astype(np.uint16)
            tokens[f"coords{suffix}"] = np.concatenate([places, is_visible]).astype(np.uint16)
        meta = {"clip": f"{split}{number}", "reference": 0, "successor": 1, "action": None, "pose_extent_px": None}
        return TokenizedPair(f"{split}{number}-000000", tokens, (), meta)

    num_clips = {"train": num_pairs, "eval": 1, "test": 0}
    Manifest(
        settings={},
        source={"name": "random", "fingerprint": "0"},
        canvas={"mode": "crop", "size": 256},
        modalities=pair_modalities(GRID),
        has_joints=True,
        variants=(),
        tokenizer={"name": "random", "fingerprint": "0", "settings": {}},
        captioner={"name": "none", "fingerprint": None, "settings": {}},
        text_tokenizer=None,
        num_clips=num_clips,
        shards={s: write_shards(root, s, (pair(s, i) for i in range(n)), 1000) for s, n in num_clips.items()},
        statistics={},
        rejected=(),
        notes=(),
    ).save(root)


def measure(arguments: argparse.Namespace, kind: str, folder: Path, samples: list[int] | None = None) -> dict[str, Any]:
    """The result of one worker. Raises RuntimeError with the end of its output where it failed."""
    spec = {
        "kind": kind, "data": str(arguments.data), "folder": str(folder), "model": arguments.model,
        "modalities": arguments.modalities, "clamped": arguments.clamped, "batch_size": arguments.batch_size,
        "num_steps": arguments.steps, "num_warmup_steps": arguments.warmup_steps, "threads": arguments.threads,
        "device": arguments.device, "dtype": arguments.dtype, "hardware": arguments.hardware, "samples": samples,
    }  # fmt: skip
    given, result = folder / "spec.json", folder / "result.json"
    given.write_text(json.dumps(spec), encoding="utf-8")
    threads = str(arguments.threads)
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    worker = [sys.executable, str(ROOT / "bench" / "step_worker.py"), str(given), str(result)]
    done = subprocess.run(worker, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the measurement of {kind} failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return json.loads(result.read_text(encoding="utf-8"))


def merged(rounds: list[dict[str, Any]], matmul: float, tokens_per_step: int) -> dict[str, Any]:
    """The figures of one variant from its rounds."""
    step_s = [s for one in rounds for s in one["step_s"]]
    median = statistics.median(step_s)
    real_tokens = statistics.mean(n for one in rounds for n in one["real_tokens"])
    real_flops = statistics.mean(n for one in rounds for n in one["real_flops"])
    flops = rounds[0].get("executed_flops", real_flops)
    return {
        "step_s": median,
        "step_s_all": step_s,
        "step_s_of_rounds": [statistics.median(one["step_s"]) for one in rounds],
        "num_steps": len(step_s),
        "nominal_tokens_per_s": tokens_per_step / median,
        "real_tokens_per_s": real_tokens / median,
        "real_flops_per_s": real_flops / median,
        "flops_per_s": flops / median,
        "share_of_matmul": flops / median / matmul,
        "peak_bytes": max(one["peak_bytes"] for one in rounds),
        "late_graphs": max(one["late_graphs"] for one in rounds),
        **{name: rounds[-1][name] for name in ("kernel_s", "launches", "kernels") if name in rounds[-1]},
    }


def available_flops(arguments: argparse.Namespace) -> float | None:
    """FLOP/s of the device's data sheet; None for a CPU or an unknown device."""
    if arguments.device != "cuda":
        return None
    import torch

    from m3.training.device_flops import matmul_dtype, published_peak

    precision = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}[arguments.dtype]
    device = torch.device("cuda")
    peak = published_peak(torch.cuda.get_device_name(device), matmul_dtype(precision, device))
    return peak and peak.flops_per_s


def run(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Everything that --json writes."""
    if arguments.data is None:
        arguments.data = folder / "data"
        write_random_data(arguments.data, max(256, 4 * arguments.batch_size))
    checked = measure(arguments, "check", folder)
    baselines = ("nano4m",) if arguments.device == "cpu" else ("nano4m", "tuned")
    variants = ("flat", "factorized", *baselines)
    found: dict[str, list] = {kind: [] for kind in ("matmul", *variants)}
    samples = None
    for number in range(arguments.rounds):
        for kind in found:
            print(f"round {number + 1} of {arguments.rounds}: {TITLES.get(kind, kind)}", file=sys.stderr, flush=True)
            found[kind].append(measure(arguments, kind, folder, samples if kind in baselines else None))
            samples = found[kind][-1].get("samples", samples)
    matmul = statistics.median(one["flops_per_s"] for one in found["matmul"])
    tokens_per_step = found["flat"][0]["tokens_per_step"]
    figures = {kind: merged(found[kind], matmul, tokens_per_step) for kind in variants}
    available = available_flops(arguments)
    for kind in variants:
        figures[kind]["mfu"] = figures[kind]["real_flops_per_s"] / available if available else None
    strongest = max(baselines, key=lambda kind: figures[kind]["nominal_tokens_per_s"])
    baseline = figures[strongest]
    ratios = {}
    for kind in variants:
        ratios[f"ratio_{kind}"] = figures[kind]["nominal_tokens_per_s"] / baseline["nominal_tokens_per_s"]
        ratios[f"memory_ratio_{kind}"] = figures[kind]["peak_bytes"] / baseline["peak_bytes"]
    return {
        **ratios,
        "strongest_baseline": strongest,
        "variants": variants,
        "loss_difference": checked["loss_difference"],
        "gradient_difference": checked["gradient_difference"],
        "baseline_is_fair": baseline["share_of_matmul"] >= FAIR_SHARE,
        "matmul_flops_per_s": matmul,
        **figures,
        "settings": {name: value for name, value in vars(arguments).items() if name not in ("json", "data")},
        "machine": found["flat"][0]["machine"] | {"cpu_count": os.cpu_count(), "platform": platform.platform()},
    }


def print_table(result: dict[str, Any], console: Console) -> None:
    settings, machine = result["settings"], result["machine"]
    table = Table(title=f"training step of model={settings['model']}, batch {settings['batch_size']}, "
                        f"{settings['dtype']}, {settings['device']}, {settings['threads']} threads")  # fmt: skip
    for heading in ("", "ms/step: median (min … max)", "nominal tokens/s", "real tokens/s", "GFLOP/s", "of matmul",
                    "kernels, ms", "launches", "peak memory", "speed", "memory"):  # fmt: skip
        table.add_column(heading, justify="right" if heading else "left")
    for kind in result["variants"]:
        one = result[kind]
        table.add_row(
            TITLES[kind],
            f"{one['step_s'] * 1e3:,.1f} ({min(one['step_s_all']) * 1e3:,.1f} … {max(one['step_s_all']) * 1e3:,.1f})",
            f"{one['nominal_tokens_per_s']:,.0f}",
            f"{one['real_tokens_per_s']:,.0f}",
            f"{one['flops_per_s'] / 1e9:,.0f}",
            f"{one['share_of_matmul']:.0%}",
            f"{one['kernel_s'] * 1e3:,.1f}" if "kernel_s" in one else "",
            f"{one['launches']:,.0f}" if "launches" in one else "",
            f"{one['peak_bytes'] / 2**20:,.0f} MiB",
            f"{result[f'ratio_{kind}']:.2f} ×",
            f"{result[f'memory_ratio_{kind}']:.2f}",
        )
    console.print(table)
    console.print(
        f"large matrix products: {result['matmul_flops_per_s'] / 1e9:,.0f} GFLOP/s; "
        f"medians of {result['flat']['num_steps']} steps in {settings['rounds']} rounds; {machine}"
    )
    if late := {
        TITLES[kind]: result[kind]["late_graphs"] for kind in result["variants"] if result[kind]["late_graphs"]
    }:
        console.print(f"graphs compiled after the warm-up: {late}")
    console.print(
        f"same weights and masks: losses differ by {result['loss_difference']:.1e}, "
        f"gradients by {result['gradient_difference']:.1e} of their norm"
    )


def print_kernels(result: dict[str, Any], console: Console) -> None:
    """The kernels of a step that take longest, for each variant."""
    for kind in result["variants"]:
        table = Table(title=f"kernels of a step: {TITLES[kind]}")
        for heading in ("ms", "launches", "kernel"):
            table.add_column(
                heading, justify="right" if heading != "kernel" else "left", overflow="ellipsis", no_wrap=True
            )
        for name, ms, count in result[kind].get("kernels", []):
            table.add_row(f"{ms:.2f}", f"{count:.0f}", name)
        console.print(table)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--model", default="m3", help="of conf/model")
    parser.add_argument("--modalities", default="m3", help="of conf/modalities")
    parser.add_argument("--clamped", choices=("drop", "redistribute"), default="drop", help="of m3's budgets")
    parser.add_argument("--data", type=Path, help="data set of preprocess.py; random legal ids if absent")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("fp32", "bf16", "fp16"), default="fp32")
    parser.add_argument("--hardware", help="of conf/hardware; cpu, and on a GPU bf16_h100, if absent")
    parser.add_argument("--profile", action="store_true", help="on a GPU: also print the kernels of a step")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--steps", type=int, help="measured in each round; 5, and on a GPU 60, if absent")
    parser.add_argument("--warmup-steps", type=int, help="of each round, not measured; 2, and on a GPU 20, if absent")
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    is_gpu = arguments.device == "cuda"
    arguments.hardware = arguments.hardware or ("bf16_h100" if is_gpu else "cpu")
    arguments.steps = arguments.steps or (60 if is_gpu else 5)
    arguments.warmup_steps = arguments.warmup_steps or (20 if is_gpu else 2)
    if min(arguments.steps, arguments.warmup_steps, arguments.rounds, arguments.batch_size, arguments.threads) < 1:
        parser.error("--steps, --warmup-steps, --rounds, --batch-size and --threads must be at least 1")
    with tempfile.TemporaryDirectory() as folder:
        result = run(arguments, Path(folder))
    print_table(result, Console(width=180))
    if arguments.profile:
        print_kernels(result, Console(width=180))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1, default=str) + "\n", encoding="utf-8")
    if result["loss_difference"] > LARGEST_DIFFERENCE:
        print(f"error: the losses differ by more than {LARGEST_DIFFERENCE}: not the same model", file=sys.stderr)
        return 1
    if not is_gpu and not result["baseline_is_fair"]:
        share = result[result["strongest_baseline"]]["share_of_matmul"]
        print(f"error: the baseline uses {share:.0%} of the machine, less than {FAIR_SHARE:.0%}: no fair comparison",
              file=sys.stderr)  # fmt: skip
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
