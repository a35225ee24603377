"""How fast frames are rolled out, and what faster ways of sampling cost in scores.

    python bench/generate.py [--json FILE] [--batch-size 8] [--model m3] [--steps 8]
    python bench/generate.py --variants [--checkpoint RUN --data ROOT]

Without --variants: m3's sampler (`sampling=roar`, linear schedule) against nano4M's loop (bench/nano4m.py: one sample
after the other, attention written out, logits of the whole table), both of them ROAR, with the same weights, precision
and number of steps: `--steps` for the joints and as many for the picture of each frame. Both query only the positions
of a step and run the whole encoder and decoder in each. First the logits of both must agree to 1e-4 at every step of
a frame; otherwise the comparison is void, which ends with exit status 1. Speed: roll-out frames per second, the median
over rounds in which both take turns; `ratio` is m3's over the other's.

With --variants: frames/s of `--model` with random weights, or of a checkpoint, for several settings of
`sampling=…`; with a checkpoint also scores of its roll-outs over `--split`, from generate.py itself. Ids that the
baseline draws beyond a modality's legal ones (nano4M does not mask them) are taken as the largest legal one.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from rich.console import Console
from rich.table import Table
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench.nano4m import KnownTokens, Nano4M, generate_roar, published_weights  # noqa: E402
from m3.checkpoint import load_model  # noqa: E402
from m3.core.frames import TokenFrames, no_tokens, rolled_modalities  # noqa: E402
from m3.core.modalities import ModalityTable  # noqa: E402
from m3.generation.rollout import roll_out  # noqa: E402
from m3.masking.select import pack  # noqa: E402
from m3.model.encoder_decoder import EncoderDecoder  # noqa: E402
from m3.sampling.sampler import autocast  # noqa: E402
from m3.sampling.settings import DecodingConfig  # noqa: E402

LARGEST_DIFFERENCE = 1e-4
NUM_CHECKED = 2
ARCHITECTURE = ("width", "encoder_depth", "decoder_depth", "head_width", "mlp_ratio")
COORDS, PICTURE = "sampling.schemes.coords_next", "sampling.schemes.tok_rgb_next"


def steps(coords: int, picture: int) -> list[str]:
    return [f"{COORDS}.num_steps={coords}", f"{PICTURE}.num_steps={picture}"]


def both(setting: str) -> list[str]:
    return [f"{COORDS}.{setting}", f"{PICTURE}.{setting}"]


GREEDY = [f"{COORDS}.pick=median", f"{PICTURE}.temperature=0"]
SAMPLED = [*both("temperature=1"), *both("pick=sample")]
GUIDED = [*both("guidance.scale=1.5"), *both("guidance.conditions=[[tok_rgb,coords]]")]

VARIANTS: dict[str, list[str]] = {
    "default": [],
    "maskgit 1 + 1": [*GREEDY, *steps(1, 1)],
    "maskgit 2 + 2": [*GREEDY, *steps(2, 2)],
    "maskgit 4 + 4": [*GREEDY, *steps(4, 4)],
    "maskgit 4 + 1, median": steps(4, 1),
    "maskgit 4 + 8": [*GREEDY, *steps(4, 8)],
    "maskgit 8 + 8": [*GREEDY, *steps(8, 8)],
    "maskgit 8 + 16": [*GREEDY, *steps(8, 16)],
    "maskgit 8 + 8, linear": [*GREEDY, *steps(8, 8), *both("schedule=linear")],
    "maskgit 8 + 8, refresh 2": [*GREEDY, *steps(8, 8), *both("encoder_interval=2")],
    "maskgit 8 + 8, refresh 4": [*GREEDY, *steps(8, 8), *both("encoder_interval=4")],
    "maskgit 4 + 4, guided 1.5": [*GREEDY, *steps(4, 4), *GUIDED],
    "roar 2 + 2": ["sampling=roar", *GREEDY, *steps(2, 2)],
    "roar 4 + 4": ["sampling=roar", *GREEDY, *steps(4, 4)],
    "roar 8 + 8": ["sampling=roar", *GREEDY, *steps(8, 8)],
    "roar 8 + 8, cosine": ["sampling=roar", *GREEDY, *steps(8, 8), *both("schedule=cosine")],
    "roar 8 + 8, refresh 2": ["sampling=roar", *GREEDY, *steps(8, 8), *both("encoder_interval=2")],
    "roar 8 + 8, refresh 4": ["sampling=roar", *GREEDY, *steps(8, 8), *both("encoder_interval=4")],
    "ar": ["sampling=ar", *GREEDY],
    "sampled, maskgit 1 + 1": [*SAMPLED, *steps(1, 1)],
    "sampled, maskgit 2 + 2": [*SAMPLED, *steps(2, 2)],
    "sampled, maskgit 4 + 4": [*SAMPLED, *steps(4, 4)],
    "sampled, maskgit 4 + 8": [*SAMPLED, *steps(4, 8)],
    "sampled, maskgit 8 + 8": [*SAMPLED, *steps(8, 8)],
    "sampled, maskgit 8 + 16": [*SAMPLED, *steps(8, 16)],
    "sampled, maskgit 8 + 8, linear temperature": [*SAMPLED, *steps(8, 8), *both("temperature_schedule=linear")],
    "sampled, maskgit 8 + 8, inverse_sqrt temperature": [
        *SAMPLED,
        *steps(8, 8),
        *both("temperature_schedule=inverse_sqrt"),
    ],
    "sampled, maskgit 8 + 8, top-p 0.8": [*SAMPLED, *steps(8, 8), *both("top_p=0.8")],
    "sampled, maskgit 8 + 8, top-k 4": [*SAMPLED, *steps(8, 8), *both("top_k=4")],
    "sampled, maskgit 8 + 8, noise 4": [*SAMPLED, *steps(8, 8), *both("noise=4")],
    "sampled, maskgit 8 + 8, guided 1.5": [*SAMPLED, *steps(8, 8), *GUIDED],
    "sampled, roar 8 + 8": ["sampling=roar", *SAMPLED, *steps(8, 8)],
}
"""Settings of `generate.py`; "a + b": steps for the joints and for the picture of a frame."""

SHOWN = {"pck@0.05": 100, "pck@0.1": 100, "psnr": 1, "ssim": 100}
HORIZONS = (1, 3, 6)


def schemes_of(overrides: Sequence[str], table: ModalityTable) -> list[DecodingConfig]:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return instantiate(compose("generate", list(overrides)).sampling).for_model(table).for_table(table)


def composed_model(name: str, *overrides: str) -> tuple[EncoderDecoder, dict[str, Any]]:
    """A model of conf/model with random weights, and its architecture."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("train", [f"model={name}", "modalities=m3", *overrides])
    torch.manual_seed(0)
    model = instantiate(cfg.model).eval()
    for head in model.to_logits.values():  # zeros would make all logits equal
        for parameter in head.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
    return model, {key: cfg.model[key] for key in ARCHITECTURE}


