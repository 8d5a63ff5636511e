"""The ways to distil that the field names: each trains a student, and it learns.

The teachers are small models whose weights are set to a rule; the data follows the same rule, so
that a student can be measured on new examples.
"""

import keras
import numpy as np
import pytest

import keras_kd as kd

SparseCE = keras.losses.SparseCategoricalCrossentropy
FEATURES, CLASSES = 6, 3


def rule(outputs=CLASSES, seed=7):
    return np.random.default_rng(seed).normal(size=(FEATURES, outputs)).astype("float32")


def inputs(count, seed):
    return np.random.default_rng(seed).normal(size=(count, FEATURES)).astype("float32")


def linear(weights, name="teacher"):
    """Return a model that computes `x @ weights`."""
    x = keras.Input((len(weights),))
    model = keras.Model(x, keras.layers.Dense(weights.shape[1], use_bias=False)(x), name=name)
    model.set_weights([weights])
    return model


def network(outputs=CLASSES, name="student"):
    x = keras.Input((FEATURES,))
    hidden = keras.layers.Dense(16, activation="relu")(x)
    return keras.Model(x, keras.layers.Dense(outputs)(hidden), name=name)


def accuracy(model, x, y):
    return np.mean(np.argmax(model.predict(x, verbose=0), -1) == y)


def distil(teacher, student, loss, x, y=None, *, w=0.5, label_loss=None, epochs=15, **fit):
    distiller = kd.Distiller(teacher, student, loss, student_loss_weight=w)
    distiller.compile(keras.optimizers.Adam(0.02), loss=label_loss)
    return distiller.fit(x, y, batch_size=64, epochs=epochs, verbose=0, **fit).history


# Soft labels


def test_soft_labels_without_ground_truth():
    weights, student = rule(), network()
    x_new = inputs(500, seed=1)
    y_new = np.argmax(x_new @ weights, -1)
    before = accuracy(student, x_new, y_new)
    distil(linear(3 * weights), student, kd.losses.KLDivergence(2.0), inputs(512, seed=0), w=0.0)
    assert before < 0.6
    assert accuracy(student, x_new, y_new) > 0.93


@pytest.mark.promise
def test_soft_labels_with_ground_truth_that_is_partly_wrong():
    weights = rule()
    x, x_new = inputs(192, seed=0), inputs(500, seed=1)
    y, y_new = (np.argmax(data @ weights, -1) for data in (x, x_new))
    wrong = np.random.default_rng(2).random(len(y)) < 0.4
    y = np.where(wrong, (y + 1) % CLASSES, y)
    alone, taught = network(), network()
    taught.set_weights(alone.get_weights())
    alone.compile(keras.optimizers.Adam(0.02), SparseCE(from_logits=True))
    alone.fit(x, y, batch_size=64, epochs=20, verbose=0)
    distil(
        linear(3 * weights),
        taught,
        kd.losses.KLDivergence(2.0),
        x,
        y,
        w=0.1,
        label_loss=SparseCE(from_logits=True),
        epochs=20,
    )
    assert accuracy(taught, x_new, y_new) > 0.9
    assert accuracy(taught, x_new, y_new) > accuracy(alone, x_new, y_new) + 0.15


def test_soft_labels_that_were_stored():
    weights, student = rule(), network()
    x, x_new = inputs(512, seed=0), inputs(500, seed=1)
    stored = (3 * x @ weights).astype("float32")
    # What the model itself would say is another rule: only the stored answers can teach this one.
    other = linear(rule(seed=8))
    distil(other, student, kd.losses.KLDivergence(2.0), kd.teachers.TaughtInputs(x, stored), w=0.0)
    assert accuracy(student, x_new, np.argmax(x_new @ weights, -1)) > 0.93


# A student that knows something already


@pytest.mark.promise
def test_a_student_pretrained_on_other_data():
    weights, student, untrained = rule(), network(), network()
    other = weights + 0.5 * rule(seed=9)
    x = inputs(512, seed=0)
    student.compile(keras.optimizers.Adam(0.02), SparseCE(from_logits=True))
    student.fit(x, np.argmax(x @ other, -1), batch_size=64, epochs=3, verbose=0)

    x_new = inputs(500, seed=1)
    y_new = np.argmax(x_new @ weights, -1)
    before = accuracy(student, x_new, y_new)
    histories = [
        distil(linear(3 * weights), model, kd.losses.KLDivergence(2.0), x, w=0.0)
        for model in (student, untrained)
    ]
    assert before < 0.85
    assert accuracy(student, x_new, y_new) > 0.93
    # It starts from what it knows, not from nothing.
    assert histories[0]["loss"][0] < 0.8 * histories[1]["loss"][0]


# Other outputs than one class an example


