from __future__ import annotations

import copy

import pytest

from keras_kd.report import complete_result, format_table, merge, model_card
from keras_kd.report.page import render_page
from keras_kd.report.sentences import lead, over_seeds


def by_key(result, key):
    return next(model for model in result["models"] if model["key"] == key)


def shift(result, key, points):
    for seed in by_key(result, key)["seeds"].values():
        seed["accuracy"] += points / 100


def test_headline(result):
    assert complete_result(result)["headline"] == [
        "Teacher: 94.00 % accuracy, 5.00 MB, 12.0 ms, one seed.",
        "Pruned and int8 is the most accurate student, the smallest, the smallest when zipped and "
        "the fastest: 93.30 % accuracy as the mean of 3 seeds (0.70 points below the teacher), "
        "50.0 kB (1/100 of its bytes), 0.310 ms (1/38.7 of its latency).",
        "The least accurate student is Student alone: 92.00 % accuracy as the mean of 3 seeds "
        "(2.00 points below the teacher), 200 kB (1/25 of its bytes), 0.620 ms (1/19.4 of its "
        "latency).",
        "Taught by the teacher, the student is 1.20 points above the same student trained alone "
        "(mean of 3 seeds; standard deviation up to 0.20 points).",
        "The most accurate, the smallest and the fastest student are the best of 3 by these "
        "figures.",
    ]


def test_the_smallest_is_not_called_the_most_accurate(result):
    shift(result, "int8", -5)
    sentences = complete_result(result)["headline"]
    assert sentences[1].startswith(
        "Distilled student is the most accurate student and the smallest within 1 point of the "
        "teacher: 93.20 %"
    )
    assert sentences[2].startswith("Pruned and int8 is the smallest, the smallest when zipped and")
    assert sentences[3].startswith("The least accurate student is Pruned and int8: 88.30 %")


def test_models_that_are_as_good_are_told(result):
    by_key(result, "int8")["seeds"] = by_key(result, "distilled")["seeds"]
    by_key(result, "student_alone")["file"]["latency_ms"] = 0.33
    sentence = complete_result(result)["headline"][1]
    assert "the most accurate student (as accurate as 1 more)" in sentence
    assert "the fastest (with 1 more within 10 %)" in sentence


def test_no_student_is_close_to_the_teacher(result):
    shift(result, "teacher", 5)
    sentences = complete_result(result)["headline"]
    assert (
        "No student is within 1 point of the teacher; the nearest one, Pruned and int8, loses "
        "5.70 points." in sentences
    )
    assert not any("within 1 point of the teacher:" in sentence for sentence in sentences)


def test_distillation_that_did_not_help_is_told(result):
    shift(result, "distilled", -1.3)
    (sentence,) = [s for s in complete_result(result)["headline"] if s.startswith("Taught")]
    assert "0.10 points below" in sentence and "within that spread" in sentence


def test_without_a_teacher(result):
    del result["models"][0]
    sentences = complete_result(result)["headline"]
    assert not any("teacher:" in s or "of its bytes" in s for s in sentences)
    assert sentences[0].startswith("Pruned and int8 is the most accurate student, the smallest")


def test_one_student(result):
    result["models"] = [result["models"][0], result["models"][4]]
    assert complete_result(result)["headline"][1:] == [
        "Pruned and int8: 93.30 % accuracy as the mean of 3 seeds (0.70 points below the "
        "teacher), 50.0 kB (1/100 of its bytes), 0.310 ms (1/38.7 of its latency)."
    ]


def test_nothing_was_measured_with_labels(result):
    for model in result["models"]:
        for seed in model["seeds"].values():
            seed["accuracy"] = None
    assert complete_result(result)["headline"] == []


def test_the_page_begins_with_a_sentence_and_three_numbers(result):
    full = complete_result(result)
    sentence, figures = lead(full)
    assert sentence in full["headline"] and sentence.startswith("Taught by the teacher")
    assert [value for value, _ in figures] == ["93.3 %", "+1.2", "1/100"]
    assert "Pruned and int8" in figures[0][1] and "3 seeds" in figures[0][1]
    shift(result, "distilled", -1.3)
    assert "within that spread" in lead(complete_result(result))[0]
    assert lead(complete_result(result))[1][1][0] == "−0.1"


def test_the_page_begins_with_the_model_that_is_shipped(result):
    result["shipped"] = "distilled"
    assert lead(complete_result(result))[1][0][0] == "93.2 %"
    for seed in by_key(result, "distilled")["seeds"].values():
        seed["accuracy"] = None
    assert lead(complete_result(result)) == ("", [])  # and not another model
    result["shipped"] = "a misspelt key"
    with pytest.raises(ValueError, match="shipped"):
        complete_result(result)


def test_the_page_begins_with_the_only_student(result):
    result["models"] = [result["models"][0], result["models"][4]]
    sentence, figures = lead(complete_result(result))
    assert sentence.startswith("Pruned and int8: 93.30 % accuracy")
    assert [value for value, _ in figures] == ["93.3 %", "−0.70", "1/100"]
    for model in result["models"]:
        for seed in model["seeds"].values():
            seed["accuracy"] = None
    assert lead(complete_result(result)) == ("", [])


def test_what_the_teacher_is_worth_is_said_of_one_student_alone(result):
    alone = by_key(result, "student_alone")
    for parameters, said in ((alone["parameters"], True), (None, True), (7, False)):
        alone["parameters"] = parameters
        full = complete_result(result)
        sentences = [*full["headline"], lead(full)[0]]
        assert sum("the same student trained alone" in text for text in sentences) == 2 * said
        captions = " ".join(caption for _, caption in lead(full)[1])
        assert ("Distilled student compared with Student alone" in captions) == said


