"""Layers that stay in float, or have another precision than the rest of a file."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_kd as kd
from keras_kd.export.exclusion import check_excluded
from keras_kd.litert.model_file import ModelFile

IMAGES = np.random.default_rng(0).normal(size=(64, 8, 8, 3)).astype("float32")
TOKENS = np.random.default_rng(0).integers(0, 50, (64, 12)).astype("int32")


@pytest.fixture(scope="module")
def network():
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(16, 3, padding="same", use_bias=False, name="conv")(image)
    x = layers.ReLU(name="relu")(layers.BatchNormalization(name="norm")(x))
    inner = keras.Input((8, 8, 16))
    backbone = keras.Model(inner, layers.Conv2D(16, 3, name="conv2")(inner), name="backbone")
    x = layers.GlobalAveragePooling2D(name="pool")(keras.ops.sigmoid(backbone(x) * 2.0))
    x = layers.Dense(80, activation="gelu", name="hidden")(x)
    return keras.Model(image, layers.Dense(40, name="logits")(x))


@pytest.fixture(scope="module")
def text():
    keras.utils.set_random_seed(0)
    tokens = keras.Input((12,), dtype="int32", name="tokens")
    x = layers.Embedding(50, 32, name="embedding")(tokens)
    x = x + layers.MultiHeadAttention(2, 16, name="attention")(x, x)
    x = layers.LayerNormalization(name="norm")(x)
    return keras.Model(tokens, layers.Dense(5, name="logits")(layers.Flatten()(x)))


def export(model, path, quantization, data, **arguments):
    path = kd.export_tflite(
        model, path / "a.tflite", quantization, data, verbose=False, keep_names=True, **arguments
    )
    return path, ModelFile(path.read_bytes())


def float_names(file):
    return [name for operator in file.float_operators() for name in operator.outputs]


@pytest.mark.promise
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("exclude", "kernels"),
    [
        ("logits", {(40, 80)}),  # the output's own name says nothing of its layer
        (["conv*", "norm", "relu"], {(16, 3, 3, 3), (16, 3, 3, 16)}),
        ("backbone/conv2", {(16, 3, 3, 16)}),
        (lambda layer: isinstance(layer, layers.Dense), {(40, 80), (80, 16)}),
        ("sigmoid*", set()),  # an operation, which is no layer
    ],
)
def test_only_what_is_excluded_is_in_float(network, tmp_path, exclude, kernels):
    path, file = export(network, tmp_path, "int8", IMAGES, exclude=exclude)
    inner = [tensor for graph in file.graphs() for tensor in graph.tensors]
    found = {tensor.shape for tensor in inner if tensor.kind == "FLOAT32" and tensor.constant}
    assert {shape for shape in found if len(shape) > 1 and np.prod(shape) > 1} == kernels
    assert len(file.float_operators()) >= 1
    written = kd.read_metadata(path)["excluded"]
    assert written and set(written.values()) == {"float32"}
    assert kd.compare(network, path, IMAGES, verbose=False).signal_to_noise_db > 20


@pytest.mark.promise
def test_what_was_asked_for_is_not_warned_of(network, tmp_path, recwarn):
    export(network, tmp_path, "int8", IMAGES, exclude="logits")
    assert not [w for w in recwarn if "integer throughout" in str(w.message)]


@pytest.mark.fast_cases("weight_only")
@pytest.mark.parametrize("quantization", ["dynamic", "weight_only", "int16x8"])
def test_other_formats(network, tmp_path, quantization):
    _, file = export(network, tmp_path, quantization, IMAGES, exclude=["hidden"])
    kinds = {t.shape: t.kind for t in file.graphs()[0].tensors if t.constant}
    assert kinds[80, 16] == "FLOAT32" and kinds[40, 80] == "INT8"


def test_4_bits(text, tmp_path):
    exclude = {"float32": "embedding", "dynamic": "logits"}
    _, file = export(text, tmp_path, "int4", None, exclude=exclude)
    kinds = {t.shape: t.kind for t in file.graphs()[0].tensors if t.constant}
    assert (kinds[50, 32], kinds[5, 384], kinds[32, 32]) == ("FLOAT32", "INT8", "INT4")


@pytest.mark.promise
@pytest.mark.filterwarnings("ignore")
def test_layers_in_16_bits(network, tmp_path):
    plain, _ = export(network, tmp_path, "int8", IMAGES)
    before = kd.compare(network, plain, IMAGES, verbose=False).signal_to_noise_db
    exclude = {"int16x8": ["hidden", "logits", "pool", "sigmoid*"]}
    path, file = export(network, tmp_path, "int8", IMAGES, exclude=exclude)
    assert file.float_operators() == []
    assert file.tensor_types()["INT16"] >= 4
    assert kd.compare(network, path, IMAGES, verbose=False).signal_to_noise_db > before + 3


@pytest.mark.promise
@pytest.mark.filterwarnings("ignore")
def test_a_layer_of_layers_is_in_float_as_a_whole(text, tmp_path):
    _, file = export(text, tmp_path, "int8", TOKENS, exclude="attention")
    names = float_names(file)
    assert sum("attention" in name for name in names) == len(names) > 10
    assert not any(
        "attention" in o.outputs[0] and "INT8" in o.output_types
        for o in file.operators()
        if o.name != "QUANTIZE"
    )


@pytest.mark.promise
@pytest.mark.filterwarnings("ignore")
def test_a_planted_outlier_no_longer_costs_the_others(tmp_path):
    """A mask of -1e9 leaves 8 bits no step for the numbers beside it."""
    keras.utils.set_random_seed(0)
    given = [keras.Input((8,), name="x"), keras.Input((8,), name="mask")]
    hidden = layers.Dense(16, activation="relu", name="hidden")(given[0])
    scores = layers.Dense(8, name="scores")(hidden)
    masked = layers.Add(name="masked")([scores, (given[1] - 1.0) * 1e9])
    model = keras.Model(given, layers.Softmax(name="softmax")(masked))
    generator = np.random.default_rng(0)
    mask = (generator.random((64, 8)) > 0.3).astype("float32")
    mask[:, 0] = 1.0
    data = {"x": 3 * generator.normal(size=(64, 8)).astype("float32"), "mask": mask}
    found = {}
    for exclude in (None, ["scores", "subtract*", "multiply*", "masked", "softmax"]):
        path, file = export(model, tmp_path, "int8", data, exclude=exclude, calibration="minmax")
        found[exclude is None] = kd.compare(model, path, data, verbose=False)
    assert file.operator_counts()["FULLY_CONNECTED"] == 2 and file.tensor_types()["INT8"] >= 3
    assert found[True].agreement < 0.8
    assert found[False].agreement > 0.95


@pytest.mark.fast_cases(
    "arguments0-`exclude` names 'logit'.*no such layer",
    "arguments3-quantization='float32'",
    "arguments4-no layers in 'int4'",
)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"quantization": "int8", "exclude": "logit"}, "`exclude` names 'logit'.*no such layer"),
        ({"quantization": "int8", "exclude": "norm"}, "'norm'.*folds it into 'conv'"),
        ({"quantization": "int8", "exclude": "multiply*"}, "'multiply.*'.*folds it into"),
        ({"quantization": "float32", "exclude": "conv"}, "quantization='float32'"),
        ({"quantization": "int8", "exclude": {"int4": "conv"}}, "no layers in 'int4'"),
    ],
)
def test_what_cannot_be_excluded_is_refused(network, tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        export(network, tmp_path, data=IMAGES, **arguments)
    assert not list(tmp_path.iterdir())


def test_other_kinds_are_refused(network, tmp_path):
    with pytest.raises(TypeError, match="exclude"):
        export(network, tmp_path, "int8", IMAGES, exclude=3)


@pytest.mark.fast_cases("logits")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("layer", ["hidden", "logits", "conv"])
def test_a_file_that_breaks_the_promise_is_refused(network, tmp_path, layer):
    """The check reads the file: it does not trust what made it."""
    from keras_kd.export.conversion import Conversion
    from keras_kd.export.options import ExportOptions
    from keras_kd.export.saved_model import source_of

    job = Conversion(source_of(network), ExportOptions("int8"))
    job.use_data(IMAGES, None)
    converted = job.run()
    with pytest.raises(ValueError, match=f"'{layer}'"):
        check_excluded(
            network, {layer: "float32"}, converted.file, converted.signatures, "a.tflite"
        )


@pytest.mark.promise
@pytest.mark.filterwarnings("ignore")
def test_what_quantize_aware_excludes_stays_float_with_representative_data(tmp_path):
    def network():
        image = keras.Input((8, 8, 3), name="image")
        x = layers.Conv2D(8, 3, activation="relu", name="conv")(image)
        x = layers.Dense(16, activation="relu", name="hidden")(layers.Flatten()(x))
        return keras.Model(image, layers.Dense(4, name="logits")(x))

    distiller = kd.Distiller(network(), network(), kd.losses.KLDivergence(4.0))
    distiller.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    stage = kd.QuantizeAware(epochs=0, exclude="hidden")
    student = kd.compress(distiller, (IMAGES, np.zeros(64, "int64")), stages=[stage], verbose=0)
    path, file = export(student, tmp_path, "int8", IMAGES)
    kinds = {t.shape: t.kind for t in file.graphs()[0].tensors if t.constant}
    assert kinds[16, 288] == "FLOAT32" and kinds[4, 16] == "INT8"
    assert kd.read_metadata(path)["excluded"] == {"hidden": "float32"}
    _, file = export(student, tmp_path, "int8", None, exclude="logits")  # nothing is calibrated
    kinds = {t.shape: t.kind for t in file.graphs()[0].tensors if t.constant}
    assert kinds[4, 16] == "FLOAT32" and kinds[8, 3, 3, 3] == "INT8"
    student.save(tmp_path / "student.keras")
    path, file = export(kd.load_compressed(tmp_path / "student.keras"), tmp_path, "int8", IMAGES)
    assert kd.read_metadata(path)["excluded"] == {"hidden": "float32"}
