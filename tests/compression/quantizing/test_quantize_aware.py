import os
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_kd as kd
from keras_kd.compression.compress import compress
from keras_kd.compression.pruning.prune import Prune
from keras_kd.compression.quantizing.quantize_aware import QuantizeAware
from keras_kd.compression.running.compressed_model import load_compressed
from keras_kd.compression.stages.stage import Plan, Stage
from keras_kd.data.taught_inputs import TaughtInputs
from keras_kd.demo.networks import residual_network


def make_distiller(student, hints=(), weight=0.5, loss="labels", metrics=("accuracy",)):
    classes = student.output_shape[-1]
    teacher = residual_network((8, 8, 1), classes, [8], [1], "teacher")
    distiller = kd.Distiller(teacher, student, [kd.losses.KLDivergence(), *hints], None, weight)
    distiller.compile(
        "adam",
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True) if loss else None,
        metrics=list(metrics),
    )
    return distiller


def tflite_run(compressed, folder, x):
    """Export with the trained ranges only, no representative data, and run the file."""
    path = kd.export_tflite(
        compressed, folder / "model.tflite", "int8", integer_io=True, verbose=False
    )
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path))
    interpreter.allocate_tensors()
    given, returned = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    assert given["dtype"] == returned["dtype"] == np.int8
    outputs = []
    for row in x:
        scale, zero = given["quantization"]
        quantized = np.clip(np.round(row[None] / scale + zero), -128, 127).astype(np.int8)
        interpreter.set_tensor(given["index"], quantized)
        interpreter.invoke()
        scale, zero = returned["quantization"]
        outputs.append((interpreter.get_tensor(returned["index"])[0].astype(float) - zero) * scale)
    return np.array(outputs), scale


@pytest.fixture(scope="module")
def compressed(tmp_path_factory):
    from keras_kd.models.layers import leaf_layers

    keras.utils.set_random_seed(0)
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, 96)
    images = generator.normal(0, 0.3, (96, 8, 8, 1)).astype("float32")
    images[np.arange(96), :, labels * 2] += 1.5
    data = tf.data.Dataset.from_tensor_slices((images, labels.astype("int32"))).batch(32)
    student = residual_network((8, 8, 1), 3, [4, 8], [1, 1], "student")
    hint = kd.Hint("block1_1_out", "block1_1_out")
    distiller = make_distiller(student, [hint])
    distiller.fit(data, epochs=3, verbose=0)
    before = [w.copy() for w in student.get_weights()]
    result = compress(
        distiller,
        data,
        validation_data=data,
        stages=[Prune(0.75, epochs=2), QuantizeAware(epochs=2, learning_rate=1e-3)],
        verbose=0,
    )
    unchanged = all(
        np.array_equal(a, b) for a, b in zip(student.get_weights(), before, strict=True)
    )
    assert unchanged and len(leaf_layers(student)) == len(result.layers)
    return result, images, data


@pytest.mark.promise
def test_zeros_survive_in_the_weights(compressed):
    result, _, _ = compressed
    assert result.quantization_aware
    assert result.sparsity == pytest.approx(0.75, abs=0.01)
    for record in result.layers:
        if record.class_name in ("Conv2D", "Dense"):
            size = int(np.prod(record.shapes[0]))
            assert record.sparsity >= 1 - max(1, round(size * 0.25)) / size - 1e-9, record
            assert record.bits == 8
            assert "trained for 8-bit weights" in record.done


def test_every_layer_has_a_record(compressed):
    result, _, _ = compressed
    records = {record.name: record for record in result.layers}
    assert records["stem_bn"].done == ("folded into the layer before it",)
    assert records["stem_conv"].parameters == 36
    assert result.count_params() == sum(record.parameters for record in result.layers)


def test_history_shows_losses_and_metrics_of_both_sides(compressed):
    history = compressed[0].history["quantize_aware"]
    for key in ("loss", "student_loss", "distillation_loss", "accuracy", "kl_divergence"):
        assert len(history[key]) == 2 and np.isfinite(history[key]).all(), key
    assert history["fit_net_block1_1_out"][0] > 0, "the hint goes on teaching"
    assert len(history["val_accuracy"]) == 2
    expected = [
        0.5 * s + 0.5 * d
        for s, d in zip(history["student_loss"], history["distillation_loss"], strict=True)
    ]
    np.testing.assert_allclose(history["loss"], expected, rtol=1e-4)


