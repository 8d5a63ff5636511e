import shlex
from types import SimpleNamespace

import numpy as np
import pytest

from keras_kd.cli.preprocessing import Preprocessing
from keras_kd.cli.sources import open_source
from keras_kd.cli.task_data import (
    batches,
    calibration_order,
    check_classes,
    split_indices,
    training_notes,
    training_of,
    warn_of_training_data,
)


def test_split_is_a_partition_that_the_seed_fixes():
    train, held_out = split_indices(50, 0.2, seed=3)
    assert len(held_out) == 10
    assert sorted([*train, *held_out]) == list(range(50))
    again = split_indices(50, 0.2, seed=3)
    assert (again[0] == train).all()
    assert (split_indices(50, 0.2, seed=4)[1] != held_out).any()
    assert len(split_indices(50, 0.0, seed=0)[1]) == 0


@pytest.mark.parametrize(("count", "part"), [(50, 1.0), (50, -0.1), (3, 0.01)])
def test_split_that_leaves_nothing(count, part):
    with pytest.raises(ValueError, match="--validation-split"):
        split_indices(count, part, 0)


def test_batches_are_the_chosen_examples(work):
    source = open_source("test.npz")
    data = batches(source, np.array([4, 1, 7]), Preprocessing(255.0, 0.0, (8, 8, 1)), 2)
    x, y = zip(*data, strict=True)
    assert [len(part) for part in y] == [2, 1]
    np.testing.assert_allclose(np.concatenate(x), source.x[[4, 1, 7]] / 255.0, atol=1e-6)
    assert np.concatenate(y).tolist() == source.labels[[4, 1, 7]].tolist()


def test_shuffled_batches_change_with_the_pass_and_not_with_the_run(work):
    source = open_source("test.npz")

    def labels():
        made = Preprocessing(255.0, 0.0, (8, 8, 1))
        data = batches(source, np.arange(30), made, 30, shuffle_seed=1)
        return [next(iter(data))[0].numpy().sum((1, 2, 3)) for _ in range(2)]

    first, second = labels()
    assert (first != second).any()
    assert sorted(first) == sorted(second)
    again = labels()
    assert (again[0] == first).all()
    assert (again[1] == second).all()


def test_shapes_and_classes_that_do_not_fit(work):
    source = open_source("test.npz")
    with pytest.raises(
        ValueError, match=r"examples of shape \(8, 8, 1\), .* inputs of shape \(5,\)"
    ):
        batches(source, None, Preprocessing(1.0, 0.0, (5,)), 2)
    with pytest.raises(ValueError, match=r"3 classes \(cat, dog, fish\), but 'm' has 10"):
        check_classes(source, 10, "m")
    check_classes(source, 3, "m")
    with pytest.raises(ValueError, match=r"trained on the classes dog, cat, fish, but"):
        check_classes(source, None, "m", ["dog", "cat", "fish"])
    check_classes(source, None, "m", ["cat", "dog", "fish"])


@pytest.mark.parametrize(
    ("training", "text", "split", "seen"),
    [
        ({}, "a.npz", None, 9),
        ({"validation_data": "b.npz"}, "a.npz", None, 10),
        ({}, "b.npz", None, 0),
        ({"data": "digits"}, "digits", "train", 9),
        ({"data": "digits"}, "digits:train", "train", 9),
        ({"data": "digits"}, "digits", "test", 0),  # which `measure` reads
        ({"data": "digits:test"}, "digits", "test", 9),
    ],
)
def test_training_data_is_told(recwarn, training, text, split, seen):
    settings = {"data": "a.npz", "validation_data": None, "validation_split": 0.1, "seed": 3}
    notes = training_notes({"trained_on": [training_of({**settings, **training})], "teacher": "t"})
    source = SimpleNamespace(text=text, split=split, count=10)
    assert warn_of_training_data("m.keras", notes, source, None, settings) == seen
    said = " ".join(str(warning.message) for warning in recwarn)
    assert f"'m.keras' was trained on {seen} of the 10 examples" in said if seen else not said
    assert ("--validation-split 0.1 --seed 3" in said) is (seen == 9)


@pytest.mark.parametrize("indices", [None, np.arange(10)])
def test_the_advice_names_options_that_its_command_has(recwarn, parse_command, indices):
    settings = {"data": "a b.npz", "validation_data": None, "validation_split": 0.2, "seed": 3}
    notes = {"trained_on": [training_of(settings)]}
    source = SimpleNamespace(text="a b.npz", split=None, count=10)
    warn_of_training_data("m.keras", notes, source, indices, settings)
    said = str(recwarn.pop().message)
    if indices is None:
        words = shlex.split(said.split("`")[1])
        assert words[0] == "keras-kd"
        advised = parse_command(*words[1:])
        assert {name: advised[name] for name in settings} == settings
        assert advised["part"] == "validation"
    else:  # by the command's own options
        assert said.endswith("--validation-split 0.2 --seed 3 is what was held out.")


@pytest.mark.parametrize("part", [0.1, 0.5])
def test_no_held_out_example_calibrates(part):
    settings = {"data": "a.npz", "validation_data": None, "validation_split": part, "seed": 3}
    notes = {"trained_on": [training_of(settings)]}
    source = SimpleNamespace(text="a.npz", split=None, count=1000)
    train, held_out = split_indices(1000, part, 3)
    order = calibration_order(notes, source)
    assert sorted(order) == sorted(train) and not set(order[:50]) & set(held_out)
    other = SimpleNamespace(text="b.npz", split=None, count=1000)
    assert sorted(calibration_order(notes, other)) == list(range(1000))
    # Nor those that `measure --part validation` reads without notes.
    assert len(set(calibration_order({}, other)[:100]) & set(split_indices(1000, 0.1, 0)[1])) < 30


def test_numbers_that_are_scaled_already(work):
    pixels = open_source("test.npz").x
    made = Preprocessing(255.0, 0.0, (8, 8, 1))
    for name, x in (("scaled", pixels / 255.0), ("floats", pixels.astype("float32"))):
        np.savez(f"{name}.npz", x=x, y=np.zeros(len(x)))
    batches(open_source("floats.npz"), None, made, 8)
    scaled = open_source("scaled.npz")
    with pytest.raises(ValueError, match=r"'scaled.npz' holds numbers up to .* scaled twice"):
        batches(scaled, None, made, 8)
    batches(scaled, None, Preprocessing(1.0, 0.0, (8, 8, 1)), 8)
