"""`.mat` files that crash, hang or flood SciPy's reader end as one bad clip, whatever reads them."""

from __future__ import annotations

import io
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from support.tiny_world import label_fields, write_label

from m3.clips import mat_process, reader_process
from m3.clips.base import ClipError
from m3.clips.mat_process import read_mat
from m3.clips.penn_action import read_label

NAMES = ("x", "y", "visibility", "nframes", "dimensions", "action", "train")


def test_fields_are_those_of_scipy(tmp_path: Path):
    path = write_label(tmp_path / "1.mat")
    found, expected = read_mat(path.read_bytes(), NAMES), scipy.io.loadmat(path)
    assert found.keys() == set(NAMES)
    for name, value in found.items():
        assert value.dtype == expected[name].dtype and np.array_equal(value, expected[name]), name


def test_what_is_no_array_of_numbers_or_text_is_refused():
    for value in ({"a": 1}, np.array([1, "a"], object)):
        content = io.BytesIO()
        scipy.io.savemat(content, {"x": value, "y": np.zeros((2, 2))})
        with pytest.raises(ValueError, match="x is (struct|cell)"):
            read_mat(content.getvalue(), NAMES)
        assert read_mat(content.getvalue(), ("y",))["y"].shape == (2, 2)


def damaged(seed: int) -> bytes:
    """A label file with some bytes changed; several hundred of these crash SciPy 1.17."""
    content, rng = io.BytesIO(), np.random.default_rng(seed)
    scipy.io.savemat(content, label_fields())
    changed = bytearray(content.getvalue())
    for place in rng.integers(128, len(changed), rng.integers(1, 4)):
        changed[place] = int(rng.choice([0, 1, 127, 255, rng.integers(256)]))
    return bytes(changed)


@pytest.mark.parametrize("number", [60, pytest.param(3000, marks=pytest.mark.slow)])
def test_no_damage_of_a_label_ends_this_process(tmp_path: Path, number: int):
    path = tmp_path / "0007.mat"
    for seed in range(number):
        path.write_bytes(damaged(seed))
        try:
            read_label(path)
        except ClipError as error:
            assert str(error).startswith("0007.mat: ") and "\n" not in str(error)
    write_label(path)
    assert read_label(path).num_frames == 6


def test_a_reader_that_crashes_is_named_and_started_again(tmp_path: Path):
    path = write_label(tmp_path / "0007.mat")
    read_label(path)
    process = mat_process._reader._process
    os.kill(process.pid, signal.SIGSEGV)
    process.wait()
    assert read_label(path).num_frames == 6  # died between two files
    process = mat_process._reader._process
    os.kill(process.pid, signal.SIGSTOP)  # does not answer
    reader_process.SECONDS, seconds = 0.2, reader_process.SECONDS
    try:
        with pytest.raises(ClipError, match=r"^0007\.mat: not a readable \.mat file \(SciPy's reader did not finish"):
            read_label(path)
    finally:
        reader_process.SECONDS = seconds
    assert read_label(path).num_frames == 6


def test_what_took_the_place_of_a_label_is_called_by_its_name(tmp_path: Path):
    for content, words in {
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n": "a git-lfs pointer, .*git lfs pull",
        b"<!DOCTYPE html>\n<html><body>404</body></html>": "an HTML page",
        b"\n<html>": "an HTML page",
    }.items():
        (tmp_path / "0007.mat").write_bytes(content)
        with pytest.raises(ClipError, match=f"^0007.mat: {words}"):
            read_label(tmp_path / "0007.mat")