def test_evaluate_agrees_with_predict(compressed):
    result, _, data = compressed
    labels = np.concatenate([y for _, y in data])
    logits = result.predict(data)
    scores = result.evaluate(data)
    assert scores["accuracy"] == pytest.approx((logits.argmax(-1) == labels).mean())
    log_p = logits - np.log(np.exp(logits.astype("float64")).sum(-1, keepdims=True))
    assert scores["loss"] == pytest.approx(-log_p[np.arange(len(labels)), labels].mean(), rel=1e-4)
    assert result.history["quantize_aware"]["val_accuracy"][-1] == pytest.approx(scores["accuracy"])


def test_evaluate_takes_what_compress_takes(compressed):
    compressed, _, data = compressed
    arrays = tuple(np.concatenate(part) for part in zip(*data.as_numpy_iterator(), strict=True))
    expected = compressed.evaluate(data)
    result = compressed.evaluate(arrays)
    assert result == pytest.approx(expected, rel=1e-4)
    with pytest.raises(TypeError, match="`data` must be"):
        compressed.evaluate(arrays[0])


def test_file_agrees_with_the_model(compressed, tmp_path):
    result, images, _ = compressed
    outputs, step = tflite_run(result, tmp_path / "saved_model", images)
    assert np.abs(outputs - result.predict(images)).max() <= 1.01 * step


@pytest.mark.promise
def test_filters_emptied_by_pruning_keep_their_bias_in_the_file(data, tmp_path):
    inputs = keras.Input((8, 8, 1))
    x = layers.Conv2D(8, 3, use_bias=False, name="conv")(inputs)
    x = layers.ReLU()(layers.BatchNormalization(name="bn")(x))
    student = keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))
    kernel = student.get_layer("conv").get_weights()[0]
    kernel[..., :6] *= 1e-3
    student.get_layer("conv").set_weights([kernel])
    student.get_layer("bn").beta.assign(np.linspace(0.5, 3.0, 8))
    result = compress(
        make_distiller(student),
        data,
        stages=[Prune(0.75, learning_rate=1e-6), QuantizeAware(learning_rate=1e-6)],
        verbose=0,
    )
    pruned = result.model.get_layer("conv").get_weights()[0]
    assert (pruned == 0).all((0, 1, 2)).sum() == 6
    images = np.concatenate([x for x, _ in data])
    outputs, step = tflite_run(result, tmp_path / "saved_model", images)
    assert np.abs(outputs - result.predict(images)).max() <= 1.01 * step


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_saved_and_loaded(compressed, tmp_path, suffix):
    result, images, data = compressed
    path = tmp_path / f"model{suffix}"
    with pytest.raises(ValueError, match=r"\.keras"):
        result.save(tmp_path / "model.zip")
    result.save(path)
    loaded = load_compressed(path)
    np.testing.assert_array_equal(loaded.predict(images), result.predict(images))
    assert loaded.layers == result.layers
    assert loaded.history.keys() == result.history.keys()
    assert loaded.quantization_aware and loaded.quantization == result.quantization
    assert loaded.evaluate(data) == pytest.approx(result.evaluate(data))
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.promise
def test_a_pruned_model_is_saved_and_loaded(distiller, data, tmp_path):
    result = compress(distiller, data, stages=[Prune(0.5)], verbose=0)
    result.save(tmp_path / "pruned.keras")
    loaded = load_compressed(tmp_path / "pruned.keras")
    x = next(iter(data))[0]
    np.testing.assert_allclose(loaded(x), result(x), rtol=1e-6)
    assert loaded.layers == result.layers
    np.testing.assert_allclose(
        keras.models.load_model(tmp_path / "pruned.keras")(x), result(x), rtol=1e-6
    )
    keras.Sequential([keras.Input((2,)), layers.Dense(1)]).save(tmp_path / "other.keras")
    with pytest.raises(ValueError, match="not written by"):
        load_compressed(tmp_path / "other.keras")


@pytest.mark.parametrize("ranges", ["minmax", "percentile", "mse", "learned"])
@pytest.mark.promise
def test_calibration_takes_ranges_from_the_data(ranges, data):
    student = _plain()
    before = [weight.copy() for weight in student.get_weights()]
    result = compress(
        make_distiller(student), data, stages=[QuantizeAware(0, ranges=ranges)], verbose=0
    )
    images = np.concatenate([x for x, _ in data])
    low, high = result.quantization["ranges"][":input:0:0"]
    if ranges == "minmax":
        assert (low, high) == pytest.approx((images.min(), images.max()))
    else:
        assert images.min() <= low < 0.0 < high <= images.max()
    floats = student.predict(images, verbose=0)
    assert np.abs(result.predict(images) - floats).max() < 0.1 * np.ptp(floats)
    for now, then in zip(result.model.get_weights(), before, strict=True):
        np.testing.assert_allclose(now, then, atol=np.abs(then).max() / 250 + 1e-7)