def random_references(table: ModalityTable, num_samples: int) -> dict[str, Tensor]:
    """Legal ids of reference frames: modality → (N, L)."""
    generator = torch.Generator().manual_seed(1)
    ids = (torch.rand(num_samples, table.num_tokens, generator=generator) * (torch.tensor(table.last_ids) + 1)).long()
    return {name: ids[:, table.columns(name)] for name in rolled_modalities(table)}


def given_references(reference: dict[str, Tensor], table: ModalityTable) -> TokenFrames:
    """(N, 2) frames for m3's roll-outs: whole references, and nothing of their successors."""
    given = no_tokens(table, (len(reference["coords"]), 2))
    given.is_present[:] = True
    for name, ids in reference.items():
        given.ids[name][:, 0], given.is_known[name][:, 0] = ids.cpu().numpy(), True
    return given


# Against nano4M


def known_references(reference: dict[str, Tensor], sample: int, table: ModalityTable) -> KnownTokens:
    device = reference["coords"].device
    ids = torch.cat([of_name[sample] for of_name in reference.values()])[None]
    lengths = [len(of_name[sample]) for of_name in reference.values()]
    positions = torch.cat([torch.arange(n, device=device) for n in lengths])[None]
    modalities = [torch.full((n,), table.index(name), device=device) for name, n in zip(reference, lengths)]
    return KnownTokens(ids, positions, torch.cat(modalities)[None])


def roll_out_nano4m(
    model: Nano4M, reference: dict[str, Tensor], table: ModalityTable, num_frames: int, num_steps: int, on_step: Any
) -> None:
    """Sample after sample, frame after frame, joints before the picture."""
    device = reference["coords"].device
    last, successor = torch.tensor(table.last_ids, device=device), rolled_modalities(table)
    for sample in range(len(reference["coords"])):
        generator = torch.Generator(device).manual_seed(sample)
        frame = {name: ids[sample : sample + 1] for name, ids in reference.items()}
        for _ in range(num_frames):
            known = known_references(frame, 0, table)
            for name in ("coords", "tok_rgb"):
                k = table.index(successor[name])
                length = table.max_seq_lens[k]
                known = generate_roar(model, known, k, length, num_steps, generator, on_step)
                is_new = known.modalities[0] == k
                order = known.positions[0, is_new].argsort()
                drawn = known.ids[0, is_new][order]
                frame[name] = torch.minimum(drawn, last[table.columns(successor[name])])[None]


