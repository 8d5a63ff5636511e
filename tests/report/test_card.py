from __future__ import annotations

import re

import pytest

from keras_kd.report import model_card


def test_facts(result, tmp_path):
    text = model_card(result, tmp_path / "new" / "CARD.md", model="int8").read_text()
    assert text.startswith("# Pruned and int8: Fashion-MNIST")
    assert "| Pruned and int8 | 93.30 ± 0.10 % |" in text and "| Teacher | 94.00 % |" in text
    assert "| coat | 100 | 95.0 % | 95.0 % (0.00) |" in text
    assert "Teacher 3.00 %, Pruned and int8 7.00 %." in text
    assert (
        "| block5_Conv2D | Conv2D | 6,000 | 6,600 | 8 | 50.0 % | pruned; quantization-aware |"
        in text
    )
    assert result["command"] in text and "keras 3.15.1" in text
    assert "prune (4 epochs)" in text and "Made up for a test." in text


def test_the_card_is_of_the_model_that_is_shipped(result, tmp_path):
    result["shipped"] = "int8"
    card = model_card(result, tmp_path / "CARD.md").read_text()
    assert card.startswith("# Pruned and int8: Fashion-MNIST")


def test_what_only_the_author_knows_is_left_open(result, tmp_path):
    text = model_card(result, tmp_path / "CARD.md").read_text()
    for heading in ("Intended use", "Out of scope", "Data", "Limits", "License"):
        section = re.search(rf"^#+ {heading}\n(.*?)(?=^#+ |\Z)", text, re.S | re.M)
        assert section and "TODO" in section[1], heading


def test_tables_are_whole(result, tmp_path):
    result["models"][1]["title"] = "a | b\nc"
    lines = model_card(result, tmp_path / "CARD.md").read_text().splitlines()
    columns = None
    rows = 0
    for line in lines:
        if line.startswith("|"):
            count = len(re.findall(r"(?<!\\)\|", line))
            columns = columns or count
            assert count == columns, line
            rows += 1
        else:
            columns = None
    assert rows > 15
    assert not re.search(r"\n\n\n", "\n".join(lines))


def test_all_students_without_a_model(result, tmp_path):
    text = model_card(result, tmp_path / "CARD.md").read_text()
    assert text.startswith("# Fashion-MNIST")
    assert "- **Student alone**: " in text and "- **Pruned and int8**: " in text


def test_a_card_is_not_overwritten(result, tmp_path):
    path = tmp_path / "CARD.md"
    path.write_text("by hand")
    with pytest.raises(FileExistsError, match="edits made in it"):
        model_card(result, path)
    assert path.read_text() == "by hand"
    model_card(result, path, overwrite=True)
    assert "TODO" in path.read_text()


def test_a_model_that_is_not_there(result, tmp_path):
    with pytest.raises(ValueError, match=r"`model` must be one of \"teacher\".*'int4'"):
        model_card(result, tmp_path / "CARD.md", model="int4")
    assert not (tmp_path / "CARD.md").exists()


def test_seeds_are_those_of_the_models(result, tmp_path):
    def sentence():
        text = model_card(result, tmp_path / "CARD.md", overwrite=True).read_text()
        return next(line for line in text.splitlines() if line.startswith("Accuracy is"))

    assert "over the seeds of each model, 1 to 3." in sentence()
    for model in result["models"]:
        model["seeds"] = dict(list(model["seeds"].items())[:1])
    assert sentence().startswith("Accuracy is that of one seed.")


def test_figures_of_the_first_seed_are_marked(result, tmp_path):
    for marked in (True, False):
        text = model_card(result, tmp_path / "CARD.md", overwrite=True).read_text()
        for heading in ("By class", "Calibration"):
            section = text.split(f"### {heading}\n")[1].split("#")[0]
            assert ("with the first seed" in section) == marked, heading
        for model in result["models"]:
            model["seeds"] = dict(list(model["seeds"].items())[:1])


def test_a_front_of_titles_with_commas(result, tmp_path):
    result["models"][4]["title"] = "Pruned, int8"
    text = model_card(result, tmp_path / "CARD.md").read_text()
    assert "- size: Pruned, int8; Teacher\n" in text