class Scaling(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(4)

    def build(self, shape):
        self.dense.build((shape[0], 64))

    def call(self, x):
        return self.dense(keras.ops.reshape(keras.ops.cast(x, "float32") / 255.0, (-1, 64)))


def _of_two_inputs():
    inputs = {name: keras.Input((8, 8, 1), name=name) for name in ("b", "a")}
    x = layers.Flatten()(layers.Rescaling(1 / 255)(layers.Add()(list(inputs.values()))))
    return keras.Model(inputs, layers.Dense(4)(x))


def _with_rescaling():
    head = [layers.Rescaling(1 / 255), layers.Flatten(), layers.Dense(4)]
    return keras.Sequential([keras.Input((8, 8, 1)), *head])


@pytest.mark.fast_cases("0-_with_rescaling", "0-Scaling")
@pytest.mark.parametrize("make", [_with_rescaling, _of_two_inputs, Scaling])
@pytest.mark.parametrize("epochs", [0, 1])
def test_bytes_are_quantized_as_the_same_floats(make, epochs):
    keras.utils.set_random_seed(0)
    x = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 1)).astype("uint8")
    x[0, :2, 0, 0] = 0, 255
    y = np.arange(64) % 4
    results = []
    for dtype in ("uint8", "float32"):
        keras.utils.set_random_seed(0)
        given = x.astype(dtype)
        given = {"a": given, "b": given[::-1]} if make is _of_two_inputs else given
        student = make()
        student.build((None, 8, 8, 1)) if make is Scaling else None
        student.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        result = compress(student, (given, y), stages=[QuantizeAware(epochs)], verbose=0)
        results.append(result.quantization["ranges"])
        np.testing.assert_allclose(result.predict(given), student.predict(given), atol=0.2)
    assert results[0][":input:0:0"] == [0.0, 255.0]
    found, expected = (np.array(list(ranges.values())) for ranges in results)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


