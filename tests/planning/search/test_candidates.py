import keras
import pytest
from keras import layers

import keras_kd as kd
from keras_kd.models.layers import hash_of_weights
from keras_kd.planning.search.candidates import Candidate, folder_name, make_space, seed_of


def space(teacher, students=None, **changed):
    given = {
        "widths": (0.5, 0.25, 0.5), "depths": (1.0,), "teachings": None, "stages": {"none": []},
        "formats": ("int8",), "epochs": 9, "zipped": False, "seed": 0, **changed,
    }  # fmt: skip
    return make_space(teacher, students, **given)


def build(width, depth):
    inputs = keras.Input((8, 8, 1))
    x = layers.Flatten()(inputs)
    for _ in range(int(depth)):
        x = layers.Dense(int(16 * width), "relu")(x)
    return keras.Model(inputs, layers.Dense(3)(x))


def test_shrunk_students(given):
    found = space(given["teacher"], depths=(1.0, 0.5))
    # A teacher without residual blocks has no smaller depth.
    assert list(found.students) == ["width 0.5, depth 1", "width 0.25, depth 1"]
    assert [make().get_layer("conv").filters for make in found.students.values()] == [8, 4]
    assert len(found.skipped) == 2 and "'width 0.5, depth 0.5' is left out" in found.skipped[0]
    with pytest.raises(ValueError, match="No student can be made"):
        space(given["teacher"], depths=(0.5,))


def test_students_of_a_function_have_the_same_weights_every_time():
    found = space(build(1, 1), build, widths=(1, 0.5), depths=(1, 2))
    assert len(found.students) == 4
    for make in found.students.values():
        first = hash_of_weights(make())
        keras.utils.set_random_seed(7)
        assert hash_of_weights(make()) == first
    other = space(build(1, 1), build, widths=(1, 0.5), depths=(1, 2), seed=1)
    name = "width 1, depth 1"
    assert hash_of_weights(other.students[name]()) != hash_of_weights(found.students[name]())


def test_given_students_are_left_as_they_are(given):
    model = build(1, 1)
    before = hash_of_weights(model)
    copied = space(given["teacher"], [model]).students[model.name]()
    copied.set_weights([weight + 1 for weight in copied.get_weights()])
    assert hash_of_weights(model) == before


def test_a_format_belongs_to_the_stages(given):
    stages = {
        "none": [],
        "8": [kd.QuantizeAware()],
        "4": [kd.Prune(), kd.QuantizeAware(weight_bits=4)],
        "16": [kd.QuantizeAware(activation_bits=16)],
    }
    found = space(given["teacher"], stages=stages, formats=("int8", "float16"))
    assert found.pairs == [
        ("none", "int8"), ("none", "float16"), ("8", "int8"), ("4", "int4"), ("16", "int16x8"),
    ]  # fmt: skip
    assert len(found.candidates("any")) == 10


def test_defaults(given):
    found = space(given["teacher"], stages=None, formats=("int8", "dynamic"))
    assert list(found.teachings) == ["T 1, labels 0.1", "T 4, labels 0.1", "T 4, labels 0.5"]
    assert {"no stage", "8 bits trained"} <= set(found.stages)
    assert not any("pruned" in name for name in found.stages)
    zipped = space(given["teacher"], stages=None, zipped=True)
    assert "75 % pruned, 8 bits trained" in zipped.stages
    assert [stage.epochs for stage in zipped.stages["8 bits trained"]] == [3]
    # Each distiller has losses of its own.
    losses = [found.distiller_arguments("T 4, labels 0.1")["distillation_losses"] for _ in "ab"]
    assert losses[0] is not losses[1] and losses[0].temperature == 4.0


@pytest.mark.parametrize(
    ("units", "end", "loss", "binary"),
    [
        (3, None, None, False),
        (3, "softmax", "categorical_crossentropy", False),
        (1, None, None, True),
        (3, "sigmoid", None, True),
        (3, None, "binary_crossentropy", True),
        (3, None, keras.losses.BinaryFocalCrossentropy(from_logits=True), True),
    ],
)
def test_units_that_answer_for_themselves_are_taught_so(units, end, loss, binary):
    inputs = keras.Input((4,))
    teacher = keras.Model(inputs, keras.layers.Dense(units, end)(inputs))
    found = space(teacher, widths=(1.0,), teachings=None, loss=loss)
    for way in found.teachings.values():
        kind = kd.losses.BinaryKLDivergence if binary else kd.losses.KLDivergence
        assert type(way["distillation_losses"]) is kind
        assert way["distillation_losses"].from_logits is (end is None)


def test_seeds_and_folders_depend_on_names_alone():
    candidate = Candidate("width 0.5", "T 4", "none", "int8")
    assert candidate.file == "width 0.5 | none | int8"
    assert seed_of(0, "a") == seed_of(0, "a") != seed_of(1, "a")
    assert 0 <= seed_of("x") < 2**31
    assert folder_name(candidate, 3) == folder_name(candidate, 3)
    assert folder_name(candidate, 3).startswith("width-0-5-t-4-none-int8-3-")
    assert folder_name("a b") != folder_name("a-b")


@pytest.mark.parametrize(
    ("changed", "error", "token"),
    [
        ({"stages": [kd.Prune()]}, TypeError, "`stages` must be a dict"),
        ({"stages": {"bad": [kd.QuantizeAware(), kd.Prune()]}}, ValueError, "Prune"),
        ({"teachings": []}, TypeError, "`teachings` must be a dict"),
        ({"formats": ("int7",)}, ValueError, "`formats` must be one of"),
        ({"formats": ()}, ValueError, "`formats` is empty"),
        ({"widths": ()}, ValueError, "`widths` is empty"),
        ({"widths": (1.5,)}, ValueError, "`widths` must be"),
        ({"students": 3}, TypeError, "`students` must be"),
        ({"students": [3]}, TypeError, "`students` must hold"),
        ({"students": lambda width, depth: None}, TypeError, "must return a built"),
        ({"teacher": lambda x: x}, TypeError, "teacher=function"),
    ],
)
def test_errors(given, changed, error, token):
    with pytest.raises(error, match=token):
        space(changed.pop("teacher", given["teacher"]), **changed)


def test_names_of_students_differ(given):
    with pytest.raises(ValueError, match="different names"):
        space(given["teacher"], [given["teacher"], given["teacher"]])
