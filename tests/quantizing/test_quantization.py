"""Models of any kind: seen in few bits, left as they were, and written as they were seen."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_kd as kd
from keras_kd.models.calls import operation_names, operations_of, trace_calls
from keras_kd.models.graph import flat_layers, input_tensors
from keras_kd.quantizing.kernels import KernelRounding, quantizable_kernels
from keras_kd.quantizing.quantization import Quantization
from keras_kd.quantizing.ranges import Ranges, measure_of
from keras_kd.quantizing.sites import find_sites

registered = keras.saving.register_keras_serializable(package="tests_of_quantization")


@registered
class Block(layers.Layer):
    """Layers as attributes, in a list, and in a model of their own; without `build`."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(6, activation="gelu")
        self.rest = [layers.Dense(6), layers.Dense(6, activation="relu")]
        self.net = keras.Sequential([layers.Dense(6, activation="relu"), layers.Dense(6)])

    def call(self, x):
        x = self.dense(x)
        for layer in self.rest:
            x = layer(x) + x
        return self.net(x)


@registered
class Built(Block):
    def build(self, shape):
        self.dense.build(shape)
        for layer in (*self.rest, self.net):
            layer.build((*shape[:-1], 6))
        self.built = True

    def compute_output_shape(self, shape):
        return (*shape[:-1], 6)


