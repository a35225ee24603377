"""The notebooks run as they are, outside the checkout, and are stored without outputs."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "docs/notebooks").glob("*.ipynb"))
nbformat = pytest.importorskip("nbformat", reason="nbformat needs Python 3.11: extra docs")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_without_outputs(path: Path) -> None:
    notebook = nbformat.read(path, 4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(code) > 4 and all(cell.execution_count is None and not cell.outputs for cell in code)
    assert path.stat().st_size < 50_000


def executed(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch):
    from nbclient import NotebookClient

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("IPYTHONDIR", str(folder / "ipython"))
    notebook = nbformat.read(ROOT / f"docs/notebooks/{name}.ipynb", 4)
    NotebookClient(
        notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    ).execute()
    return notebook


def texts(notebook) -> str:
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return "\n".join(output.get("text", "") or output.get("data", {}).get("text/plain", "") for output in outputs)


@pytest.mark.slow
def test_a_video_is_continued_with_the_shipped_model(tmp_path: Path, monkeypatch) -> None:
    notebook = executed("continue_a_video", tmp_path, monkeypatch)
    shown = [output.data["text/html"] for cell in notebook.cells if cell.cell_type == "code"
             for output in cell.outputs if "text/html" in output.get("data", {})]  # fmt: skip
    assert any("data:image/gif;base64," in page for page in shown)
    assert "copy of the reference" in texts(notebook) and "+1: " in texts(notebook)
    assert (tmp_path / "outputs/notebook_clip/report.html").is_file()


@pytest.mark.slow
def test_a_model_is_trained_on_films(tmp_path: Path, monkeypatch) -> None:
    notebook = executed("train_on_your_own_data", tmp_path, monkeypatch)
    assert "PCK@0.1" in texts(notebook) and (tmp_path / "outputs/films/report.html").is_file()
