"""Roll-outs as files: pictures, animations, and tokens for whoever wants to go on from them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from m3.core.frames import Chain, TokenFrames
from m3.core.joints import NUM_JOINTS
from m3.generation.generator import RollOuts
from m3.reporting.figures import choose_samples, rollout_animation, rollout_sheet, write_png
from m3.reporting.video import write_gif, write_mp4

FOLDER = "samples"
_DRAWS_IN_SHEET = 3
"""More of them make a sheet of several inputs endless; the folders show all."""


def write_pictures(out: Path, made: RollOuts, num_samples: int, cell_px: int) -> None:
    """OUT/rollout.png, .gif and .mp4 of `num_samples` starts."""
    rows = choose_samples(made.starts.chains, num_samples)
    titles = [made.starts.chains[n].title for n in rows]
    write_png(out / "rollout.png", rollout_sheet(made.panels_of(rows, _DRAWS_IN_SHEET), titles, cell_px))
    animation = rollout_animation(made.panels_of(rows, _DRAWS_IN_SHEET), titles, cell_px)
    write_gif(out / "rollout.gif", animation)
    write_mp4(out / "rollout.mp4", animation)


def write_folders(out: Path, made: RollOuts, rows: Sequence[int], cell_px: int) -> list[Path]:
    """A folder OUT/samples/CLIP-FRAME for each of the rows: rollout.png, rollout.gif and tokens.npz."""
    folders = []
    for n in rows:
        chain = made.starts.chains[n]
        folder = out / FOLDER / folder_name(chain)
        folder.mkdir(parents=True, exist_ok=True)
        shown = made.panels_of([n], len(made.draws))
        write_png(folder / "rollout.png", rollout_sheet(shown, [chain.title], cell_px))
        write_gif(folder / "rollout.gif", rollout_animation(shown, [chain.title], cell_px))
        write_tokens(folder / "tokens.npz", made, [n])
        folders.append(folder)
    return folders


def folder_name(chain: Chain) -> str:
    """CLIP-FRAME, like the keys of shards."""
    return f"{chain.pairs[0].clip}-{chain.pairs[0].reference:06d}"


def write_tokens(path: Path, made: RollOuts, rows: Sequence[int]) -> None:
    """An .npz file of the rows' tokens, without pickles, under its final name only when complete.

    clip (N,) text, reference_frame (N,), successor_frames (N, T): frame numbers in their clip, −1 where none is known.
    predicted_tok_rgb (N, T + 1, h, w) and predicted_coords (N, T + 1, 3, 13) uint16: index 0 is the reference.
    truth_tok_rgb, truth_coords: the same, and is_truth (N, T + 1) bool, False where there is none.
    argmax_… like predicted_…; sample_tok_rgb (S, N, T + 1, h, w) and sample_coords (S, N, T + 1, 3, 13): where drawn.
    A model without pictures gives no …tok_rgb.
    """
    starts = made.starts
    chains = [starts.chains[n] for n in rows]
    successors = np.full((len(rows), starts.tokens.is_present.shape[1] - 1), -1)
    for n, chain in enumerate(chains):
        successors[n, : len(chain.rows)] = [pair.successor for pair in chain.pairs[: len(chain.rows)]]
    arrays = {
        "clip": np.array([chain.pairs[0].clip for chain in chains]),
        "reference_frame": np.array([chain.pairs[0].reference for chain in chains]),
        "successor_frames": successors,
        **_arrays("predicted", made.predicted.tokens, rows),
        **_arrays("truth", starts.tokens, rows),
        "is_truth": starts.tokens.is_present[list(rows)],
    }
    if made.argmax is not None:
        arrays |= _arrays("argmax", made.argmax.tokens, rows)
    if made.draws:
        drawn = [_arrays("sample", draw.tokens, rows) for draw in made.draws]
        arrays |= {name: np.stack([each[name] for each in drawn]) for name in drawn[0]}
    write_npz(path, arrays)


def write_npz(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write arrays under the file's final name only when complete. Raises ValueError for what would need a pickle."""
    for name, array in arrays.items():
        if array.dtype == object:
            raise ValueError(f"{path}: {name} is an array of objects")
    unfinished = path.with_name(path.name + ".tmp")
    with unfinished.open("wb") as file:
        np.savez_compressed(file, **arrays)
    os.replace(unfinished, path)


def _arrays(name: str, frames: TokenFrames, rows: Sequence[int]) -> dict[str, np.ndarray]:
    """In the shapes and the type of shards."""
    chosen, shape = list(rows), (len(rows), frames.is_present.shape[1])
    grid = round(frames.tok_rgb.shape[-1] ** 0.5)
    arrays = {f"{name}_coords": frames.coords[chosen].reshape(*shape, 3, NUM_JOINTS).astype(np.uint16)}
    if grid:
        arrays[f"{name}_tok_rgb"] = frames.tok_rgb[chosen].reshape(*shape, grid, grid).astype(np.uint16)
    return arrays