@registered
class Subclassed(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.convolutions = [
            layers.Conv1D(6, 3, padding="same", activation="relu"),
            layers.Conv1D(6, 3, padding="same"),
        ]
        self.norm = layers.BatchNormalization()
        self.drop = layers.Dropout(0.2)
        self.pool = layers.GlobalAveragePooling1D()
        self.dense = layers.Dense(3)

    def call(self, x, training=None):
        for layer in self.convolutions:
            x = layer(x)
        x = self.drop(self.norm(x, training=training), training=training)
        return self.dense(self.pool(x))


def functional(shape, make, **arguments):
    i = keras.Input(shape, name="given", **arguments)
    return keras.Model(i, layers.Dense(3, name="logits")(make(i)), name="student")


def subclassed():
    model = Subclassed(name="student")
    model(np.zeros((1, 8, 4), "float32"))
    return model


def convolutional():
    def make(i):
        x = layers.Conv2D(4, 3, padding="same", use_bias=False)(i)
        x = layers.ReLU()(layers.BatchNormalization()(x))
        y = layers.DepthwiseConv2D(3, padding="same", activation="relu6")(x)
        x = layers.ReLU()(layers.Add()([x, y]))
        x = layers.BatchNormalization()(layers.SeparableConv2D(6, 3, activation="relu")(x))
        x = layers.Conv2DTranspose(4, 2, strides=2)(layers.MaxPooling2D()(x))
        return layers.GlobalAveragePooling2D()(x)

    return functional((8, 8, 3), make)


def transposed():
    def make(i):
        x = layers.Conv1DTranspose(4, 3, activation="relu")(i)
        x = layers.SeparableConv1D(4, 3)(layers.DepthwiseConv1D(3)(x))
        x = layers.ReLU()(layers.BatchNormalization()(layers.Conv1DTranspose(4, 3)(x)))
        return layers.Flatten()(x)

    return functional((8, 4), make)


def nested():
    i = keras.Input((8, 8, 3))
    backbone = keras.Model(i, layers.ReLU()(layers.Conv2D(4, 3)(i)), name="backbone")
    return functional((8, 8, 3), lambda i: layers.Flatten()(backbone(i)))


def shared():
    layer = layers.Dense(4, activation="tanh", name="shared")
    return functional((8, 4), lambda i: layers.Flatten()(layer(layer(i))))


def several():
    a, b = keras.Input((4,), name="a"), keras.Input((6,), name="b")
    x = layers.Concatenate()(
        [layers.Dense(5, activation="relu")(a), layers.Dense(5, activation="sigmoid")(b)]
    )
    outputs = {
        "p": layers.Dense(3, name="p")(x),
        "q": layers.Dense(2, activation="softmax", name="q")(x),
    }
    return keras.Model({"a": a, "b": b}, outputs, name="student")


def attention(kind, **arguments):
    def make(i):
        x = layers.Dense(8)(i)
        x = layers.LayerNormalization()(x + kind(**arguments)(x, x))
        return layers.GlobalAveragePooling1D()(x)

    return functional((8, 4), make)


def tied():
    i = keras.Input((8,), dtype="int32", name="given")
    embedding = layers.ReversibleEmbedding(20, 6, name="embedding")
    x = layers.Dense(6, activation="relu")(embedding(i))
    return keras.Model(i, embedding(x, reverse=True), name="student")


def pooled(layer):
    return lambda i: layers.GlobalAveragePooling1D()(layer(i))


def normalized_over_one(i):
    return layers.GlobalAveragePooling1D()(layers.LayerNormalization()(i) + i)


INTEGER = {
    "sequential": lambda: keras.Sequential(
        [
            keras.Input((8, 4), name="given"),
            layers.Conv1D(4, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(3, name="logits"),
        ],
        name="student",
    ),
    "convolutional": convolutional,
    "transposed": transposed,
    "nested": nested,
    "subclassed": subclassed,
    "shared": shared,
    "several": several,
    "custom": lambda: functional((8, 4), pooled(Block(name="block"))),
    "custom_built": lambda: functional((8, 4), pooled(Built(name="block"))),
    "embedding": lambda: functional((8,), pooled(layers.Embedding(20, 6)), dtype="int32"),
    "swish": lambda: functional((8, 4), pooled(layers.Conv1D(6, 3, activation="swish"))),
}
PARTLY_FLOAT = {
    "attention": lambda: attention(layers.MultiHeadAttention, num_heads=2, key_dim=4),
    "grouped": lambda: attention(
        layers.GroupQueryAttention, head_dim=4, num_query_heads=2, num_key_value_heads=1
    ),
    "tied": tied,
    "lstm": lambda: functional((8, 4), layers.LSTM(5)),
    "gru": lambda: functional((8, 4), layers.Bidirectional(layers.GRU(5))),
    "normalized_over_one": lambda: functional((8, 1), normalized_over_one),
    "open": lambda: functional((None, 4), pooled(layers.Conv1D(6, 3, activation="swish"))),
}


def data_for(model, examples=24):
    generator = np.random.default_rng(0)

    def values(tensor):
        shape = (examples, *(8 if n is None else n for n in tensor.shape[1:]))
        if "int" in str(tensor.dtype):
            return generator.integers(1, 20, shape).astype("int32")
        return generator.normal(size=shape).astype("float32")

    x = keras.tree.map_structure(values, input_tensors(model))
    y = keras.tree.map_structure(
        lambda out: generator.normal(size=out.shape).astype("float32"), model(x)
    )
    return x, y


def compressed(student, data, stages, **arguments):
    distiller = kd.Distiller(None, student, [], student_loss_weight=1.0)
    distiller.compile("sgd", "mse", **arguments)
    return kd.compress(distiller, data, stages=stages, verbose=0)


def steps_apart(result, path, x):
    """Return how far the file is from the model, in steps of each output's range."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path))
    run = interpreter.get_signature_runner()
    named = x if isinstance(x, dict) else {next(iter(run.get_input_details())): x}
    count = len(next(iter(named.values())))
    rows = [run(**{key: value[n : n + 1] for key, value in named.items()}) for n in range(count)]
    expected = result.predict(x)
    expected = expected if isinstance(expected, dict) else {next(iter(rows[0])): expected}
    apart = []
    for key, values in expected.items():
        distinct = np.unique(values)
        step = np.diff(distinct)[np.diff(distinct) > 1e-7].min()
        apart.append(np.abs(np.concatenate([row[key] for row in rows]) - values) / step)
    return max(float(part.max()) for part in apart)


def as_arrays(outputs):
    return [np.asarray(part) for part in keras.tree.flatten(outputs)]


@pytest.mark.fast_cases("several")
@pytest.mark.parametrize("name", [*INTEGER, *PARTLY_FLOAT])
def test_any_model_is_trained_saved_and_left_as_it_was(name, tmp_path):
    student = {**INTEGER, **PARTLY_FLOAT}[name]()
    x, y = data_for(student)
    before = [weight.copy() for weight in student.get_weights()]
    names = operation_names(student)
    result = compressed(student, (x, y), [kd.QuantizeAware(learning_rate=1e-3)])

    for now, then in zip(student.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)
    for model in (student, result.model):
        assert not [layer.name for layer in flat_layers(model) if "call" in vars(layer)]
        assert operation_names(model) == names
        assert type(model) is type(student)
    kernels = quantizable_kernels(operations_of(result.model), lambda path, layer: 8)
    for kernel in kernels:
        columns = np.asarray(kernel.to_columns(kernel.variable.value))
        scale = np.abs(columns).max(0) / 127
        np.testing.assert_allclose(columns / scale, np.round(columns / scale), atol=1e-3)

    result.save(tmp_path / "model.keras")
    loaded = kd.load_compressed(tmp_path / "model.keras")
    assert loaded.quantization == result.quantization and loaded.layers == result.layers
    for one, other in zip(as_arrays(loaded.predict(x)), as_arrays(result.predict(x)), strict=True):
        np.testing.assert_array_equal(one, other)
    plain = keras.models.load_model(tmp_path / "model.keras")
    for one, other in zip(as_arrays(plain(x)), as_arrays(result.model(x)), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.promise
@pytest.mark.parametrize("name", INTEGER)
def test_the_file_computes_as_the_model_does(name, tmp_path):
    student = INTEGER[name]()
    x, y = data_for(student)
    result = compressed(student, (x, y), [kd.QuantizeAware(learning_rate=1e-3)])
    path = kd.export_tflite(result, tmp_path / "model.tflite", "int8", verbose=False)
    assert steps_apart(result, path, x) <= (3.0 if "custom" in name else 1.01)
    if name != "several":
        measured = kd.evaluate_tflite(path, (x, np.zeros(24, "int32")), runs=1, warmup=0)
        assert measured.float_operators == {}


@pytest.mark.promise
@pytest.mark.parametrize("chain", ["prune", "cluster", "prune_cluster", "channel"])
@pytest.mark.parametrize("name", ["convolutional", "custom", "lstm", "attention"])
def test_zeros_and_shared_values_stay_through_the_chain(name, chain, tmp_path):
    student = {**INTEGER, **PARTLY_FLOAT}[name]()
    stages = []
    if "prune" in chain or chain == "channel":
        stages.append(kd.Prune(0.5, epochs=0))
    if "cluster" in chain or chain == "channel":
        stages.append(kd.Cluster(6, epochs=0, per_channel=chain == "channel"))
    data = data_for(student)
    result = compressed(student, data, [*stages, kd.QuantizeAware(learning_rate=0.05)])
    assert np.isfinite(result.history["quantize_aware"]["loss"]).all()
    first = compressed(student, data, stages)
    before = {(k.path, k.name): k.variable for k in _kernels(first.model)}
    assert len(before) >= 3
    for kernel in _kernels(result.model):
        then = np.asarray(before[kernel.path, kernel.name].value)
        now = np.asarray(kernel.variable.value)
        if "prune" in chain or chain == "channel":
            assert (now[then == 0] == 0).all(), kernel.path
        if len(np.unique(then)) <= 6:
            assert len(np.unique(now)) <= len(np.unique(then)), kernel.path
            for value in np.unique(then):
                assert len(np.unique(now[then == value])) == 1, kernel.path
        assert np.abs(now - then).max() > 0
    if name in INTEGER:
        path = kd.export_tflite(result, tmp_path / "model.tflite", "int8", verbose=False)
        assert steps_apart(result, path, data[0]) <= (3.0 if name == "custom" else 1.01)


def _kernels(model):
    return quantizable_kernels(operations_of(model), lambda path, layer: 8)


def quantization_of(model, x, ranges="minmax"):
    specs = keras.tree.map_structure(
        lambda t: tf.TensorSpec(t.shape, t.dtype), input_tensors(model)
    )
    sites = find_sites(trace_calls(model, specs))
    made = Quantization(
        model, sites, Ranges(sites.sites, 8, ranges), KernelRounding(_kernels(model))
    )
    made.calibrate([x], measure_of(ranges, 8))
    return made


def test_arrays_are_rounded_as_tensors_are():
    student = INTEGER["several"]()
    x, _ = data_for(student)
    view = quantization_of(student, x)
    given = {key: np.linspace(0, 9, value.size).reshape(value.shape) for key, value in x.items()}
    given = {key: value.astype("float32") for key, value in given.items()}
    with view.applied():
        arrays = student(given)
    with view.applied():
        tensors = student(keras.tree.map_structure(tf.constant, given))
    for one, other in zip(as_arrays(arrays), as_arrays(tensors), strict=True):
        np.testing.assert_array_equal(one, other)
    beyond = {key: np.full_like(value, 1e3) for key, value in x.items()}
    with view.applied():
        assert max(np.abs(part).max() for part in as_arrays(student(beyond))) < 50.0


def test_numbers_rarer_than_a_percentile_leaves_out_are_not_taken_for_zero():
    size = 20_000
    x = np.zeros((64, size), "float32")
    x[np.arange(64), np.random.default_rng(0).integers(0, size, 64)] = 1.0
    i = keras.Input((size,))
    model = keras.Model(i, layers.Dense(4)(i))
    view = quantization_of(model, x, "percentile")
    with view.applied():
        outputs = np.asarray(model(x))
    np.testing.assert_allclose(outputs, np.asarray(model(x)), atol=0.02 * np.abs(outputs).max())


def test_a_step_moves_statistics_once_and_seeds_on():
    def make(i):
        x = layers.Conv1D(4, 3, kernel_regularizer="l2", activity_regularizer="l2")(i)
        x = layers.BatchNormalization(momentum=0.5, name="norm")(x)
        return layers.Flatten()(layers.Dropout(0.5, name="drop")(x))

    student = functional((8, 4), make)
    x, _ = data_for(student, 8)
    view = quantization_of(student, x)
    kernel, bias = student.layers[1].weights
    rounded = dict((id(v), np.asarray(t)) for v, t in view.rounding.rounded())[id(kernel)]
    given = np.asarray(view.ranges.quantized(view.sites.sites[0], tf.constant(x), False))
    mean = np.asarray(tf.nn.conv1d(given, rounded, 1, "VALID") + bias.value).mean((0, 1))
    seed = next(v for v in student.non_trainable_variables if "seed" in v.name)
    state = np.asarray(seed.value).copy()
    with view.applied(training=True):
        student(x, training=True)
    np.testing.assert_allclose(
        student.get_layer("norm").moving_mean, 0.5 * mean, rtol=1e-4, atol=1e-6
    )
    assert not np.array_equal(seed.value, state)
    assert len(student.losses) == 2


@pytest.mark.fast_cases("arguments1")
@pytest.mark.parametrize("arguments", [{"jit_compile": True}, {"run_eagerly": True}])
def test_ways_to_run_a_step_are_equal(arguments):
    results = []
    for given in ({"jit_compile": False}, arguments):
        keras.utils.set_random_seed(0)
        student = INTEGER["shared"]()
        data = tf.data.Dataset.from_tensor_slices(data_for(student)).batch(8)
        results.append(
            compressed(student, data, [kd.QuantizeAware(epochs=2, optimizer="sgd")], **given)
        )
    for one, other in zip(*(r.model.get_weights() for r in results), strict=True):
        # A rounding error may move a weight by one step of its grid.
        np.testing.assert_allclose(one, other, atol=1.01 * np.abs(one).max() / 127 + 1e-4)
    ranges = [np.array(list(r.quantization["ranges"].values())) for r in results]
    np.testing.assert_allclose(*ranges, atol=1e-4)


@pytest.mark.promise
def test_mixed_precision(tmp_path):
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        student = convolutional()
    finally:
        keras.mixed_precision.set_global_policy("float32")
    data = data_for(student)
    result = compressed(student, data, [kd.QuantizeAware()])
    assert result.model.layers[1].compute_dtype == "bfloat16"
    kd.export_tflite(result, tmp_path / "m.tflite", "int8", verbose=False)


def test_the_same_numbers_as_tf_mot():
    """The ranges of a model that TF-MOT quantized give the same outputs here."""
    from keras_kd.models.tfmot import import_tfmot

    tfmot, tf_keras = import_tfmot(), pytest.importorskip("tf_keras")

    def network(k):
        # Of Dense kernels TF-MOT rounds all columns alike.
        given = k.layers.Input((8, 8, 3))
        x = k.layers.Conv2D(4, 3, activation="relu", name="first")(given)
        x = k.layers.Conv2D(6, 3, activation="relu", name="second")(x)
        return k.Model(given, k.layers.Conv2D(3, 1, name="logits")(x))

    ours, theirs = network(keras), network(tf_keras)
    theirs.set_weights(ours.get_weights())
    theirs = tfmot.quantization.keras.quantize_model(theirs)
    x = np.random.default_rng(0).normal(size=(16, 8, 8, 3)).astype("float32")
    view = quantization_of(ours, x)
    theirs(x, training=True)  # sets the ranges of its kernels
    for name, values in view.ranges.to_json().items():
        path = name.split(":")[0]
        layer = f"quant_{path}/" if path else "quantize_layer"
        found = [
            variable
            for variable in theirs.variables
            if variable.name.startswith(layer) and "kernel" not in variable.name
        ]
        for end, value in zip(("_min:0", "_max:0"), values, strict=True):
            (variable,) = (v for v in found if v.name.endswith(end))
            variable.assign(value)
    with view.applied():
        outputs = ours(x, training=False)
    np.testing.assert_allclose(outputs, theirs(x, training=False), atol=1e-6)


REPLICAS = """
def dense(units, seed, **arguments):
    glorot = keras.initializers.GlorotUniform(seed)
    return keras.layers.Dense(units, kernel_initializer=glorot, **arguments)


def run(stages):
    keras.utils.set_random_seed(0)
    i = keras.Input((5,))
    hidden = dense(8, 1, activation="gelu", name="hidden")(i)
    student = keras.Model(i, dense(3, 2, name="logits")(hidden))
    teacher = keras.Model(i, dense(3, 3)(i))
    hint = kd.Hint(teacher.layers[-1].name, "logits")
    distiller = kd.Distiller(teacher, student, [kd.losses.KLDivergence(2.0), hint])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile("sgd", loss=loss, jit_compile=False)
    generator = np.random.default_rng(0)
    x = generator.normal(size=(48, 5)).astype("float32")
    data = tf.data.Dataset.from_tensor_slices((x, generator.integers(0, 3, 48))).batch(16)
    result = kd.compress(distiller, data, data, stages=stages(), verbose=0)
    left = [l.name for l in result.model.layers if "call" in vars(l)]
    gelu = result.model.get_layer("hidden").activation is keras.activations.gelu
    ranges = [] if result.quantization is None else list(result.quantization["ranges"].values())
    values = [*result.model.get_weights(), np.array(ranges), result.predict(x)]
    return [v.tolist() for v in values], left, gelu, result.history


sgd = lambda: keras.optimizers.SGD(0.1)
STAGES = {
    "quantize": lambda: [kd.QuantizeAware(2, optimizer=sgd())],
    "cluster": lambda: [kd.Cluster(4, 2, "linear", optimizer=sgd())],
}
for name, stages in STAGES.items():
    single = run(stages)
    with strategy.scope():
        results[name] = [single, run(stages)]
"""


@pytest.fixture(scope="module")
def replicas(run_on_two_devices):
    return run_on_two_devices(REPLICAS)


@pytest.mark.promise
@pytest.mark.parametrize("stage", ["quantize", "cluster"])
def test_two_devices_train_as_one(replicas, stage):
    (single, _, _, history), (mirrored, left, gelu, other) = replicas[stage]
    assert left == [] and gelu
    for one, two in zip(single, mirrored, strict=True):
        np.testing.assert_allclose(one, two, atol=1e-5)
    (name,) = history
    for key, values in history[name].items():
        np.testing.assert_allclose(values, other[name][key], rtol=1e-4, err_msg=key)
