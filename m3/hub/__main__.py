"""Shares a model on the Hugging Face hub: a folder with weights, `config.json` and a model card, and its upload.

python -m m3.hub outputs/train/NAME outputs/hub/NAME --scores outputs/generate/NAME/metrics.json --push OWNER/NAME
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from m3.checkpoint import CARD, CONFIG, WEIGHTS, load_model, upload
from m3.checkpoint.evaluations import ACCEPTED
from m3.core.errors import one_line_errors


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m m3.hub", description="Makes a folder for sharing from a model.")
    parser.add_argument("checkpoint", help="a run folder of train.py, a .ckpt file, OWNER/NAME, or pretrained")
    parser.add_argument("folder", type=Path, help="to write")
    parser.add_argument("--scores", type=Path, nargs="+", default=(), metavar="FILE", help=f"for the card: {ACCEPTED}")
    parser.add_argument("--license", help="of the weights, as the hub names it: apache-2.0, cc-by-nc-4.0 …")
    parser.add_argument("--half", action="store_true", help="round the weights to float16: half the size")
    parser.add_argument("--revision", help="branch, tag or commit of the hub's repository that is read")
    parser.add_argument("--push", metavar="OWNER/NAME", help="upload it to this repository of the hub")
    parser.add_argument("--private", action="store_true", help="make the repository, if it is new, a private one")
    options = parser.parse_args(arguments)
    with one_line_errors():
        loaded = load_model(options.checkpoint, revision=options.revision)
        loaded = loaded.rounded() if options.half else loaded
        loaded.save_pretrained(options.folder, options.scores, options.license, options.push)
        print(f"{options.folder}: {WEIGHTS}, {CONFIG}, {CARD}")
        if options.push:
            print(upload(options.folder, options.push, options.private))


if __name__ == "__main__":
    main()
