"""Errors that a user can mend are one line; others keep their traceback."""

from __future__ import annotations

import errno

import pytest
from hydra.errors import ConfigCompositionException, InstantiationException
from hydra.utils import instantiate
from omegaconf import OmegaConf

from m3.core.errors import naming, one_line_errors


class Refusing:
    def __init__(self, error: str) -> None:
        raise {"value": ValueError("size=3: need 4"), "file": FileNotFoundError("nowhere: no such file"),
               "code": TypeError("of the code")}[error]  # fmt: skip


def line_of(error: Exception, *kinds: type[Exception]) -> str:
    with pytest.raises(SystemExit) as ended, one_line_errors(*kinds):
        raise error
    assert isinstance(ended.value.code, str)  # Python prints it and exits with 1
    return ended.value.code


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("seed=-1: need at least 0"), "error: seed=-1: need at least 0"),
        (FileNotFoundError("nowhere: no checkpoint there"), "error: nowhere: no checkpoint there"),
        (ConfigCompositionException("Could not override 'x'"), "error: Could not override 'x'"),
        (ValueError("[red]data[/]: need a folder"), "error: [red]data[/]: need a folder"),
    ],
)
def test_messages_are_printed_as_they_are(error: Exception, line: str) -> None:
    assert line_of(error) == line


@pytest.mark.parametrize(("kind", "line"), [("value", "size=3: need 4"), ("file", "nowhere: no such file")])
def test_what_a_constructor_says_is_told_without_hydras_frame(kind: str, line: str) -> None:
    with pytest.raises(SystemExit) as ended, one_line_errors():
        instantiate({"_target_": f"{__name__}.Refusing", "error": kind})
    assert ended.value.code == f"error: {line}"


def test_other_errors_of_a_constructor_name_the_target() -> None:
    with pytest.raises(SystemExit) as ended, one_line_errors():
        instantiate({"_target_": f"{__name__}.Refusing", "error": "code"})
    assert "Refusing" in str(ended.value.code) and "of the code" in str(ended.value.code)


def test_a_missing_value_is_asked_for() -> None:
    cfg = OmegaConf.create({"source": {"root": "???"}})
    with pytest.raises(SystemExit, match="^error: source.root has no default: give source.root=…$"), one_line_errors():
        _ = cfg.source.root


def test_errors_of_other_kinds_are_not_touched() -> None:
    with pytest.raises(KeyError), one_line_errors():
        raise KeyError("x")
    with pytest.raises(ValueError, match="of the code"), one_line_errors(OSError, InstantiationException):
        raise ValueError("of the code")
    assert line_of(PermissionError("locked"), OSError) == "error: locked"


def test_failed_writes_name_the_file_and_say_what_to_do(tmp_path) -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(SystemExit) as ended, one_line_errors(), naming(tmp_path):
        raise full
    assert ended.value.code == f"error: {tmp_path}: No space left on device; make room there, or choose another place"
    with pytest.raises(SystemExit, match=rf"^error: {tmp_path}/a/b: No such file or directory; it, or a folder above"):
        with one_line_errors(), naming(tmp_path):
            (tmp_path / "a/b").read_bytes()


def test_errors_of_configurations_are_one_line_with_their_key() -> None:
    cfg = OmegaConf.create({"a": "${b.c}"})
    with pytest.raises(SystemExit, match=r"^error: a: Interpolation key 'b\.c' not found$"), one_line_errors():
        _ = cfg.a
    with pytest.raises(SystemExit) as ended, one_line_errors():
        instantiate({"x": {"_target_": f"{__name__}.Refusing", "error": "code"}})
    assert "full_key: x" in str(ended.value.code) and "\n" not in str(ended.value.code)
