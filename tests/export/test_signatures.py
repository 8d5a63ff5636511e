from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

import keras_kd as kd
from keras_kd.export import conversion
from keras_kd.export.fidelity import shortfall
from keras_kd.export.signatures import call_target, check_signatures
from keras_kd.litert.constants import count_constants
from keras_kd.litert.metadata import read_metadata
from keras_kd.litert.model_file import ModelFile
from keras_kd.litert.runtime import LiteRuntime

IMAGES = np.random.default_rng(0).random((40, 10, 10, 1), np.float32)


def cnn() -> keras.Model:
    keras.utils.set_random_seed(0)
    inner = keras.Sequential(
        [
            keras.Input((10, 10, 1)),
            layers.Conv2D(16, 3, activation="relu", name="conv"),
            layers.GlobalAveragePooling2D(name="pool"),
        ],
        name="backbone",
    )
    i = keras.Input((10, 10, 1), name="image")
    return keras.Model(i, layers.Dense(4, name="logits")(layers.Dropout(0.5)(inner(i))))


def runner(path, name):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    signature = interpreter.get_signature_runner(name)
    return lambda **inputs: signature(**inputs)


@pytest.mark.fast_cases("int8")
@pytest.mark.parametrize("quantization", ["float32", "int8", "int16x8", "int4"])
def test_answers_and_embeddings_from_one_file(tmp_path, quantization):
    model = cnn()
    pool = keras.Model(model.get_layer("backbone").inputs, model.get_layer("backbone").outputs)

    def normalized(x):
        features = model.get_layer("backbone")(x)
        return {"unit": features / keras.ops.sqrt(keras.ops.sum(features**2, -1, keepdims=True))}

    # The converter sorts signatures by name: the first one here is not the first of these.
    path = kd.export_tflite(
        model,
        tmp_path / "a.tflite",
        quantization,
        representative_data=IMAGES,
        signatures={
            "serving_default": None,
            "embed": "backbone/pool",
            "both": ["logits", "backbone"],
            **({"a_function": normalized} if quantization == "float32" else {}),
        },
        batch_size={"both": 3},
        verbose=False,
    )
    tolerance = {"float32": 1e-5, "int8": 0.03, "int16x8": 0.01, "int4": 0.2}[quantization]
    logits, features = model(IMAGES, training=False).numpy(), pool(IMAGES).numpy()

    def check(given, wanted):
        np.testing.assert_allclose(given, wanted, atol=tolerance * np.abs(wanted).max())

    # A runtime which knows no signatures runs the first one.
    check(next(iter(LiteRuntime(path).predict({"image": IMAGES}).values())), logits)
    check(runner(path, "serving_default")(image=IMAGES[:7])["logits"], logits[:7])
    check(runner(path, "embed")(image=IMAGES[:5])["backbone_pool"], features[:5])
    both = runner(path, "both")(image=IMAGES[:3])
    check(both["logits"], logits[:3])
    check(both["backbone"], features[:3])
    described = read_metadata(path)["signatures"]
    shapes = {name: ends["outputs"][0]["shape"] for name, ends in described.items()}
    assert shapes["serving_default"] == [None, 4]
    assert shapes["embed"] == [None, 16]
    assert shapes["both"] == [3, 4]
    assert list(described)[:3] == ["serving_default", "embed", "both"]
    if quantization == "float32":
        unit = runner(path, "a_function")(image=IMAGES[:2])["unit"]
        check(np.linalg.norm(unit, axis=-1), np.ones(2))
        # The weights are there once.
        assert (
            count_constants(ModelFile(path.read_bytes())).types["FLOAT32"]
            < 1.1 * 9 * 16 + 5 * 16 + 8
        )


def embedder() -> keras.Model:
    """Its embedding has channels of sizes that are 30 times apart."""
    keras.utils.set_random_seed(0)
    i = keras.Input((6,), name="i")
    model = keras.Model(i, layers.Dense(3, name="o")(layers.Dense(16, "relu", name="fc")(i)))
    sizes = np.geomspace(0.03, 30.0, 16)
    fc, o = model.get_layer("fc").kernel, model.get_layer("o").kernel
    fc.assign(fc.numpy() * sizes)
    o.assign(o.numpy() / sizes[:, None])
    return model


