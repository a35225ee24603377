"""docs/extending.md works as it stands: its files and commands, in a copy of the package, and nothing else."""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from m3.batches.table import TokenTable
from m3.core.rng import SampleGenerator, numpy_generator
from m3.tokens.joints import JointCodec

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
FILE = re.compile(r"(New file|append to) `([\w./]+)`:\n\n```(?:python|yaml)\n(.*?)```", re.DOTALL)
COMMANDS = re.compile(r"```bash\n(.*?)```", re.DOTALL)

# One process runs all commands: importing torch takes longer than any of them.
RUN_ALL = """
import os, runpy, shlex, sys
for line in open(sys.argv[1]).read().splitlines():
    python, *arguments = shlex.split(line)
    assert python == "python", line
    sys.argv = arguments
    os.environ.pop("M3_RUN_DIR", None)  # of the training before
    runpy.run_path(arguments[0], run_name="__main__")
"""


def write_tokens(root: Path) -> None:
    """Token folders of the four published modalities and depth, at 32 px: 12 samples of train, 4 of eval and test."""
    rng = numpy_generator(0, "tokens")
    for split, count in (("train", 12), ("eval", 4), ("test", 4)):
        for number in range(count):
            coords = rng.integers(0, 8192, (2, 3, 13))
            coords[:, 2] = 1
            tokens = {
                "tok_rgb": rng.integers(0, 64000, (2, 2, 2)),
                "coords": coords,
                "tok_depth": rng.integers(0, 64, (2, 2, 2)),
            }
            for name, (reference, successor) in tokens.items():
                for modality, ids in ((name, reference), (f"{name}_next", successor)):
                    folder = root / split / modality / f"{number:04d}"
                    folder.mkdir(parents=True)
                    np.save(folder / f"{modality}.npy", ids.astype(np.uint16))


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package after everything that the page says, in its order."""
    copy = tmp_path_factory.mktemp("checkout")
    shutil.copytree(ROOT / "m3", copy / "m3", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "hydra_plugins", copy / "hydra_plugins", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("train.py", "preprocess.py", "generate.py", "pyproject.toml"):
        shutil.copy(ROOT / name, copy)
    (copy / "conf").symlink_to("m3/conf")
    for kind, name, text in FILE.findall(PAGE):
        path = copy / name
        assert path.exists() == (kind == "append to"), f"{kind} {name}"
        with path.open("a", encoding="utf-8") as file:
            file.write(text if kind == "New file" else f"\n\n{text}")
    write_tokens(copy / "tokens")
    (copy / "commands").write_text("".join(COMMANDS.findall(PAGE)), encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", RUN_ALL, "commands"], cwd=copy, env=environment, capture_output=True,
                          text=True, timeout=600)  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return copy


def metrics(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))


def test_the_page_has_a_file_of_each_kind() -> None:
    assert {(kind, name) for kind, name, _ in FILE.findall(PAGE)} == {
        ("New file", "m3/clips/pendulum.py"), ("New file", "conf/source/pendulum.yaml"),
        ("New file", "conf/modalities/depth.yaml"), ("New file", "m3/vocabularies/depth.py"),
        ("append to", "m3/metrics/specs.py"), ("append to", "m3/loss.py"), ("append to", "m3/sampling/orders.py"),
    }  # fmt: skip


def test_a_new_source(checkout: Path) -> None:
    manifest = json.loads((checkout / "data" / "pendulum" / "dataset.json").read_text(encoding="utf-8"))
    assert manifest["source"]["name"] == "pendulum" and sum(manifest["num_clips"].values()) == 8
    assert manifest["rejected"] == [] and sum(manifest["num_pairs"].values()) == 8 * 10  # of 12 frames


def test_a_new_modality(checkout: Path) -> None:
    """Shown in the contact sheet, trained, rolled out, drawn and scored."""
    with Image.open(checkout / "data/depth/contact_sheet.png") as sheet:
        assert sheet.width > 2 * 4 * 192  # two pairs of four panels: two pictures, two depths
    rows = (checkout / "outputs/train/depth/csv/version_0/metrics.csv").read_text(encoding="utf-8")
    assert "eval/loss_tok_depth_next" in rows
    tokens = np.load(checkout / "out/depth/tokens.npz", allow_pickle=False)
    assert tokens["predicted_tok_depth"].shape == (4, 7, 2, 2) and tokens["predicted_tok_depth"].max() < 64
    scores = metrics(checkout / "out/depth")["scores"]
    made, true = (tokens[f"{name}_tok_depth"][:, 1].astype(float) / 63 for name in ("predicted", "truth"))
    first = scores["depth_error"]["horizons"][0]
    assert first["model"] == pytest.approx(np.abs(made - true).mean(), abs=1e-6)
    assert scores["tok_depth_accuracy"]["horizons"][0]["model"] == pytest.approx((made == true).mean(), abs=1e-6)
    report = (checkout / "out/depth/report.html").read_text(encoding="utf-8")
    assert "depth error" in report
    with Image.open(checkout / "out/depth/rollout.png") as sheet:
        assert sheet.height > 4 * 4 * 256  # four samples of four rows: predicted, its depth, the truth, its depth


def test_a_new_metric(checkout: Path) -> None:
    tokens = np.load(checkout / "out/metric/tokens.npz", allow_pickle=False)
    codec = JointCodec(32)
    (made, _), (true, is_visible) = (codec.decode(tokens[f"{name}_coords"][:, 1]) for name in ("predicted", "truth"))
    extent = {pair.clip: pair.pose_extent_px for pair in TokenTable.open(checkout / "data/pendulum", "test").pairs}
    limit = 0.2 * np.array([extent[clip] for clip in tokens["clip"]])
    is_right = np.linalg.norm(made - true, axis=-1) < limit[:, None]
    wanted = is_right[is_visible].mean()
    assert metrics(checkout / "out/metric")["scores"]["pck@0.2"]["horizons"][0]["model"] == pytest.approx(
        wanted, abs=1e-6
    )
    assert "PCK@0.2" in (checkout / "out/metric/report.html").read_text(encoding="utf-8")


def test_a_new_loss(checkout: Path) -> None:
    weights = runpy.run_path(str(checkout / "m3/loss.py"))["target_weights"](torch.tensor([4, 16, 0]), "root")
    assert weights.tolist() == pytest.approx([2 / 4 / 6, 4 / 16 / 6, 0])
    losses = [
        (checkout / f"outputs/train/{name}/csv/version_0/metrics.csv").read_text(encoding="utf-8")
        for name in ("depth", "root")
    ]
    assert losses[0] != losses[1]


def test_a_new_order(checkout: Path) -> None:
    generator = SampleGenerator(0, "order", torch.arange(2))
    order = runpy.run_path(str(checkout / "m3/sampling/orders.py"))["ORDERS"]["backwards"](generator, 2, 4)
    assert order.argsort(1).tolist() == [[3, 2, 1, 0]] * 2
    record = metrics(checkout / "out/scheme")
    assert record["sampling"]["schemes"]["tok_rgb_next"]["order"] == "backwards" and record["scores"]
