"""Kernels that 4 bits would change too much keep 8."""

import warnings

import keras
import numpy as np
import pytest
from keras import layers

import keras_kd as kd
from keras_kd.export import int4_kernels
from keras_kd.export.int4 import to_int4
from keras_kd.litert.model_file import ModelFile


def network(spread):
    """Return a network whose second kernel has inputs that are `spread` times apart."""
    keras.utils.set_random_seed(0)
    i = keras.Input((32,), name="x")
    first, second = layers.Dense(64, name="first"), layers.Dense(64, name="second")
    model = keras.Model(i, layers.Dense(16, name="logits")(second(first(i))))
    scales = np.geomspace(1.0, spread, 64)
    first.kernel.assign(np.asarray(first.kernel) * scales)
    second.kernel.assign(np.asarray(second.kernel) / scales[:, None])
    return model


X = np.random.default_rng(0).normal(size=(64, 32)).astype("float32")


def kinds(path):
    tensors = ModelFile(path.read_bytes()).graphs()[0].tensors
    return {t.shape: t.kind for t in tensors if t.constant and len(t.shape) == 2}


@pytest.mark.promise
def test_well_behaved_kernels_have_4_bits(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        path = kd.export_tflite(
            network(1.0), tmp_path / "a.tflite", "int4", X, on_disagreement="ignore", verbose=False
        )
    found = kd.read_metadata(path)["kernels_in_4_bits"]
    assert [kernel["layers"] for kernel in found] == [["first"], ["second"], ["logits"]]
    assert all(kernel["bits"] == 4 and 0.03 < kernel["error"] < 0.15 for kernel in found)
    assert set(kinds(path).values()) == {"INT4"}


@pytest.mark.promise
def test_only_data_tells_which_inputs_are_large(tmp_path):
    model = network(300.0)
    plain = kd.export_tflite(model, tmp_path / "a.tflite", "int4", verbose=False)
    assert kinds(plain)[64, 64] == "INT4"
    with pytest.warns(UserWarning, match=r"1 of 3 kernels in 8 bits.*'second' \("):
        path = kd.export_tflite(
            model, tmp_path / "b.tflite", "int4", X, calibration="minmax",
            on_disagreement="ignore", verbose=False,
        )  # fmt: skip
    assert kinds(path) == {(64, 32): "INT4", (64, 64): "INT8", (16, 64): "INT4"}
    found = {k["layers"][0]: k for k in kd.read_metadata(path)["kernels_in_4_bits"]}
    assert found["second"]["bits"] == 8 and found["second"]["error"] > 0.2
    # Equalized, no input is large, and all kernels have 4 bits.
    even = kd.export_tflite(
        model, tmp_path / "c.tflite", "int4", X, on_disagreement="ignore", verbose=False
    )
    assert even.fidelity.calibration == "equalization"
    assert set(kinds(even).values()) == {"INT4"}
    files = (plain, path, even)
    noise = [kd.compare(model, file, X, verbose=False).signal_to_noise_db for file in files]
    assert noise[1] > noise[0] + 5 and noise[2] > noise[0] + 5


@pytest.mark.promise
@pytest.mark.parametrize(
    "signatures", [{"emb": "first", "ans": None}, {"ans": None, "emb": "first"}]
)
def test_kernels_of_every_signature_are_measured(tmp_path, signatures):
    path = kd.export_tflite(
        network(300.0), tmp_path / "a.tflite", "int4", X, calibration="minmax",
        signatures=signatures, on_disagreement="ignore", verbose=False,
    )  # fmt: skip
    found = kd.read_metadata(path)["kernels_in_4_bits"]
    assert {(*k["layers"], k["bits"]) for k in found} == {
        ("first", 4),
        ("second", 8),
        ("logits", 4),
    }
    assert len({k["error"] for k in found if k["layers"] == ["first"]}) == 1
    graphs = ModelFile(path.read_bytes()).graphs()
    stored = [t.buffer for g in graphs for t in g.tensors if t.constant and t.shape == (64, 32)]
    assert len(stored) == 2 and len(set(stored)) == 1


def test_the_error_is_that_of_the_outputs(tmp_path):
    """For inputs that are uncorrelated, against the product in float64."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((128,), name="x"), layers.Dense(64, use_bias=False)])
    generator = np.random.default_rng(0)
    x = generator.normal(size=(4000, 128)) * generator.uniform(0.1, 3.0, 128)
    path = kd.export_tflite(
        model, tmp_path / "a.tflite", "int4", x[:64].astype("float32"), on_disagreement="ignore",
        verbose=False,
    )  # fmt: skip
    file = ModelFile(path.read_bytes())
    (stored,) = [t for t in file.graphs()[0].tensors if t.kind == "INT4"]
    nibbles = np.stack([stored.data & 15, stored.data >> 4], -1).ravel().astype(int)
    values = np.where(nibbles > 7, nibbles - 16, nibbles).reshape(stored.shape)
    kernel = np.asarray(model.layers[-1].kernel, np.float64)
    exact, four = x @ kernel, x @ (values * np.array(stored.scales)[:, None]).T
    expected = np.sqrt(np.mean((exact - four) ** 2) / np.mean(exact**2))
    (found,) = kd.read_metadata(path)["kernels_in_4_bits"]
    assert found["error"] == pytest.approx(expected, rel=0.1)


def heavy_tailed(seed=0):
    """Return a chain of layers whose kernels have a few large weights."""
    keras.utils.set_random_seed(seed)
    model = keras.Sequential([keras.Input((64,), name="x"), *(layers.Dense(64) for _ in range(3))])
    generator = np.random.default_rng(seed)
    for layer in model.layers:
        layer.kernel.assign(generator.standard_t(4, (64, 64)) / 8)
    return model


@pytest.mark.fast_cases("20.0-False")
@pytest.mark.parametrize("shared, clipped", [(0.0, True), (20.0, False)])
def test_the_outputs_decide_whether_weights_are_clipped(tmp_path, shared, clipped, monkeypatch):
    """What all inputs have in common adds up what was clipped; apart from it clipping is better."""
    monkeypatch.setattr(int4_kernels, "LARGEST_ERROR", 1.0)
    model = heavy_tailed()
    for layer in model.layers:
        layer.kernel.assign(np.abs(layer.kernel) if shared else layer.kernel)
    generator = np.random.default_rng(1)
    x = generator.normal(size=(128, 64)) + shared * generator.normal(size=(128, 1))
    x = x.astype("float32")
    noise = {}
    for name, data in (("with data", x[:64]), ("without", None)):
        path = kd.export_tflite(
            model, tmp_path / f"{name}.tflite", "int4", data, calibration="minmax",
            on_disagreement="ignore", verbose=False,
        )  # fmt: skip
        kernels = kd.read_metadata(path)["kernels_in_4_bits"]
        chosen = {kernel["clipped"] for kernel in kernels}
        assert chosen == {clipped if data is not None else True}
        noise[name] = kd.compare(model, path, x[64:], verbose=False).signal_to_noise_db
    assert clipped or noise["with data"] > noise["without"]


@pytest.mark.parametrize("best", [True, False])
def test_a_kernel_is_rounded_otherwise_rather_than_in_8_bits(best):
    errors = {best: {"a": 0.12, "b": 0.25, "c": 0.4}, not best: {"a": 0.1, "b": 0.15, "c": 0.3}}
    found = [int4_kernels._decision(output, errors, best) for output in "abc"]
    assert [(kernel.error, kernel.bits) for kernel in found] == [(0.12, 4), (0.15, 4), (0.4, 8)]
    assert [kernel.clipped for kernel in found] == [best, not best, False]
    (trained,) = [int4_kernels._decision("c", {False: {"c": 0.4}}, False)]
    assert (trained.bits, trained.error) == (8, 0.4)


def test_some_kernels_are_clipped_and_others_not(tmp_path):
    path = kd.export_tflite(heavy_tailed(), tmp_path / "a.tflite", verbose=False, keep_names=True)

    def scales(clip):
        tensors = to_int4(ModelFile(path.read_bytes()), clip).graphs()[0].tensors
        return [t.scales for t in tensors if t.kind == "INT4"]

    clipped, whole = scales(True), scales(False)
    outputs = [o.outputs[0] for o in ModelFile(path.read_bytes()).operators()]
    assert len(clipped) == len(whole) == len(outputs) == 3
    for output in outputs:
        mixed = scales([output])
        assert sum(scale in clipped for scale in mixed) == 1
        assert sum(scale in whole for scale in mixed) == 2
