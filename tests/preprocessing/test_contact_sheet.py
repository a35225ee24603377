"""The contact sheet shows the pairs it names: pictures of their frames, tokens decoded, skeletons in place."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from support.tiny_shards import small_manifest

from m3.clips.canvas import StretchCanvas
from m3.core.types import Clip, FramePair, TokenizedPair
from m3.preprocessing.contact_sheet import contact_sheet, sheet_pairs
from m3.shards.manifest import STORED_MODALITIES, pair_modalities
from m3.shards.meta import pair_meta
from m3.shards.writer import write_shards
from m3.tokens.base import PictureTokenizer
from m3.tokens.joints import JointCodec

SIZE = 64


class Gray(PictureTokenizer):
    """Decodes id n as a picture of gray value n."""

    name, fingerprint = "gray", "00"

    def encode(self, pixels):
        raise AssertionError("a contact sheet encodes nothing")

    def decode(self, ids):
        height, width = 16 * ids.shape[1], 16 * ids.shape[2]
        return (ids[:, :1, :1].float() / 127.5 - 1)[:, None].expand(-1, 3, height, width)


class Source:
    """Frame n of clip "00c" has red value 10 c + n."""

    name = "world"

    def read(self, clip_id: str) -> Clip:
        frames = [np.full((SIZE, SIZE, 3), (10 * int(clip_id) + n, 0, 0), np.uint8) for n in range(4)]
        return Clip(clip_id, frames, (SIZE, SIZE), None)


def pair(clip: int, reference: int) -> TokenizedPair:
    xy, is_visible = np.full((13, 2), 32.0), np.zeros(13, bool)
    xy[0], is_visible[0] = (48, 16), True  # the head alone
    coords = JointCodec(SIZE).encode(xy, is_visible)
    grid = np.ones((4, 4), np.uint16)
    tokens = {"tok_rgb": 100 * grid, "coords": coords, "tok_rgb_next": 200 * grid, "coords_next": coords}
    flips = {f"{name}.flip": ids + (ids.shape == (4, 4)) for name, ids in tokens.items()}
    meta = {"clip": f"00{clip}", "reference": reference, "successor": reference + 1, "ssim": 0.5, "action": "walk"}
    return TokenizedPair(f"00{clip}-{reference:06d}", tokens | flips, ("a person walking",), meta)


def write_data(root: Path, variants: tuple[str, ...] = ()):
    pairs = [pair(clip, reference) for clip in range(3) for reference in range(3)]
    shards = {"train": write_shards(root, "train", pairs, 4), "eval": (), "test": ()}
    fields = {"modalities": pair_modalities((4, 4)), "canvas": {"mode": "stretch", "size": SIZE}}
    return replace(small_manifest(), shards=shards, variants=variants, **fields)


def center(picture: Image.Image) -> tuple[int, ...]:
    return picture.getpixel((picture.width // 4, picture.height // 2))


def test_panels_are_frames_and_decoded_tokens(tmp_path: Path):
    manifest = write_data(tmp_path)
    pairs = sheet_pairs(tmp_path, manifest, Gray(), Source(), StretchCanvas(SIZE), num_pairs=5, cell_px=128)
    assert len(pairs) == 5
    clips = [shown.title.split()[1][:3] for shown in pairs]
    assert set(clips) == {"000", "001", "002"} and clips == sorted(clips)
    for shown in pairs:
        split, key, _, successor, *_ = shown.title.split()
        clip, reference = int(key[:3]), int(key[4:])
        assert split == "train" and int(successor) == reference + 1 and "SSIM 0.500   a person walking" in shown.title
        names, pictures = zip(*shown.panels)
        assert names == ("reference", "reference, tokenized", "successor", "successor, tokenized")
        assert [center(picture) for picture in pictures] == [
            (10 * clip + reference, 0, 0), (100,) * 3, (10 * clip + reference + 1, 0, 0), (200,) * 3,
        ]  # fmt: skip
        for picture in pictures:  # the head at (48, 16) of 64 px
            assert sum(abs(a - b) for a, b in zip(picture.getpixel((96, 32)), (250, 247, 240))) < 30
    again = sheet_pairs(tmp_path, manifest, Gray(), Source(), StretchCanvas(SIZE), num_pairs=5, cell_px=128)
    assert [shown.title for shown in again] == [shown.title for shown in pairs]
    sheet = contact_sheet(pairs)
    assert sheet.width > 8 * 128 and sheet.height > 3 * 128


def test_flips_and_data_without_pictures_or_source(tmp_path: Path):
    manifest = write_data(tmp_path, ("flip",))
    shown = sheet_pairs(tmp_path, manifest, Gray(), None, None, num_pairs=1, cell_px=32)[0]
    assert [(name, center(picture)[0]) for name, picture in shown.panels] == [
        ("reference, tokenized", 100), ("reference, flipped", 101),
        ("successor, tokenized", 200), ("successor, flipped", 201),
    ]  # fmt: skip
    joints_only = replace(manifest, variants=(), modalities=pair_modalities((4, 4), ("coords", "coords_next")))
    shown = sheet_pairs(tmp_path, joints_only, None, None, None, num_pairs=1, cell_px=32)[0]
    assert [name for name, _ in shown.panels] == ["reference", "successor"]


def test_what_a_pair_lacks_is_not_drawn(tmp_path: Path):
    """A pair without joints, at the start of a clip, without SSIM, caption and action."""
    whole = pair(0, 0)
    tokens = {name: whole.tokens[name] for name in ("tok_rgb", "tok_rgb_next")}
    meta = pair_meta(FramePair(0, 1, None), "000", None, {"mode": "stretch", "size": SIZE}, None, None)
    shards = write_shards(tmp_path, "train", [replace(whole, tokens=tokens, captions=(), meta=meta)], 4)
    manifest = replace(write_data(tmp_path / "other"), shards={"train": shards, "eval": (), "test": ()})
    manifest = replace(manifest, modalities=pair_modalities((4, 4), STORED_MODALITIES))
    (shown,) = sheet_pairs(tmp_path, manifest, Gray(), None, None, num_pairs=3, cell_px=32)
    assert shown.title == "train  000-000000 to 1"
    assert [name for name, _ in shown.panels] == ["reference, tokenized", "successor, tokenized"]


def test_no_random_state_is_touched(tmp_path: Path):
    manifest = write_data(tmp_path)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    contact_sheet(sheet_pairs(tmp_path, manifest, Gray(), None, None, num_pairs=2, cell_px=32))
    assert torch.equal(before[0], torch.get_rng_state()) and (before[1] == np.random.get_state()[1]).all()
