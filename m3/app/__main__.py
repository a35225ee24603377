"""m3-app [CHECKPOINT]: serves the page (docs/app.md). The same file is the app.py of a Hugging Face Space."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

LOOPBACK = "127.0.0.1"

NOTHING_SENT = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Serves the page until it is interrupted."""
    asked = _parser().parse_args(arguments)
    page = serve(asked)
    print(f"m3-app: {page.url}  (Ctrl-C ends it)", flush=True)
    page.wait()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "m3-app", description="A page to play with a model. It is served on this machine only."
    )
    parser.add_argument(
        "checkpoint",
        nargs="?",
        default=os.environ.get("M3_APP_CHECKPOINT", "pretrained"),
        help="a run of train.py, a .ckpt file, OWNER/NAME, or pretrained (the model that comes with m3)",
    )
    parser.add_argument(
        "--root",
        default=None,
        type=Path,
        help="the folder whose data sets and runs the page shows; default: outputs, else this folder",
    )
    parser.add_argument("--port", type=int, help="default: 7860, or the next free one")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda …")
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="of generate.py, for all that is generated: tokenizer=cosmos; may be repeated",
    )
    parser.add_argument("--open", action="store_true", help="opens the browser")
    return parser


class Page:
    """A served page.

    url: its address. worker: the process that computes. own: the folder of uploads and results.
    """

    def __init__(self, blocks: Any, url: str, worker: Any, own: Any) -> None:
        self.blocks, self.url, self.worker, self.own = blocks, url, worker, own

    def wait(self) -> None:
        """Until SIGINT or SIGTERM; then everything ends and the folder is removed."""
        ended = threading.Event()

        def end(number: int, frame: FrameType | None) -> None:
            ended.set()

        for name in (signal.SIGINT, signal.SIGTERM):
            signal.signal(name, end)
        ended.wait()
        self.close()

    def close(self) -> None:
        self.worker.close()
        self.blocks.close()
        self.own.remove()


def serve(asked: argparse.Namespace) -> Page:
    """Starts the page; returns when it can be opened. Ends the process with a line where the model cannot be loaded."""
    for name, value in NOTHING_SENT.items():
        os.environ.setdefault(name, value)
    from m3.app.folders import OwnFolder
    from m3.app.limits import JOB_SECONDS
    from m3.app.worker import JobError, Worker

    root = asked.root or (Path("outputs") if Path("outputs").is_dir() else Path("."))
    if not root.is_dir():
        raise SystemExit(f"error: --root {root}: no such folder")
    own = OwnFolder()
    os.environ["GRADIO_TEMP_DIR"] = str(own.path)
    setup = {
        "checkpoint": asked.checkpoint,
        "device": asked.device,
        "options": asked.option,
        "root": str(root.resolve()),
        "folder": str(own.path),
    }
    worker = Worker(setup, JOB_SECONDS)  # imports PyTorch while this process imports Gradio
    try:
        try:
            from m3.app import server
        except ImportError as error:
            raise SystemExit(f"error: the page needs Gradio ({error}): pip install 'm3-motion[app]'") from error
        try:
            facts = worker.call("facts")
            blocks, url = server.launch(worker, own, facts, asked.port, asked.open)
        except (JobError, OSError) as error:  # OSError: the port is taken
            raise SystemExit(f"error: {error}") from error
    except BaseException:
        worker.close()
        own.remove()
        raise
    threading.Thread(target=_warm_up, args=(worker, own), daemon=True).start()
    return Page(blocks, url, worker, own)


def _warm_up(worker: Any, own: Any) -> None:
    from m3.app.worker import JobError

    try:
        worker.call("warm_up", folder=str(own.new_result()))
    except JobError as error:
        print(f"m3-app: {error}", file=sys.stderr)


if __name__ == "__main__":
    main()
