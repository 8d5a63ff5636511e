"""Private names of Keras, TF-MOT and LiteRT: few, and in few places."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]

# Graphs, the masks of tensors and training; one place for each of the other libraries.
SEAMS = {
    "keras_kd.models.graph", "keras_kd.losses.shared.masks", "keras_kd.distilling.trainer",
    "keras_kd.models.tfmot", "keras_kd.litert.runtime", "keras_kd.datasets.loading",
    "keras_kd.planning.search.oracles",
}  # fmt: skip


@pytest.fixture(scope="module")
def uses(load_script):
    house = load_script("tools/house.py")
    return house.private_uses(house.trees(ROOT))


def test_few_private_names_are_used(uses):
    assert len(uses) < 60


def test_they_are_used_in_few_places(uses):
    for name, modules in uses.items():
        assert modules <= SEAMS, f"{name} is used in {modules - SEAMS}"


def test_no_place_is_allowed_for_nothing(uses):
    assert set().union(*uses.values()) == SEAMS


def test_no_mock_and_no_assert_in_the_package():
    for file in (ROOT / "keras_kd").rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        assert "unittest.mock" not in text, file
        assert not any(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(text))), file
