"""Imports point down: no floor of the house imports one that stands above it."""

import ast
import pathlib
import re
import runpy

import pytest

PACKAGE = pathlib.Path(__file__).parents[1] / "keras_kd"

HOUSE = runpy.run_path(str(PACKAGE.parent / "tools" / "house.py"))
FLOORS = HOUSE["FLOORS"]

# Imports Keras, and what it must know by name when it loads a file.
ENTRANCE = "backend"

FACADES = {"/".join(name.split(".")[1:]) + ".py" for name in HOUSE["FACADES"]}


def imported(path):
    """Return the floors that a file imports, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        found |= {name.split(".")[1] for name in names if name.startswith("keras_kd.")}
    return found & set(FLOORS)


@pytest.mark.parametrize("floor", FLOORS)
def test_imports_point_down(floor):
    above = set(FLOORS[: FLOORS.index(floor)])
    for file in sorted((PACKAGE / floor).rglob("*.py")) or [PACKAGE / f"{floor}.py"]:
        name = file.relative_to(PACKAGE).as_posix()
        wrong = imported(file) & above
        assert not wrong or name in FACADES, f"{name} imports keras_kd.{min(wrong)}"


def test_every_folder_is_a_floor():
    parts = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert parts - {"__init__", "__pycache__", "py"} == {*FLOORS, ENTRANCE}


def test_an_import_is_found_wherever_it_stands(tmp_path):
    file = tmp_path / "module.py"
    file.write_text(
        "import keras_kd.measuring.sizes\n"
        "def f():\n    from keras_kd import report\n    from keras_kd.cli import main\n"
    )
    assert imported(file) == {"measuring", "report", "cli"}


def test_the_floors_are_those_of_contributing():
    text = (PACKAGE.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (house,) = re.findall(r"^```text\n(.*?)^```", text, re.S | re.M)
    shown = [line.split("/")[0] for line in house.splitlines()]
    assert shown == [floor for floor in FLOORS if floor in shown]
    assert set(FLOORS) - set(shown) == {"__main__", "demo", "_version"}