@pytest.mark.promise
def test_regression_passes_a_teacher_that_is_wrong():
    weights, student = rule(2), network(2)
    x, x_new = inputs(512, seed=0), inputs(500, seed=1)
    noise = np.random.default_rng(3).normal(scale=0.3, size=weights.shape).astype("float32")
    teacher = linear(weights + noise)

    def error(model):
        return np.mean(np.square(model.predict(x_new, verbose=0) - x_new @ weights))

    before = error(student)
    distil(teacher, student, kd.losses.BoundedRegression(0.1), x, x @ weights, label_loss="mse")
    assert error(student) < 0.1 * before
    assert error(student) < error(teacher)


def test_multi_label():
    weights, student = rule(4), network(4)
    x, x_new = inputs(512, seed=0), inputs(500, seed=1)
    y, y_new = ((data @ weights > 0).astype("float32") for data in (x, x_new))

    def right():
        return np.mean((student.predict(x_new, verbose=0) > 0) == y_new)

    before = right()
    distil(
        linear(3 * weights),
        student,
        kd.losses.BinaryKLDivergence(temperature=2.0),
        x,
        y,
        w=0.1,
        label_loss=keras.losses.BinaryCrossentropy(from_logits=True),
    )
    assert before < 0.65
    assert right() > 0.93


@pytest.mark.promise
def test_segmentation_by_pixel():
    """A pixel's class is the channel that is brightest around it."""
    x = keras.Input((8, 8, 3))
    teacher = keras.Model(x, keras.layers.Conv2D(3, 3, padding="same", use_bias=False)(x))
    teacher.set_weights([np.tile(np.eye(3, dtype="float32"), (3, 3, 1, 1))])
    x = keras.Input((8, 8, 3))
    hidden = keras.layers.Conv2D(8, 3, padding="same", activation="relu")(x)
    student = keras.Model(x, keras.layers.Conv2D(3, 1)(hidden))

    rng = np.random.default_rng(0)
    images, new = (rng.normal(size=(n, 8, 8, 3)).astype("float32") for n in (256, 64))
    masks, new_masks = (np.argmax(teacher.predict(data, verbose=0), -1) for data in (images, new))
    before = accuracy(student, new, new_masks)
    distil(
        teacher,
        student,
        kd.losses.KLDivergence(2.0),
        images,
        masks,
        w=0.1,
        label_loss=SparseCE(from_logits=True),
    )
    assert before < 0.6
    assert accuracy(student, new, new_masks) > 0.9


def tagger(width, vocabulary=30):
    tokens = keras.Input((10,), dtype="int32")
    x = keras.layers.Embedding(vocabulary, width, mask_zero=True, name="embedding")(tokens)
    return keras.Model(tokens, keras.layers.Dense(CLASSES, use_bias=False, name="tags")(x))


def padded_sentences(count, seed):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(1, 30, (count, 10))
    tokens[np.arange(10) >= rng.integers(2, 11, (count, 1))] = 0
    return tokens.astype("int32")


@pytest.mark.promise
def test_token_classification_with_padding():
    tokens, new = padded_sentences(256, 0), padded_sentences(64, 1)
    teacher, student = tagger(CLASSES), tagger(8)
    table = np.eye(CLASSES, dtype="float32")[np.arange(30) % CLASSES]
    table[0] = [100.0, 0.0, 0.0]  # What it says of padding is wild, and must not count.
    teacher.set_weights([table, 5 * np.eye(CLASSES, dtype="float32")])
    padding = student.get_layer("embedding").get_weights()[0][0]

    t, s = (
        np.asarray(model.predict(tokens, verbose=0), "float64") / 2.0
        for model in (teacher, student)
    )
    t, s = (out - np.log(np.exp(out).sum(-1, keepdims=True)) for out in (t, s))
    expected = 4 * (np.exp(t) * (t - s)).sum(-1)[tokens > 0].mean()

    distiller = kd.Distiller(teacher, student, kd.losses.KLDivergence(2.0), student_loss_weight=0.1)
    distiller.compile(
        keras.optimizers.Adam(0.02), SparseCE(from_logits=True), evaluate_distillation=True
    )
    first = distiller.evaluate(
        tokens, tokens % CLASSES, batch_size=256, verbose=0, return_dict=True
    )
    assert first["distillation_loss"] == pytest.approx(expected, rel=1e-4)

    def right():
        tags = np.argmax(student.predict(new, verbose=0), -1)
        return np.mean((tags == new % CLASSES)[new > 0])

    before = right()
    distiller.fit(tokens, tokens % CLASSES, batch_size=64, epochs=15, verbose=0)
    assert before < 0.6
    assert right() > 0.95
    np.testing.assert_array_equal(student.get_layer("embedding").get_weights()[0][0], padding)


