"""The notebooks run from their first cell to their last, in quick mode."""

from __future__ import annotations

import pathlib

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((pathlib.Path(__file__).parents[2] / "examples/notebooks").glob("*.ipynb"))
SHORTEST = "regression"  # the others take what their scripts take


def output_of(notebook):
    return "".join(
        output.get("text", "")
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
    )


def mark_of(path):
    return pytest.mark.promise if path.stem == SHORTEST else pytest.mark.slow


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, id=path.stem, marks=mark_of(path)) for path in NOTEBOOKS],
)
def test_a_notebook_runs(path, tmp_path, environment, monkeypatch):
    for name, value in environment(path.stem).items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(path, as_version=4)
    badge, installation, *cells = notebook.cells
    assert "colab" in badge.source and installation.source.startswith("%pip install")
    notebook.cells = cells
    NotebookClient(notebook, kernel_name="python3", timeout=600).execute(cwd=str(tmp_path))
    assert "\n|---" in output_of(notebook), "it printed no table"
    assert list((tmp_path / "exports" / path.stem).glob("*.tflite"))