def largest_difference(model: EncoderDecoder, other: Nano4M, reference: dict[str, Tensor], num_steps: int) -> float:
    """Of the logits of legal ids, over every step of one frame of a few samples."""
    table = model.table
    found: list[float] = []

    def compare(known: KnownTokens, positions: Tensor, logits: Tensor) -> None:
        offsets = torch.tensor(table.offsets, device=positions.device)
        k = next(k for k in (3, 2) if not (known.modalities == k).sum() == table.max_seq_lens[k])
        tokens = torch.zeros(1, table.num_tokens, dtype=torch.int64, device=positions.device)
        is_known = torch.zeros_like(tokens, dtype=torch.bool)
        columns = offsets[known.modalities[0]] + known.positions[0]
        tokens[0, columns], is_known[0, columns] = known.ids[0], True
        is_queried = torch.zeros_like(is_known)
        is_queried[0, offsets[k] + positions[0]] = True
        targets = pack(tokens, is_queried, table)
        hidden = model.decode(model.encode(pack(tokens, is_known, table)), targets)
        expected = logits[0][positions[0].argsort()]
        for row, position in zip(range(len(hidden)), targets.position.tolist()):
            num_ids = table.num_legal_ids(table.modalities[k], position)
            (got,) = model.digit_logits(hidden[row : row + 1], k, num_ids)
            found.append(float((got[0] - expected[row, :num_ids]).abs().max()))

    some = {name: ids[:NUM_CHECKED] for name, ids in reference.items()}
    roll_out_nano4m(other, some, table, 1, num_steps, compare)
    return max(found)