class Words(keras.Model):
    """A model whose inputs are known by their shape alone."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.embedding, self.out = layers.Embedding(5000, 4), layers.Dense(4)

    def call(self, x):
        return self.out(keras.ops.mean(self.embedding(x), axis=1))


def _words_in_float():
    return keras.Sequential(
        [keras.Input((6,)), layers.Embedding(5000, 4), layers.Flatten(), layers.Dense(4)]
    )


def _words_with_mask():
    ids = keras.Input((6,))
    x = layers.Embedding(5000, 4, mask_zero=True)(ids)
    return keras.Model(ids, layers.Dense(4)(layers.GlobalAveragePooling1D()(x)))


@pytest.mark.fast_cases("0-int32-Words", "1-float32-_words_with_mask")
@pytest.mark.parametrize("make", [Words, _words_in_float, _words_with_mask])
@pytest.mark.parametrize("dtype", ["int32", "float32"])
@pytest.mark.parametrize("epochs", [0, 1])
def test_numbers_of_words_are_not_rounded(make, dtype, epochs):
    """8 bits would take 20 words for one."""
    keras.utils.set_random_seed(0)
    x, y = np.random.default_rng(0).integers(0, 5000, (64, 6)).astype(dtype), np.arange(64) % 4
    student = make()
    student(x)
    student.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    stage = QuantizeAware(epochs, learning_rate=0.0)
    result = compress(student, (x, y), stages=[stage], verbose=0)
    assert ":input:0:0" not in result.quantization["ranges"]
    outputs = student.predict(x)
    np.testing.assert_allclose(result.predict(x), outputs, atol=0.03 * np.abs(outputs).max())


def _wide_and_deep(form):
    inputs = [keras.Input((4,), name=name) for name in ("wide", "deep")]
    parts = [layers.Dense(8, name=f"of_{x.name}")(x) for x in inputs]
    outputs = layers.Dense(4)(layers.Concatenate()(parts))
    struct = {"list": inputs, "dict": {x.name: x for x in inputs}}[form]
    return keras.Model(struct, outputs)


@pytest.mark.parametrize(
    ("form", "given"), [("list", "dict"), ("list", "list"), ("dict", "dict"), ("list", "more")]
)
def test_ranges_are_those_of_the_input_of_that_name(form, given):
    keras.utils.set_random_seed(0)
    random = np.random.default_rng(0)
    wide, deep = random.uniform(0, 1, (64, 4)), random.uniform(0, 100, (64, 4))
    x = [wide, deep] if given == "list" else {"wide": wide, "deep": deep}
    x = {"a": 7 * wide, **x} if given == "more" else x
    x = keras.tree.map_structure(lambda values: values.astype("float32"), x)
    student = _wide_and_deep(form)
    student.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    data = tf.data.Dataset.from_tensor_slices(
        (tuple(x) if given == "list" else x, np.arange(64) % 4)
    )
    result = compress(student, data.batch(32), stages=[QuantizeAware(0)], verbose=0)
    ranges = result.quantization["ranges"]
    limits = [ranges[f":input:0:{i}"][1] for i in range(2)]
    np.testing.assert_allclose(limits, [1, 100] if form == "list" else [100, 1], rtol=0.1)
    outputs = student.predict(x)
    np.testing.assert_allclose(result.predict(x), outputs, atol=0.03 * np.abs(outputs).max())


@pytest.mark.parametrize("dtype", ["float32", "int32", "uint16"])
def test_numbers_of_rows_given_in_another_type_are_none_of_the_floats(dtype):
    keras.utils.set_random_seed(0)
    ids, features = keras.Input((1,), dtype="int32", name="a"), keras.Input((4,), name="b")
    row = layers.Flatten()(layers.Embedding(3000, 4)(ids))
    outputs = layers.Dense(4)(layers.Concatenate()([row, layers.Dense(4)(features)]))
    student = keras.Model({"a": ids, "b": features}, outputs)
    student.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    random = np.random.default_rng(0)
    x = {
        "a": random.integers(0, 3000, (64, 1)).astype(dtype),
        "b": random.uniform(0, 1, (64, 4)).astype("float32"),
    }
    result = compress(student, (x, np.arange(64) % 4), stages=[QuantizeAware(0)], verbose=0)
    inputs = {name: r for name, r in result.quantization["ranges"].items() if ":input:" in name}
    assert list(inputs) == [":input:0:1"] and inputs[":input:0:1"][1] == pytest.approx(1, rel=0.1)
    outputs = student.predict(x)
    np.testing.assert_allclose(result.predict(x), outputs, atol=0.03 * np.abs(outputs).max())


@pytest.mark.promise
def test_learned_ranges_are_trained(data):
    stages = [QuantizeAware(n, ranges="learned", learning_rate=0.05) for n in (0, 1)]
    results = [
        compress(make_distiller(_plain()), data, stages=[stage], verbose=0) for stage in stages
    ]
    begun, learned = (np.array(list(r.quantization["ranges"].values())) for r in results)
    assert np.abs(learned - begun).max() > 0.01 and np.isfinite(learned).all()


@pytest.mark.promise
def test_bits_by_pattern_and_layers_that_stay_float(data):
    inputs = keras.Input((8, 8, 1))
    x = layers.Conv2D(16, 3, activation="relu", name="stem")(inputs)
    x = layers.Conv2D(24, 3, activation="relu", name="block_1")(x)
    x = layers.Conv2D(24, 3, activation="relu", name="block_2")(x)
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(8, 1, name="late")(x))
    student = keras.Model(inputs, layers.Dense(3, name="logits")(x))
    stage = QuantizeAware(1, weight_bits={"block_*": 4, "logits": 8}, exclude="late")
    result = compress(make_distiller(student), data, stages=[stage], verbose=0)
    records = {record.name: record for record in result.layers}
    for name in ("block_1", "block_2"):
        kernel = result.model.get_layer(name).get_weights()[0]
        assert max(len(np.unique(kernel[..., i])) for i in range(24)) <= 15
        assert records[name].bits == 4
        assert records[name].done == ("trained for 4-bit weights",)
    assert records["stem"].bits == records["logits"].bits == 8
    assert records["late"].bits is None and "excluded" in records["late"].not_done[0]
    only = compress(
        make_distiller(student), data, stages=[QuantizeAware(0, layers="stem")], verbose=0
    )
    assert [record.name for record in only.layers if record.bits] == ["stem"]
    kernel = student.get_layer("stem").get_weights()[0]
    after = only.model.get_layer("stem").get_weights()[0]
    assert 0 < np.abs(after - kernel).max() <= np.abs(kernel).max() / 250


@pytest.mark.parametrize(
    "arguments",
    [{"weight_bits": 3}, {"weight_bits": {"a": 2}}, {"activation_bits": 4}, {"ranges": "max"}],
)
def test_bad_arguments(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        QuantizeAware(**arguments)


@pytest.mark.promise
def test_16_bit_activations(data, tmp_path):
    result = compress(
        make_distiller(_plain()), data, stages=[QuantizeAware(0, activation_bits=16)], verbose=0
    )
    images = np.concatenate([x for x, _ in data])
    assert np.abs(result.predict(images) - result.model.predict(images, verbose=0)).max() < 1e-3
    path = kd.export_tflite(
        result, tmp_path / "m.tflite", "int16x8", representative_data=data, verbose=False
    )
    assert kd.evaluate_tflite(path, data, result, runs=1, warmup=0).agreement >= 0.95


@pytest.mark.promise
def test_masks_hold_where_tf_mot_has_none(data):
    # Conv2DTranspose is quantized, but TF-MOT's prune-preserving scheme does not know it.
    student = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2DTranspose(4, 3, name="up"),
            layers.SeparableConv2D(6, 3, activation="relu", name="separable"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3, name="logits"),
        ]
    )
    optimizer = keras.optimizers.SGD(0.5, momentum=0.9)
    result = compress(
        make_distiller(student),
        data,
        stages=[Prune(0.5, optimizer=optimizer), QuantizeAware(optimizer=optimizer)],
        verbose=0,
    )
    records = {record.name: record for record in result.layers}
    assert records["up"].sparsity == pytest.approx(0.5, abs=0.03)
    pointwise = np.prod(records["separable"].shapes[1])
    whole = pointwise + np.prod(records["separable"].shapes[0])
    assert records["separable"].sparsity == pytest.approx(0.5 * pointwise / whole, abs=0.03)


def test_what_stays_float_is_told(data):
    inputs = keras.Input((8, 8, 1))
    x = layers.Conv2D(4, 3, name="conv")(layers.Rescaling(2.0, name="scale")(inputs))
    x = layers.BatchNormalization(name="late")(layers.ReLU()(x))
    x = layers.LayerNormalization(name="norm")(layers.GlobalAveragePooling2D()(x))
    student = keras.Model(inputs, layers.Dense(3, name="logits")(x))
    result = compress(make_distiller(student), data, stages=[QuantizeAware(0)], verbose=0)
    records = {record.name: record for record in result.layers}
    assert records["conv"].bits == records["logits"].bits == 8
    assert "float" in records["norm"].not_done[0] and not records["late"].not_done


@pytest.mark.promise
def test_regularizers_of_the_student_count(data):
    inputs = keras.Input((8, 8, 1))
    x = layers.Conv2D(4, 3, kernel_regularizer=keras.regularizers.L2(10.0))(inputs)
    student = keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))
    result = compress(
        make_distiller(student), data, stages=[QuantizeAware(learning_rate=1e-9)], verbose=0
    )
    history = result.history["quantize_aware"]
    plain = 0.5 * history["student_loss"][0] + 0.5 * history["distillation_loss"][0]
    kernel = student.layers[1].get_weights()[0]
    assert history["loss"][0] - plain == pytest.approx(10 * float((kernel**2).sum()), rel=0.05)


@pytest.mark.promise
def test_hints_inside_nested_models_and_projections_learn(data, tmp_path):
    backbone = residual_network((8, 8, 1), 3, [4], [1], "backbone")
    image = keras.Input((8, 8, 1))
    student = keras.Model(image, backbone(image))
    hint = kd.Hint("block1_1_out", "backbone/block1_1_out")
    distiller = make_distiller(student, [hint])
    distiller.fit(data, epochs=1, verbose=0)
    projection = hint.layers[0].get_weights()[0].copy()
    result = compress(
        distiller, data, stages=[QuantizeAware(learning_rate=1e-2)], path=tmp_path, verbose=0
    )
    assert result.history["quantize_aware"]["fit_net_block1_1_out"][0] > 0
    with np.load(tmp_path / "stage_1_quantize_aware.projections.npz") as file:
        assert not np.allclose(file["arr_0"], projection)
    np.testing.assert_array_equal(hint.layers[0].get_weights()[0], projection)


@pytest.mark.promise
def test_without_labels(data):
    student = residual_network((8, 8, 1), 3, [4], [1], "student")
    distiller = make_distiller(student, weight=0.0, loss=None, metrics=())
    unlabeled = data.map(lambda x, y: x)
    result = compress(distiller, unlabeled, stages=[QuantizeAware()], verbose=0)
    assert result.history["quantize_aware"]["distillation_loss"][0] > 0


@pytest.mark.promise
def test_data_may_bring_the_teachers_outputs(data):
    distiller = make_distiller(residual_network((8, 8, 1), 3, [4], [1], "student"))
    teacher = distiller.teacher
    taught = data.map(lambda x, y: (TaughtInputs(x, teacher(x, training=False)), y))
    results = [
        compress(distiller, dataset, stages=[QuantizeAware(learning_rate=1e-9)], verbose=0).history[
            "quantize_aware"
        ]
        for dataset in (data, taught)
    ]
    values = [result["distillation_loss"] for result in results]
    np.testing.assert_allclose(*values, rtol=1e-3)


class _NeverRuns(Stage):
    def make_plan(self, student, earlier):
        return Plan({}, self.never)

    def never(self, state, teaching):
        raise AssertionError("a stage ran before all stages were planned")


def _nothing_to_quantize():
    inputs = keras.Input((8, 8, 1))
    return keras.Model(inputs, layers.Flatten()(inputs)[:, :3], name="empty")


def _plain():
    return residual_network((8, 8, 1), 3, [4], [1], "student")


@pytest.mark.parametrize(
    ("build", "stages", "message"),
    [
        (_nothing_to_quantize, [QuantizeAware()], "no kernel to quantize in model 'empty'"),
        (_plain, [QuantizeAware(layers="stem")], "`layers` names 'stem'"),
        (_plain, [QuantizeAware(exclude=["block9_*"])], "`exclude` names 'block9_"),
        (_plain, [QuantizeAware(), Prune()], "Prune cannot follow QuantizeAware"),
        (_plain, [QuantizeAware(name="a"), QuantizeAware(name="b")], "appears twice"),
        (_plain, [Prune(), Prune()], "Two stages are named 'prune'"),
        (_plain, [], "`stages` is empty"),
    ],
)
def test_refused_before_any_training(build, stages, message, data):
    student = build()
    teacher = residual_network((8, 8, 1), 3, [4], [1], "teacher")
    distiller = kd.Distiller(teacher, student, [kd.losses.KLDivergence()])
    distiller.compile("adam", loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    stages = [_NeverRuns(1, name="first"), *stages] if stages else stages
    if any(isinstance(stage, Prune) for stage in stages):
        stages = stages[1:]
    with pytest.raises(ValueError, match=message):
        compress(distiller, data, stages=stages, verbose=0)


def test_other_arguments_are_refused(distiller, data):
    with pytest.raises(ValueError, match="no examples"):
        compress(distiller, data.take(0), stages=[Prune()], verbose=0)
    for stage in (Prune(), QuantizeAware()):
        with pytest.raises(ValueError, match="`train` has no end"):
            compress(distiller, data.repeat(), stages=[stage], verbose=0)
    with pytest.raises(ValueError, match="`validation_data` has no end"):
        compress(distiller, data, data.repeat(), stages=[Prune()], verbose=0)
    with pytest.raises(ValueError, match="compiled with a loss"):
        compress(distiller.student, data, stages=[Prune()], verbose=0)
    with pytest.raises(TypeError, match="`train` must be"):
        compress(distiller, "data", stages=[Prune()], verbose=0)
    fresh = kd.Distiller(distiller.teacher, distiller.student, [kd.losses.KLDivergence()])
    with pytest.raises(ValueError, match="needs a Distiller that is compiled"):
        compress(fresh, data, stages=[Prune()], verbose=0)


def test_config_round_trip():
    stage = QuantizeAware(
        3,
        optimizer="sgd",
        learning_rate=0.2,
        name="q",
        weight_bits={"conv*": 4},
        activation_bits=16,
        ranges="mse",
        exclude="logits",
    )
    assert QuantizeAware.from_config(stage.get_config()).get_config() == stage.get_config()
    assert float(stage.make_optimizer().learning_rate) == pytest.approx(0.2)


@pytest.mark.promise
def test_zeros_of_a_student_pruned_earlier_survive(distiller, data):
    pruned = compress(distiller, data, stages=[Prune(0.5, epochs=1)], verbose=0).model
    again = make_distiller(pruned)
    result = compress(again, data, stages=[QuantizeAware(epochs=1, learning_rate=0.1)], verbose=0)
    records = {record.name: record for record in result.layers}
    before = {layer.name: layer for layer in pruned.layers}
    checked = 0
    for name, record in records.items():
        kernels = [w for w in before[name].get_weights() if w.ndim > 1]
        if kernels and record.sparsity is not None:
            assert record.sparsity >= np.mean(kernels[0] == 0) - 1e-6
            checked += 1
    assert checked >= 2


@pytest.mark.promise
def test_average_pooling_keeps_the_range_of_its_input(tmp_path, data):
    # As between the blocks of a DenseNet; TFLite pools only within one range.
    inputs = keras.Input((8, 8, 1))
    x = layers.Conv2D(4, 3, padding="same", use_bias=False)(inputs)
    branch = layers.ReLU()(layers.BatchNormalization()(x))
    branch = layers.Conv2D(4, 3, padding="same", use_bias=False)(branch)
    x = layers.Concatenate()([x, branch])
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Conv2D(4, 1, use_bias=False, name="transition")(x)
    x = layers.AveragePooling2D(2, name="pool")(x)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    student = keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))
    result = compress(make_distiller(student), data, stages=[QuantizeAware(0)], verbose=0)
    path = kd.export_tflite(
        result, tmp_path / "dense.tflite", "int8", representative_data=data, verbose=False
    )
    assert kd.evaluate_tflite(path, data).agreement >= 0.9


@pytest.mark.promise
def test_training_further_takes_the_model(distiller, data):
    pruned = compress(distiller, data, stages=[Prune(0.5, epochs=0)], verbose=0)
    with pytest.raises(ValueError, match=r"Received: CompressedModel\. Pass its"):
        kd.Distiller(distiller.teacher, pruned, [kd.losses.KLDivergence()])
    kd.Distiller(distiller.teacher, pruned.model, [kd.losses.KLDivergence()])


@pytest.mark.promise
def test_embedding_and_conv1d_are_trained_for_8_bits(tmp_path):
    keras.utils.set_random_seed(0)
    tokens = keras.Input((12,), dtype="int32", name="tokens")
    x = layers.Embedding(30, 8, name="embedding")(tokens)
    x = layers.Conv1D(8, 3, activation="relu", name="conv")(x)
    student = keras.Model(
        tokens, layers.Dense(3, name="logits")(layers.GlobalAveragePooling1D()(x))
    )
    generator = np.random.default_rng(0)
    data = (
        generator.integers(0, 30, (64, 12)).astype("int32"),
        generator.integers(0, 3, 64).astype("int32"),
    )
    distiller = kd.Distiller(None, student, [], student_loss_weight=1.0)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile("adam", loss=loss, metrics=["accuracy"])
    distiller.fit(*data, epochs=5, verbose=0)
    stages = [
        kd.Prune(0.5, epochs=0),
        kd.Cluster(8, epochs=0),
        QuantizeAware(1, learning_rate=1e-3),
    ]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = compress(distiller, data, stages=stages, verbose=0)
    assert not [w for w in caught if "leaves" in str(w.message)], "nothing stays float"
    records = {record.name: record for record in result.layers}
    for name in ("embedding", "conv"):
        assert records[name].bits == 8 and records[name].clusters <= 8, name
        assert records[name].sparsity >= 0.5
        kernel = result.model.get_layer(name).get_weights()[0]
        scale = np.abs(kernel).max() / 127
        np.testing.assert_allclose(kernel / scale, np.round(kernel / scale), atol=1e-3)
    path = kd.export_tflite(
        result, tmp_path / "m.tflite", "int8", representative_data=data[0], verbose=False
    )
    measured = kd.evaluate_tflite(path, data, result, runs=1, warmup=0)
    assert measured.float_operators == {} and measured.agreement >= 0.95
    result.save(tmp_path / "m.keras")
    np.testing.assert_array_equal(
        load_compressed(tmp_path / "m.keras").predict(data[0]), result.predict(data[0])
    )


def _in_bfloat16(model):
    for weight in model.weights:
        weight.assign(tf.cast(tf.cast(weight.value, "bfloat16"), "float32"))


def _in_steps(model):
    """Like a model that was quantized and dequantized: all weights are multiples of 1/16."""
    for weight in model.weights:
        weight.assign(np.round(np.asarray(weight) * 16) / 16 + 1e-3)


def _of_signs(model):
    kernel = model.get_layer("hidden").kernel
    kernel.assign(np.where(np.asarray(kernel) < 0, -0.2, 0.2))


@pytest.mark.parametrize("change", [_in_bfloat16, _in_steps, _of_signs])
@pytest.mark.promise
def test_equal_weights_learn_by_themselves_unless_they_were_clustered(change):
    keras.utils.set_random_seed(0)
    generator = np.random.default_rng(0)
    data = generator.normal(size=(64, 7)).astype("float32"), generator.integers(0, 3, 64)
    inputs = keras.Input((7,))
    hidden = layers.Dense(64, activation="relu", name="hidden")(inputs)
    student = keras.Model(inputs, layers.Dense(3, name="logits")(hidden))
    change(student)
    teacher = keras.Sequential([keras.Input((7,)), layers.Dense(3)])
    distiller = kd.Distiller(teacher, student, kd.losses.KLDivergence())
    distiller.compile("adam", loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    stage = QuantizeAware(epochs=1, learning_rate=0.01)

    def equal_pairs(stages):
        model = compress(distiller, data, stages=stages, verbose=0).model
        kernel = model.get_layer("hidden").kernel
        values = np.asarray(kernel).ravel()
        return len(values) - len(np.unique(values))

    before = np.asarray(student.get_layer("hidden").kernel).ravel()
    assert len(before) - len(np.unique(before)) > 30
    # Some meet again on the grid of 8 bits.
    assert equal_pairs([stage]) < 0.3 * (len(before) - len(np.unique(before)))
    assert equal_pairs([kd.Cluster(8, epochs=0), stage]) >= len(before) - 8


@pytest.mark.promise
def test_padding_counts_neither_in_the_history_nor_in_the_record():
    keras.utils.set_random_seed(0)
    x = np.random.default_rng(0).integers(1, 11, (32, 6))
    x[:, 4:] = 0
    y = np.where(x != 0, x % 4, 3)

    def tagger():
        words = keras.Input((6,), dtype="int32")
        z = keras.layers.Embedding(11, 8, mask_zero=True)(words)
        z = keras.layers.LSTM(8, return_sequences=True)(z)
        return keras.Model(words, keras.layers.Dense(4)(z))

    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller = kd.Distiller(tagger(), tagger(), kd.losses.KLDivergence())
    distiller.compile("adam", loss, metrics=["accuracy"])
    stage = kd.QuantizeAware(epochs=1)
    compressed = kd.compress(distiller, (x, y), validation_data=(x, y), stages=[stage], verbose=0)
    told = (compressed.predict(x).argmax(-1) == y)[x != 0].mean()
    recorded = compressed.stages[-1].metrics["accuracy"]
    assert recorded == pytest.approx(compressed.history[stage.name]["val_accuracy"][-1])
    assert recorded == pytest.approx(told)


def test_names_of_bits_that_no_layer_has_are_refused():
    inputs = keras.Input((4, 64))
    x = keras.layers.MultiHeadAttention(2, 32, name="mha")(inputs, inputs)
    model = keras.Model(inputs, keras.layers.Dense(64, name="logits")(x))
    plan = QuantizeAware(weight_bits={"mha": 4}).plan(model)
    found = {path: row.action for path, row in plan.layers.items()}
    assert "4 bits" in {a for p, a in found.items() if "mha" in p}.pop() and "8" in found["logits"]
    with pytest.raises(ValueError, match=r"'logitz'\. Did you mean 'logits'"):
        QuantizeAware(weight_bits={"logitz": 4}).make_plan(model, [])


@pytest.mark.parametrize("exclude", ["mha", "function of kinds"])
def test_a_function_spares_what_is_inside_of_a_layer(exclude):
    if exclude == "function of kinds":
        exclude = lambda layer: isinstance(layer, layers.MultiHeadAttention)  # noqa: E731
    inputs = keras.Input((4, 6))
    x = layers.MultiHeadAttention(2, 3, name="mha")(inputs, inputs)
    student = keras.Model(inputs, layers.Dense(3, name="head")(layers.Flatten()(x)))
    student.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    x = np.random.default_rng(0).normal(size=(8, 4, 6)).astype("float32")
    stage = QuantizeAware(epochs=0, exclude=exclude)
    compressed = compress(student, (x, np.zeros(8, int)), stages=stage, verbose=0)
    assert list(compressed.quantization["weight_bits"]) == ["head"]
    assert compressed.quantization["excluded"] == ["mha"]