def test_what_a_signature_gives_is_not_equalized(tmp_path):
    model = embedder()
    arguments = {"calibration": "equalization", "verbose": False}
    x = np.random.default_rng(0).normal(size=(20, 6)).astype("float32")
    path = tmp_path / "a.tflite"
    for signatures in ({"ans": None, "emb": "fc"}, {"ans": lambda x: {"o": model(x)}}):
        with pytest.raises(ValueError, match="given by a signature"):
            kd.export_tflite(model, path, "weight_only", signatures=signatures, **arguments)
    model = keras.Model(model.inputs, layers.Dense(2)(layers.ReLU()(model.output)))
    kd.export_tflite(
        model, path, "weight_only", signatures={"ans": None, "emb": "fc"}, **arguments
    )  # fmt: skip
    expected = model.get_layer("fc")(x)
    found = runner(path, "emb")(i=x)["fc"]
    np.testing.assert_allclose(found, expected, atol=0.01 * np.max(expected))
    small = (found * expected).numpy().sum(0) / np.square(expected).sum(0)
    np.testing.assert_allclose(small, np.ones(16), atol=0.05)


def test_every_signature_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(conversion, "keep_what_float16_loses", lambda *_: None)
    keras.utils.set_random_seed(0)
    i = keras.Input((6,), name="i")
    z = layers.Dense(16, name="fc")(i)
    model = keras.Model(i, [layers.Dense(3, name="o")(i), layers.Dense(2, name="over")(z)])
    model.get_layer("over").bias.assign([1e5, -1e5])  # more than 16 bits hold
    x = np.random.default_rng(0).normal(size=(40, 6)).astype("float32")
    y = model.predict(x, verbose=0)[0].argmax(-1)
    y[:10] = (y[:10] + 1) % 3
    signatures = {
        "side": ["fc"],
        "answer": "o",
        "probable": lambda x: {"p": keras.ops.softmax(model(x)[0])},
        "far": "over",
    }
    arguments = {"signatures": signatures, "validation_data": (x, y), "verbose": False}
    path = tmp_path / "a.tflite"
    arguments["on_disagreement"] = "ignore"
    found = kd.export_tflite(model, path, "float16", **arguments).fidelity
    said = shortfall(found, path, "float16", 0.95)
    assert "100.0% of its answers in signature 'answer' agree" in said
    assert "the relative error of output 'over' in signature 'far' is 34%" in said
    assert found.is_poor(0.95)
    known = {(o.signature, o.output): o for o in found.outputs}
    assert list(known) == [("side", "fc"), ("answer", "o"), ("probable", "p"), ("far", "over")]
    assert {key for key, o in known.items() if o.agreement == 1.0} == {
        ("answer", "o"),
        ("probable", "p"),
    }
    assert {key for key, o in known.items() if o.agreement is None} == {
        ("side", "fc"),
        ("far", "over"),
    }
    given, wanted = runner(path, "side")(i=x)["fc"], model.get_layer("fc")(x).numpy()
    error = np.sqrt(np.square(given - wanted).mean()) / wanted.std()
    assert 0.0 < error == pytest.approx(known["side", "fc"].relative_error, rel=0.1)
    assert found.worst.signature == "far" and found.layers[0].layer == "over"
    assert [o["signature"] for o in read_metadata(path)["fidelity"]["outputs"]][-1] == "far"


@pytest.mark.promise
@pytest.mark.parametrize("form", ["int16x8", "int8"])
def test_signatures_in_16_bits_share_weights(tmp_path, form):
    keras.utils.set_random_seed(0)
    i = keras.Input((6,), name="i")
    z = layers.Dense(64, activation="relu", name="fc")(i)
    z = layers.Dense(32, activation="relu", name="next")(z)
    model = keras.Model(i, [layers.Dense(3, name="o")(z), layers.Dense(4, name="side")(i)])
    x = np.random.default_rng(0).normal(size=(200, 6)).astype("float32")
    excluded = {"int16x8": ["next", "o"]} if form == "int8" else None
    path = kd.export_tflite(
        model, tmp_path / "a.tflite", form, x, exclude=excluded, verbose=False,
        signatures={"side": "side", "emb": "next", "ans": "o"}, on_disagreement="ignore",
    )  # fmt: skip
    for key, name in (("side", "side"), ("emb", "next"), ("ans", "o")):
        expected = keras.Model(i, model.get_layer(name).output).predict(x[:50], verbose=0)
        given = runner(path, key)(i=x[:50])[name]
        assert np.sqrt(np.square(given - expected).mean()) < 0.04 * expected.std()
    file = ModelFile(path.read_bytes())
    kernels = [len(b.data) for b in file.model.buffers if b.data is not None and len(b.data) > 383]
    assert sorted(kernels) == [384, 2048]
    assert path.fidelity.worst.relative_error < 0.1