def seconds(work: Any, device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


@torch.inference_mode()
def compare(arguments: argparse.Namespace) -> dict[str, Any]:
    """Everything that --json writes."""
    model, architecture = composed_model(arguments.model, "model.logits=table", "model.head=flat", "model.joints=table",
                                         "model.positions=1d", "model.aligned=false")  # fmt: skip
    other = Nano4M(model.table, **architecture).eval()
    other.load_state_dict(published_weights(model.state_dict()) | dict(other.named_buffers()))
    device, num_frames = arguments.device, arguments.frames
    model, other = model.to(device), other.to(device)
    reference = random_references(model.table, arguments.batch_size)
    reference = {name: ids.to(device) for name, ids in reference.items()}
    difference = largest_difference(model, other, reference, arguments.steps)
    overrides = ["sampling=roar", *SAMPLED, *steps(arguments.steps, arguments.steps)]
    schemes = schemes_of(overrides, model.table)
    sample = torch.arange(arguments.batch_size, device=device)
    given = given_references(reference, model.table)

    def ours() -> None:
        roll_out(model, given, schemes, num_frames, 0, sample, arguments.batch_size)

    def theirs() -> None:
        with autocast(torch.device(device), "auto"):  # as m3
            roll_out_nano4m(other, reference, model.table, num_frames, arguments.steps, lambda *_: None)

    taken: dict[str, list[float]] = {"m3": [], "nano4m": []}
    for number in range(arguments.rounds + 1):  # the first is not counted
        print(f"round {number} of {arguments.rounds}", file=sys.stderr, flush=True)
        for name, work in (("m3", ours), ("nano4m", theirs)):
            taken[name].append(seconds(work, device))
    frames = arguments.batch_size * num_frames
    speed = {name: frames / statistics.median(times[1:]) for name, times in taken.items()}
    return {
        "ratio": speed["m3"] / speed["nano4m"],
        "logits_difference": difference,
        "frames_per_s": speed,
        "seconds": {name: times[1:] for name, times in taken.items()},
        "overrides": overrides,
        **facts(arguments),
    }


def facts(arguments: argparse.Namespace) -> dict[str, Any]:
    settings = {name: str(value) if isinstance(value, Path) else value for name, value in vars(arguments).items()}
    machine = {"platform": platform.platform(), "cpu_count": os.cpu_count(), "torch": torch.__version__}
    if arguments.device == "cuda":
        machine["gpu"] = torch.cuda.get_device_name()
    return {"settings": settings, "machine": machine}


# Variants


def scores_of(arguments: argparse.Namespace, overrides: Sequence[str], out: Path) -> dict[str, list[float | None]]:
    """Score → [T], of roll-outs over the split, by generate.py."""
    import generate

    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("generate", [
            f"checkpoint={arguments.checkpoint}", f"data.root={arguments.data}", f"data.split={arguments.split}",
            f"device={arguments.device}", f"out={out}", "rollout.max_samples=null", f"seed={arguments.seed}",
            "pictures.num_folders=0", "pictures.num_reported=0", *overrides,
        ])  # fmt: skip
    return {score.name: list(score.model) for score in generate.run(cfg).all_scores}


@torch.inference_mode()
def measure_variants(arguments: argparse.Namespace) -> dict[str, Any]:
    if arguments.checkpoint:
        model = load_model(arguments.checkpoint, arguments.device).model
    else:
        model = composed_model(arguments.model)[0].to(arguments.device)
    given = given_references(random_references(model.table, arguments.batch_size), model.table)
    sample = torch.arange(arguments.batch_size, device=arguments.device)
    chosen = {name: VARIANTS[name] for name in arguments.only or VARIANTS}
    found: dict[str, dict[str, Any]] = {name: {"overrides": overrides} for name, overrides in chosen.items()}
    work = {}
    for name, overrides in chosen.items():
        schemes = schemes_of(overrides, model.table)

        def one(schemes: list[DecodingConfig] = schemes) -> None:
            roll_out(model, given, schemes, arguments.frames, 0, sample, arguments.batch_size)

        work[name] = one
    taken: dict[str, list[float]] = {name: [] for name in chosen}
    for number in range(arguments.rounds + 1):
        for name in chosen:
            print(f"round {number} of {arguments.rounds}: {name}", file=sys.stderr, flush=True)
            taken[name].append(seconds(work[name], arguments.device))
    for name, times in taken.items():
        found[name]["frames_per_s"] = arguments.batch_size * arguments.frames / statistics.median(times[1:])
    if arguments.checkpoint:
        with tempfile.TemporaryDirectory() as folder:
            for number, name in enumerate(chosen):
                found[name]["scores"] = scores_of(arguments, chosen[name], Path(folder) / str(number))
    return {"variants": found, **facts(arguments)}


def print_variants(result: dict[str, Any], console: Console) -> None:
    variants = result["variants"]
    table = Table(title=f"roll-outs, batch {result['settings']['batch_size']}")
    table.add_column("")
    table.add_column("frames/s", justify="right")
    has_scores = any("scores" in one for one in variants.values())
    for name in SHOWN if has_scores else ():
        table.add_column(f"{name} +" + ", +".join(map(str, HORIZONS)), justify="right")
    for name, one in variants.items():
        cells = [f"{one['frames_per_s']:.2f}"]
        for score, factor in SHOWN.items() if has_scores else ():
            cells.append("  ".join(f"{one['scores'][score][k - 1] * factor:.1f}" for k in HORIZONS))
        table.add_row(name, *cells)
    console.print(table)
    console.print(str(result["machine"]))


def print_comparison(result: dict[str, Any], console: Console) -> None:
    settings, speed = result["settings"], result["frames_per_s"]
    console.print(
        f"model={settings['model']}, ROAR, {settings['steps']} + {settings['steps']} steps a frame, "
        f"{settings['device']}, {settings['threads']} threads: m3 in batches of {settings['batch_size']} "
        f"{speed['m3']:.3f} frames/s, nano4M's loop {speed['nano4m']:.3f} frames/s: {result['ratio']:.2f} ×"
    )
    console.print(f"logits differ by at most {result['logits_difference']:.1e}; {result['machine']}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--model", default="m3", help="of conf/model")
    parser.add_argument("--steps", type=int, default=8, help="for the joints, and for the picture, of a frame")
    parser.add_argument("--frames", type=int, default=1, help="horizons of a roll-out")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--variants", action="store_true", help="compare settings of m3 with each other")
    parser.add_argument("--only", nargs="*", choices=VARIANTS, help="of the variants")
    parser.add_argument("--checkpoint", type=Path, help="run folder or .ckpt: its speed and, with --data, its scores")
    parser.add_argument("--data", type=Path, help="data set of the checkpoint")
    parser.add_argument("--split", default="eval", help="of the data set; the default is chosen by eval, not by test")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    numbers = (arguments.batch_size, arguments.steps, arguments.frames, arguments.rounds, arguments.threads)
    if min(numbers) < 1:
        parser.error("--batch-size, --steps, --frames, --rounds and --threads must be at least 1")
    if bool(arguments.checkpoint) != bool(arguments.data):
        parser.error("--checkpoint and --data belong together")
    torch.set_num_threads(arguments.threads)
    console = Console(width=160, highlight=False)
    if arguments.variants:
        result = measure_variants(arguments)
        print_variants(result, console)
    else:
        result = compare(arguments)
        print_comparison(result, console)
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if not arguments.variants and not result["logits_difference"] <= LARGEST_DIFFERENCE:
        print(f"error: the logits differ by more than {LARGEST_DIFFERENCE}: not the same model", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
