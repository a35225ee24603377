"""Names of folders and clips that are markup, commands to a terminal, or no ids: the build and its summary work."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.poses_only_builds import config
from support.tiny_world import write_label, write_world

from m3.commands import preprocess
from m3.shards.verify import verify_dataset


def test_markup_in_a_path_and_odd_names_of_clips(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    root, out = tmp_path / "[/red] \x1b[2J", tmp_path / "[bold]out[/]"
    write_world(root, 4)
    for name in ("a b", "[link]", "x\x1b[31m", "c;d"):
        write_label(root / "labels" / f"{name}.mat")
    cfg = config(tmp_path, tmp_path, "contact_sheet.num_pairs=1")
    cfg.source.root, cfg.out = str(root), str(out)
    manifest = preprocess.run(cfg)
    said = capsys.readouterr()
    assert {each.clip for each in manifest.rejected} == {"a_b", "_link_", "x__31m", "c_d"}
    assert "\x1b" not in said.out + said.err and "[bold]out[/]" in said.out
    assert "x__31m: " in said.out and verify_dataset(out)[1] == []
    assert preprocess.verify(str(out)) == 0 and "[bold]out[/]" in capsys.readouterr().out
    (out / "train/000000.tar").unlink()
    assert preprocess.verify(str(out)) == 1 and "[bold]out[/]/train/000000.tar" in capsys.readouterr().out