@pytest.mark.promise
def test_several_outputs_with_several_tasks():
    kinds, sizes = rule(), rule(1, seed=8)

    def two_headed(hidden):
        x = keras.Input((FEATURES,))
        shared = keras.layers.Dense(hidden, activation="relu")(x) if hidden else x
        outputs = {
            "kind": keras.layers.Dense(CLASSES, use_bias=False, name="kind")(shared),
            "size": keras.layers.Dense(1, use_bias=False, name="size")(shared),
        }
        return keras.Model(x, outputs)

    teacher, student = two_headed(0), two_headed(16)
    teacher.get_layer("kind").set_weights([3 * kinds])
    teacher.get_layer("size").set_weights([sizes])
    x, x_new = inputs(512, seed=0), inputs(500, seed=1)
    distiller = kd.Distiller(
        teacher,
        student,
        {"kind": kd.losses.KLDivergence(2.0), "size": kd.losses.BoundedRegression()},
        student_loss_weight=0.3,
    )
    distiller.compile(
        keras.optimizers.Adam(0.02), loss={"kind": SparseCE(from_logits=True), "size": "mse"}
    )

    def measured():
        outputs = student.predict(x_new, verbose=0)
        right = np.mean(np.argmax(outputs["kind"], -1) == np.argmax(x_new @ kinds, -1))
        return right, np.mean(np.square(outputs["size"] - x_new @ sizes))

    right_before, error_before = measured()
    labels = {"kind": np.argmax(x @ kinds, -1), "size": x @ sizes}
    distiller.fit(x, labels, batch_size=64, epochs=15, verbose=0)
    right, error = measured()
    assert right_before < 0.6
    assert right > 0.9
    assert error < 0.1 * error_before


# Class imbalance


def rare_class(count, seed):
    """Return examples of which few are of class 1, overlapping with class 0; a cautious teacher."""
    rng = np.random.default_rng(seed)
    y = (rng.random(count) < 0.05).astype("int64")
    x = rng.normal(size=(count, FEATURES)).astype("float32")
    x[:, 0] += 2.0 * y
    return x, y


def cautious_teacher():
    """Return the teacher that gives the exact log odds of class 1: `2 x - 2 + log(1 / 19)`."""
    x = keras.Input((FEATURES,))
    teacher = keras.Model(x, keras.layers.Dense(2)(x))
    kernel = np.zeros((FEATURES, 2), "float32")
    kernel[0, 1] = 2.0
    teacher.set_weights([kernel, np.float32([0.0, -2.0 + np.log(0.05 / 0.95)])])
    return teacher


def recall(model, x, y):
    return np.mean(np.argmax(model.predict(x, verbose=0), -1)[y == 1] == 1)


def balanced_accuracy(model, x, y):
    predicted = np.argmax(model.predict(x, verbose=0), -1)
    return np.mean([np.mean(predicted[y == label] == label) for label in (0, 1)])


@pytest.mark.promise
def test_class_weight_helps_a_rare_class():
    (x, y), (x_new, y_new) = rare_class(1024, 0), rare_class(4000, 1)
    plain, weighted = network(2), network(2)
    weighted.set_weights(plain.get_weights())
    for student, class_weight in ((plain, None), (weighted, {0: 1.0, 1: 19.0})):
        distil(
            cautious_teacher(),
            student,
            kd.losses.KLDivergence(1.0),
            x,
            y,
            w=0.7,
            label_loss=SparseCE(from_logits=True),
            class_weight=class_weight,
            epochs=8,
        )
    assert recall(weighted, x_new, y_new) > recall(plain, x_new, y_new) + 0.2
    assert balanced_accuracy(weighted, x_new, y_new) > balanced_accuracy(plain, x_new, y_new) + 0.1


@pytest.mark.promise
def test_weights_by_class_of_the_distillation_alone():
    (x, y), (x_new, y_new) = rare_class(1024, 0), rare_class(4000, 1)
    everywhere, student = network(2), network(2)
    student.set_weights(everywhere.get_weights())
    # Class 0 is not taught: the student must follow the labels there, the teacher on class 1.
    x_any = keras.Input((FEATURES,))
    always_rare = keras.Model(x_any, keras.layers.Dense(2)(x_any))
    always_rare.set_weights([np.zeros((FEATURES, 2), "float32"), np.float32([-4.0, 4.0])])
    for model, loss in (
        (everywhere, kd.losses.KLDivergence(1.0)),
        (student, kd.losses.KLDivergence(1.0, class_weight={0: 0.0, 1: 1.0})),
    ):
        distil(
            always_rare,
            model,
            loss,
            x,
            y,
            w=0.3,
            label_loss=SparseCE(from_logits=True),
            epochs=8,
        )
    # Where every class is taught, the teacher that always says 1 wins.
    assert recall(everywhere, x_new, y_new) > 0.99
    assert balanced_accuracy(everywhere, x_new, y_new) < 0.6
    assert balanced_accuracy(student, x_new, y_new) > 0.7
