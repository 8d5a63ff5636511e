from __future__ import annotations

from keras_kd.report import complete_result


def by_key(result, key):
    return next(model for model in result["models"] if model["key"] == key)


def shift(result, key, points):
    for seed in by_key(result, key)["seeds"].values():
        seed["accuracy"] += points / 100


def test_headline(result):
    assert complete_result(result)["headline"] == [
        "Teacher: 94.00 % accuracy, 5.00 MB, 12.0 ms, one seed.",
        "Pruned and int8 is the most accurate student, the smallest, the smallest when zipped and "
        "the fastest: 93.30 % accuracy (0.70 points below the teacher), 50.0 kB (1/100 of its "
        "bytes), 0.310 ms (1/38.7 of its latency), mean of 3 seeds.",
        "The least accurate student is Student alone: 92.00 % accuracy (2.00 points below the "
        "teacher), 200 kB (1/25 of its bytes), 0.620 ms (1/19.4 of its latency), mean of 3 seeds.",
        "Taught by the teacher, the student is 1.20 points above the same student trained alone "
        "(mean of 3 seeds; standard deviation up to 0.20 points).",
        "These were picked from 3 students by the very figures that are shown, which flatters the "
        "picked ones a little.",
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
    by_key(result, "student_alone")["file"]["latency_ms_median"] = 0.33
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
        "Pruned and int8: 93.30 % accuracy (0.70 points below the teacher), 50.0 kB (1/100 of its "
        "bytes), 0.310 ms (1/38.7 of its latency), mean of 3 seeds."
    ]


def test_nothing_was_measured_with_labels(result):
    for model in result["models"]:
        for seed in model["seeds"].values():
            seed["accuracy"] = None
    assert complete_result(result)["headline"] == []
