"""Dependencies point one way: no package imports one that stands above it."""

import ast
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).parents[1] / "keras_kd"

# From a package to those that it may not import, also not inside functions.
_TOP = {"cli", "demo", "__main__", "check_model", "fit_size"}
_FORBIDDEN = {
    "losses": {
        *_TOP, "report", "export", "compression", "litert", "teachers", "distiller", "objective",
        "hints", "features", "compatibility",
    },
    "litert": {*_TOP, "report", "export", "compression", "teachers", "distiller", "losses"},
    "hints": {*_TOP, "report", "export", "compression", "distiller"},
    "teachers": {*_TOP, "report", "export", "compression", "distiller"},
    "objective": {*_TOP, "report", "export", "compression", "distiller"},
    "distiller": {*_TOP, "report", "export", "compression"},
    "compression": {*_TOP, "report", "export"},
    "export": {*_TOP, "report", "compression"},
    "report": {"cli", "__main__", "demo", "compression"},
    "datasets": {*_TOP, "report", "export", "compression", "distiller", "losses", "teachers"},
    "demo": {"cli", "__main__"},
}  # fmt: skip


def imported(path):
    """Return the parts of keras_kd that a file imports, by their first name."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        found |= {name.split(".")[1] for name in names if name.startswith("keras_kd.")}
    return found


@pytest.mark.parametrize("part", _FORBIDDEN)
def test_imports_point_one_way(part):
    files = sorted((PACKAGE / part).rglob("*.py")) or [PACKAGE / f"{part}.py"]
    for file in files:
        wrong = imported(file) & _FORBIDDEN[part]
        assert not wrong, f"{file.relative_to(PACKAGE.parent)} imports keras_kd.{min(wrong)}"


def test_an_import_is_found_wherever_it_stands(tmp_path):
    file = tmp_path / "module.py"
    file.write_text(
        "import keras_kd.export.sizes\n"
        "def f():\n    from keras_kd import report\n    from keras_kd.cli import main\n"
    )
    assert imported(file) == {"export", "report", "cli"}
