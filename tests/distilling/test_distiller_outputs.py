"""Models with several outputs, and teachers whose inputs and outputs are not the student's."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_kd as kd
from keras_kd.losses.dkd import DKD

SparseCE = keras.losses.SparseCategoricalCrossentropy
KL = kd.losses.KLDivergence


def log_softmax(x):
    x = np.asarray(x, "float64")
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def kl(teacher, student, temperature=4.0):
    t, s = (log_softmax(np.asarray(x) / temperature) for x in (teacher, student))
    return temperature**2 * (np.exp(t) * (t - s)).sum(-1)


def cross_entropy(labels, logits):
    return -log_softmax(logits)[np.arange(len(labels)), labels]


def several(width, arrange, name, ends=(None, None, None)):
    inputs = keras.Input((5,))
    x = layers.Dense(width, name="shared")(inputs)
    outputs = [
        layers.Dense(size, activation=end, name=f"out_{part}")(x)
        for part, size, end in zip("bca", (4, 2, 3), ends, strict=True)
    ]
    return keras.Model(inputs, arrange(*outputs), name=name)


# How a model arranges the outputs b, c, a; where b stands in it; and labels in the same way.
ARRANGEMENTS = {
    "list": lambda b, c, a: [b, c, a],
    "tuple": lambda b, c, a: (b, c, a),
    "dict": lambda b, c, a: {"b": b, "c": c, "a": a},
    "nested": lambda b, c, a: {"pair": [b, c], "a": a},
}


def examples(count=16):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(count, 5)).astype("float32")
    return x, [rng.integers(0, size, count) for size in (4, 2, 3)]


def fitted(distiller, x, y, loss, **compile_and_fit):
    fit = {k: compile_and_fit.pop(k) for k in ("sample_weight",) if k in compile_and_fit}
    distiller.compile(keras.optimizers.SGD(0.0), loss, **compile_and_fit)
    return distiller.fit(x, y, batch_size=16, verbose=0, shuffle=False, **fit).history


@pytest.mark.fast_cases("dict", "nested")
@pytest.mark.parametrize("arrange", ARRANGEMENTS.values(), ids=ARRANGEMENTS)
def test_a_loss_per_output_with_none_to_skip(arrange):
    teacher, student = several(6, arrange, "t"), several(4, arrange, "s")
    x, labels = examples()
    losses = arrange(KL(2.0), None, KL(3.0))
    ce = arrange(*[SparseCE(from_logits=True)] * 3)
    logs = fitted(kd.Distiller(teacher, student, [losses]), x, arrange(*labels), ce)
    flat = {}
    for model in (teacher, student):
        outputs = keras.Model(
            model.input, [model.get_layer(f"out_{part}").output for part in "bca"]
        )(x)
        flat[model.name] = [output.numpy() for output in outputs]
    expected = kl(flat["t"][0], flat["s"][0], 2.0) + kl(flat["t"][2], flat["s"][2], 3.0)
    assert logs["distillation_loss"][0] == pytest.approx(expected.mean(), rel=1e-4)
    student_loss = sum(
        cross_entropy(y, logits).mean() for y, logits in zip(labels, flat["s"], strict=True)
    )
    assert logs["student_loss"][0] == pytest.approx(student_loss, rel=1e-4)


@pytest.mark.parametrize("arrange", [ARRANGEMENTS["list"], ARRANGEMENTS["tuple"]])
def test_losses_labels_weights_and_metrics_by_name_where_outputs_are_a_list(arrange):
    teacher, student = several(6, arrange, "t"), several(4, arrange, "s")
    x, labels = examples()
    names = ["out_b", "out_c", "out_a"]
    distiller = kd.Distiller(teacher, student, [{"out_a": DKD(), "out_b": KL(2.0)}])
    logs = fitted(
        distiller,
        x,
        dict(zip(names, labels, strict=True)),
        dict.fromkeys(names, "sparse_categorical_crossentropy"),
        loss_weights={"out_a": 1.0, "out_b": 10.0, "out_c": 100.0},
        metrics={"out_a": "accuracy"},
    )
    logits = [output.numpy() for output in student(x)]
    taught = [output.numpy() for output in teacher(x)]
    student_loss = sum(
        weight * cross_entropy(y, z).mean()
        for weight, y, z in zip((10.0, 100.0, 1.0), labels, logits, strict=True)
    )
    assert logs["student_loss"][0] == pytest.approx(student_loss, rel=1e-4)
    assert logs["out_a_accuracy"][0] == np.mean(logits[2].argmax(-1) == labels[2])
    on_a = distiller.distillation_losses[0][2](taught[2], logits[2], labels=labels[2])
    expected = kl(taught[0], logits[0], 2.0).mean() + float(on_a)
    assert logs["distillation_loss"][0] == pytest.approx(expected, rel=1e-4)


def test_sample_weights_by_output():
    arrange = ARRANGEMENTS["dict"]
    teacher, student = several(6, arrange, "t"), several(4, arrange, "s")
    x, labels = examples()
    ones, rising = np.ones(16, "float32"), np.linspace(0, 2, 16).astype("float32")
    expected = (rising * kl(teacher(x)["a"], student(x)["a"])).mean()
    logs = fitted(
        kd.Distiller(teacher, student, [{"a": KL()}, kd.Hint("shared", "shared")], [1.0, 0.0]),
        x,
        arrange(*labels),
        arrange(*[SparseCE(from_logits=True)] * 3),
        sample_weight={"a": rising, "b": ones, "c": ones},
    )
    assert logs["distillation_loss"][0] == pytest.approx(expected, rel=1e-4)


def test_a_named_cross_entropy_is_read_output_by_output():
    arrange = ARRANGEMENTS["list"]
    teacher, student = (
        several(w, arrange, n, (None, "softmax", None)) for w, n in ((6, "t"), (4, "s"))
    )
    x, labels = examples()
    logs = fitted(
        kd.Distiller(teacher, student, [[KL(), None, None]]),
        x,
        labels,
        "sparse_categorical_crossentropy",
    )
    b, c, a = (output.numpy() for output in student(x))
    expected = (
        cross_entropy(labels[0], b)
        + cross_entropy(labels[1], np.log(c))
        + cross_entropy(labels[2], a)
    )
    assert logs["student_loss"][0] == pytest.approx(expected.mean(), rel=1e-4)


def test_only_distilled_outputs_need_logits_and_equal_shapes():
    def with_other_c(b, c, a):
        return [b, layers.Dense(9, activation="softmax")(c), a]

    teacher = several(6, with_other_c, "t")
    student = several(4, ARRANGEMENTS["list"], "s", (None, "softmax", None))
    kd.Distiller(teacher, student, [[KL(), None, KL()]])
    with pytest.raises(ValueError, match="equal shapes"):
        kd.Distiller(teacher, student, [[None, KL(from_logits=False), None]])
    with pytest.raises(ValueError, match="ends in softmax"):
        kd.Distiller(teacher, student, [[None, KL(), None]])


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        (KL(), "Give each output a separate loss"),
        ([{"out_x": KL()}], r"names the output 'out_x'.*'out_b', 'out_c', 'out_a'"),
        ([[None, None, None, KL()]], "for the output 3"),
        (
            [[kd.Hint("shared", "shared"), None, None]],
            "a separate element of `distillation_losses`",
        ),
    ],
)
def test_losses_that_meet_no_output_are_refused(losses, message):
    teacher, student = (several(w, ARRANGEMENTS["list"], n) for w, n in ((6, "t"), (4, "s")))
    with pytest.raises(ValueError, match=message):
        kd.Distiller(teacher, student, losses)


def test_labels_out_of_range_are_found_whatever_the_order_of_the_names():
    student = several(4, ARRANGEMENTS["list"], "s")
    distiller = kd.Distiller(several(6, ARRANGEMENTS["list"], "t"), student, [[KL(), None, None]])
    x, (b, c, a) = examples()
    names = {"out_a": a, "out_b": b, "out_c": c}
    loss = dict.fromkeys(names, SparseCE(from_logits=True))
    fitted(distiller, x, names, loss)
    names["out_c"] = names["out_c"] + 1
    with pytest.raises(ValueError, match=r"0 \.\.\. 1.*holds 2"):
        fitted(distiller, x, names, loss)


# Teachers of other inputs and outputs


def single(width, classes=3, size=5, name="single", activation=None):
    inputs = keras.Input((size,))
    x = layers.Dense(width, name="hidden")(inputs)
    return keras.Model(inputs, layers.Dense(classes, activation=activation)(x), name=name)


@keras.saving.register_keras_serializable(package="test_distiller_outputs")
def doubled(x):
    return keras.ops.concatenate([x, x], axis=-1)


def test_teacher_inputs_with_a_hint():
    teacher, student = single(6, size=10, name="t"), single(4, name="s")
    x, (_, _, y) = examples()
    hint = kd.Hint("hidden", "hidden")
    distiller = kd.Distiller(teacher, student, [KL(), hint], teacher_inputs=doubled)
    logs = fitted(distiller, x, y, SparseCE(from_logits=True))
    twice = np.concatenate([x, x], -1)
    assert logs["kl_divergence"][0] == pytest.approx(
        kl(teacher(twice), student(x)).mean(), rel=1e-4
    )
    hidden = keras.Model(teacher.input, teacher.get_layer("hidden").output)(twice).numpy()
    own = keras.Model(student.input, student.get_layer("hidden").output)(x).numpy()
    (projection,) = hint.layers
    projected = own @ projection.kernel.numpy() + projection.bias.numpy()
    assert logs[hint.name][0] == pytest.approx(np.mean((hidden - projected) ** 2), rel=1e-4)
    assert distiller.teacher is teacher


def test_teacher_outputs_of_another_structure():
    teacher = several(6, ARRANGEMENTS["dict"], "t")
    student = single(4, classes=7, name="s")
    x, _ = examples()

    def joined(outputs):
        return keras.ops.concatenate([outputs["b"], outputs["a"]], axis=-1)

    distiller = kd.Distiller(teacher, student, KL(), None, 0.0, teacher_outputs=joined)
    distiller.compile(keras.optimizers.SGD(0.0))
    logs = distiller.fit(x, batch_size=16, verbose=0).history
    expected = kl(joined(teacher(x)), student(x)).mean()
    assert logs["distillation_loss"][0] == pytest.approx(expected, rel=1e-4)


def test_a_layer_among_the_adapters_is_neither_trained_nor_saved():
    teacher, student = single(6, size=10), single(4)
    dense = layers.Dense(10)
    distiller = kd.Distiller(teacher, student, KL(), teacher_inputs=dense)
    fitted(distiller, *examples()[:1], examples()[1][2], SparseCE(from_logits=True))
    ours = {id(variable) for variable in distiller.variables}
    assert dense.built
    assert not ours & {id(variable) for variable in dense.variables}


def test_registered_adapters_are_saved(tmp_path):
    teacher, student = single(6, size=10), single(4)
    distiller = kd.Distiller(teacher, student, KL(), teacher_inputs=doubled)
    x, (_, _, y) = examples()
    fitted(distiller, x, y, SparseCE(from_logits=True))
    distiller.save(tmp_path / "distiller.keras")
    loaded = keras.models.load_model(tmp_path / "distiller.keras")
    loaded.teacher = teacher
    logs = [model.fit(x, y, verbose=0).history["loss"][0] for model in (distiller, loaded)]
    assert logs[0] == pytest.approx(logs[1], rel=1e-5)


def test_inputs_of_unequal_shape_are_refused():
    with pytest.raises(ValueError, match=r"\(10,\).*\(5,\).*teacher_inputs="):
        kd.Distiller(single(6, size=10), single(4), KL())


def test_adapted_outputs_of_unequal_shape_are_refused():
    with pytest.raises(ValueError, match=r"\(6,\).*\(3,\).*equal shapes"):
        kd.Distiller(single(6), single(4), KL(), teacher_outputs=doubled)


def test_classes_picked_from_a_softmax_are_refused_on_the_first_batch():
    teacher = single(6, classes=5, activation="softmax")
    distiller = kd.Distiller(teacher, single(4), KL(), teacher_outputs=lambda p: p[:, :3])
    with pytest.raises(ValueError, match="teacher ends in softmax"):
        fitted(distiller, *examples()[:1], examples()[1][2], SparseCE(from_logits=True))


def test_softmax_turned_into_logits_by_teacher_outputs_is_accepted():
    teacher, student = single(6, activation="softmax"), single(4)
    x, (_, _, y) = examples()
    distiller = kd.Distiller(teacher, student, KL(), teacher_outputs=keras.ops.log)
    logs = fitted(distiller, x, y, SparseCE(from_logits=True))
    expected = kl(np.log(teacher(x).numpy()), student(x)).mean()
    assert logs["distillation_loss"][0] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("argument", ["teacher_inputs", "teacher_outputs"])
def test_adapters_that_cannot_be_called_are_refused(argument):
    with pytest.raises(ValueError, match=f"`{argument}` must be a function or a layer"):
        kd.Distiller(single(6), single(4), KL(), **{argument: 3})


@pytest.mark.parametrize("data", ["arrays", "dataset"])
def test_weights_of_samples_weigh_hints_too(data):
    x, labels = examples()
    y, weights = dict(zip("bca", labels, strict=True)), np.zeros(16, "float32")
    models = (several(4, ARRANGEMENTS["dict"], name) for name in ("teacher", "student"))
    losses = [{"a": KL(), "b": None, "c": None}, kd.Hint("shared", "shared")]
    distiller = kd.Distiller(*models, losses)
    distiller.compile(keras.optimizers.SGD(0.0), {name: SparseCE(from_logits=True) for name in y})
    if data == "arrays":
        history = distiller.fit(x, y, sample_weight=weights, verbose=0).history
    else:
        batches = tf.data.Dataset.from_tensor_slices((x, y, weights)).batch(16)
        history = distiller.fit(batches, verbose=0).history
    assert history["loss"] == history["distillation_loss"] == [0.0]
