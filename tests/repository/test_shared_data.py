"""The fixtures that find real data, and what they say without it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.shared_data import CHECKOUT, LABELS, needed, shared_folder


def test_the_variable_goes_before_the_folder_beside_the_checkout(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("M3_SHARED_DATA", str(tmp_path))
    assert shared_folder() == tmp_path
    for value in ("", None):
        monkeypatch.setenv("M3_SHARED_DATA", value) if value is not None else monkeypatch.delenv("M3_SHARED_DATA")
        assert shared_folder() == CHECKOUT.parent / "shared" and (CHECKOUT / "train.py").is_file()


def test_a_folder_that_is_named_and_missing_is_an_error(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("M3_SHARED_DATA", str(tmp_path / "none"))
    with pytest.raises(pytest.fail.Exception, match="M3_SHARED_DATA=.*none: no such folder"):
        shared_folder()


def test_a_skipped_test_says_where_to_put_the_data(tmp_path: Path) -> None:
    reason = f"needs labels: put it at {tmp_path}/{LABELS}, or at {LABELS} of a folder that M3_SHARED_DATA names"
    with pytest.raises(pytest.skip.Exception, match=re.escape(reason)):
        needed(tmp_path, LABELS, "labels")
    (tmp_path / LABELS).mkdir(parents=True)
    assert needed(tmp_path, LABELS, "labels") == tmp_path / LABELS


def test_no_test_is_skipped_for_another_reason() -> None:
    tests = CHECKOUT / "tests"
    words = re.compile(r"pytest\.(skip|importorskip|mark\.skip|mark\.xfail)|allow_module_level")
    needs_python_3_11 = {tests / "docs/test_site.py", tests / "docs/test_notebooks.py"}  # for the extra docs
    allowed = {tests / "support/shared_data.py", Path(__file__), *needs_python_3_11}
    found = {path for path in tests.rglob("*.py") if words.search(path.read_text(encoding="utf-8"))}
    assert found - allowed == set()