def test_runs_with_different_students_are_not_one_student(result):
    other = copy.deepcopy(result)
    result["models"] = [by_key(result, key) for key in ("teacher", "student_alone")]
    other["models"] = [by_key(other, key) for key in ("teacher", "distilled")]
    by_key(other, "distilled")["parameters"] //= 2
    assert not any("the same student" in text for text in merge([result, other])["headline"])


def test_a_point_below_is_within_a_point(result):
    for key, accuracy in (("teacher", 0.95), ("student_alone", 0.90), ("int8", 0.94)):
        model = by_key(result, key)
        model["seeds"] = {"0": {**next(iter(model["seeds"].values())), "accuracy": accuracy}}
    result["models"] = [by_key(result, key) for key in ("teacher", "student_alone", "int8")]
    assert 100 * (0.95 - 0.94) > 1
    words = " ".join(complete_result(result)["headline"])
    assert "No student is within" not in words


def test_latencies_are_compared_by_the_example(result):
    teacher, student = by_key(result, "teacher")["file"], by_key(result, "int8")["file"]
    teacher["latency_ms"], student["latency_ms"], student["latency_batch"] = 2.0, 4.0, 8
    full = complete_result(result)
    assert by_key(full, "int8")["ratio_to_teacher"]["latency_ms"] == pytest.approx(0.25)
    assert any("4.00 ms for 8 examples (1/4.00 of its latency)" in s for s in full["headline"])
    assert full["pareto_fronts"]["latency_ms"][0] == "int8"


def test_seeds_of_both_are_stated(result):
    seeds = by_key(result, "student_alone")["seeds"]
    by_key(result, "distilled")["seeds"] = dict(list(seeds.items())[:2])
    words = " ".join(complete_result(result)["headline"])
    assert "(mean of 2 and 3 seeds; " in words


def test_students_of_two_runs_are_not_the_same_student(result):
    by_key(result, "distilled")["run"] = 1
    words = " ".join(complete_result(result)["headline"])
    assert "Taught by the teacher" not in words


def test_a_seed_without_an_accuracy_is_not_counted(result):
    seeds = by_key(result, "int8")["seeds"]
    seeds["1"]["accuracy"] = float("nan")
    full = complete_result(result)
    said = next(text for text in full["headline"] if text.startswith("Pruned and int8"))
    assert "as the mean of 2 seeds" in said
    full["shipped"] = "int8"
    assert "2 seeds" in lead(full)[1][0][1]
    seeds["2"]["accuracy"] = None
    said = [text for text in complete_result(result)["headline"] if "Pruned and int8" in text]
    assert "as the mean of" not in said[0] and "one seed" in said[0]


def written(result, folder):
    """What is said of a result on its page and in its card."""
    card = model_card(result, folder / "card.md", overwrite=True).read_text()
    return render_page(complete_result(result)), card


def test_students_are_selected_by_a_search_alone(result, tmp_path):
    row = {
        "ingredient": "student", "choice": "small", "files": 3, "on_front": 1,
        "median_metric": 0.9, "median_bytes": 5, "median_seconds": 1.0,
    }  # fmt: skip
    for ingredients in ([], [row]):
        result["ingredients"] = ingredients
        for text in written(result, tmp_path):
            assert ("optimistic" in text) == ("selected from 3" in text) == bool(ingredients)


def test_every_number_at_the_top_names_its_model(result):
    for keys in (None, ("teacher", "int8")):
        result["models"] = [m for m in result["models"] if keys is None or m["key"] in keys]
        figures = lead(complete_result(result))[1]
        assert len(figures) == 3
        by_title = {m["title"]: m for m in result["models"]}
        for _, caption in figures:
            assert any(title in caption for title in by_title if title != "Teacher"), caption
        assert figures[2] == (
            "1/100", "of the teacher's size: Pruned and int8 has 50.0 kB, Teacher 5.00 MB",
        )  # fmt: skip


def test_without_a_teacher_the_size_is_that_of_the_file(result):
    del result["models"][0]
    assert lead(complete_result(result))[1][-1] == ("50.0 kB", "size of Pruned and int8")


def test_seeds_are_said_where_there_are_several(result, tmp_path):
    for text in written(result, tmp_path):
        assert all(sentence in text for sentence in over_seeds(complete_result(result)["models"]))
        assert "± sample standard deviation" in text and "those of the first seed" in text
    assert "Bars are one standard deviation" in written(result, tmp_path)[0]
    for model in result["models"]:
        model["seeds"] = dict(list(model["seeds"].items())[:1])
    for text in written(result, tmp_path):
        assert "Accuracy is that of one seed." in text
        assert "deviation" not in text and "first seed" not in text


def test_bars_are_told_of_where_accuracy_is_drawn(result):
    for model in result["models"]:
        model["metrics"] = {"auc": 0.9}
    full = complete_result({**result, "chosen_by": {"metric": "auc", "mode": "max"}})
    assert "Bars are" not in render_page(full)


@pytest.mark.parametrize("part", ["", "test", "validation"])
def test_samples_are_called_by_the_part_that_was_measured(result, tmp_path, part):
    for model in result["models"]:
        model["samples"] = 300
    for text in written({**result, "part": part} if part else result, tmp_path):
        assert f"number of {part} samples".replace("  ", " ") in text
        assert ("test samples" in text) == (part == "test")


def test_of_a_model_without_a_figure_nothing_was_measured(result, tmp_path):
    for seed in by_key(result, "pruned")["seeds"].values():
        seed["accuracy"] = None
    for text in (*written(result, tmp_path), format_table(result)):
        assert "| Keras model |" not in text and ">Keras model<" not in text
        assert "(Keras model)" not in text
    by_key(result, "pruned")["metrics"] = {"auc": 0.9}
    assert ">Keras model<" in written(result, tmp_path)[0]