@pytest.mark.promise
def test_signatures_in_16_bits_that_share_state_are_refused(tmp_path):
    i = keras.Input((3, 6), batch_size=1, name="i")
    z = layers.GRU(4, stateful=True, name="gru")(i)
    model = keras.Model(i, layers.Dense(3, name="o")(z))
    x = np.random.default_rng(0).normal(size=(40, 3, 6)).astype("float32")
    signatures = {"answer": None, "embed": "gru"}
    with pytest.raises(ValueError, match="in 16 bits cannot keep state"):
        kd.export_tflite(model, tmp_path / "a.tflite", "int16x8", x, signatures=signatures)


def test_no_signatures_is_the_default_one():
    assert check_signatures(None) == {"serving_default": None}
    with pytest.raises(ValueError, match="must be a dict"):
        check_signatures(["features"])
    with pytest.raises(ValueError, match="must be a dict"):
        check_signatures({})


def test_a_function_must_return_tensors():
    with pytest.raises(ValueError, match="must return a tensor"):
        call_target(cnn(), lambda x: "text", IMAGES[:1])


def test_a_model_which_writes_itself_has_one_signature(tmp_path):
    class Written:
        quantization_aware = True

        def write_saved_model(self, folder):
            raise AssertionError("not reached")

    with pytest.raises(ValueError, match="`signatures` needs a Keras 3 model"):
        kd.export_tflite(Written(), tmp_path / "a.tflite", signatures={"features": "pool"})


def test_a_tensor_under_two_names_has_both(tmp_path):
    i = keras.Input((4,), name="i")
    logits = layers.Dense(3, name="z")(i)
    other = layers.Dense(2, name="m")(i)
    same = layers.Dropout(0.5, name="a")(logits)
    model = keras.Model(i, [logits, other, same])
    path = kd.export_tflite(model, tmp_path / "a.tflite", verbose=False)
    runtime = LiteRuntime(path)
    assert runtime.output_names == ["z", "m", "a"]
    assert [output["name"] for output in read_metadata(path)["outputs"]] == ["z", "m", "a"]
    x = np.eye(4, dtype="float32")
    found = runtime.predict({"i": x})
    for name, expected in zip("zma", model(x), strict=True):
        np.testing.assert_allclose(found[name], expected, atol=1e-6)


def _of_two_names():
    i = keras.Input((4,))
    return keras.Model(i, {"a b": layers.Dense(2)(i), "a/b": layers.Dense(2)(i)})


@pytest.mark.parametrize(
    ("make", "signatures"),
    [
        (_of_two_names, None),
        (cnn, {"f": lambda x: {"a b": x, "a_b": x + 1.0}}),
        (cnn, {"f": ["backbone/pool", "backbone_pool"]}),
    ],
)
def test_outputs_that_would_have_one_name_are_refused(tmp_path, make, signatures):
    model = make()
    if isinstance((signatures or {}).get("f"), list):
        x = model.outputs[0]
        model = keras.Model(model.inputs, layers.Dense(2, name="backbone_pool")(x))
    with pytest.raises(ValueError, match="Two outputs"):
        kd.export_tflite(model, tmp_path / "a.tflite", signatures=signatures)


@pytest.mark.filterwarnings("ignore:When providing `inputs` as a dict")
@pytest.mark.parametrize("names", [("b", "a"), ("one", "two"), ("a", "b")])
def test_inputs_in_a_dictionary_have_the_names_of_its_keys(tmp_path, names):
    first, second = (keras.Input((4,), name=name) for name in names)
    model = keras.Model({"a": first, "b": second}, layers.Subtract()([first, second]))
    path = kd.export_tflite(model, tmp_path / "a.tflite", verbose=False)
    data = {"a": np.full((1, 4), 5.0, "float32"), "b": np.ones((1, 4), "float32")}
    (found,) = LiteRuntime(path).predict(data).values()
    np.testing.assert_allclose(found, np.full((1, 4), 4.0))
    assert kd.compare(path, data, model, verbose=False).max_difference == 0.0
