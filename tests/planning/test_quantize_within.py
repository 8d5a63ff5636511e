"""As few bits as a limit allows: measured on the written file, reported on other samples."""

import dataclasses
import json
import warnings

import keras
import numpy as np
import pytest
from keras import layers

import keras_kd as kd
from keras_kd.export.conversion import Conversion
from keras_kd.export.saved_model import source_of
from keras_kd.litert.model_file import ModelFile
from keras_kd.litert.runtime import LiteRuntime
from keras_kd.planning import bit_search
from keras_kd.planning.quantize_within import _check_enough, _divided, _shortfall


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("benchmarks/export_subjects.py")


def network(factors=(1.0,)):
    """Return a network, the inputs of whose second layer are so many times apart."""
    keras.utils.set_random_seed(0)
    i = keras.Input((16,), name="x")
    first = layers.Dense(24, activation="relu", name="first")
    second = layers.Dense(48, activation="relu", name="second")
    x = layers.Dense(96, activation="relu", name="third")(second(first(i)))
    model = keras.Model(i, layers.Dense(6, name="logits")(layers.Dense(96, name="fourth")(x)))
    scales = np.resize(factors, 24)
    first.kernel.assign(np.asarray(first.kernel) * scales)
    second.kernel.assign(np.asarray(second.kernel) / scales[:, None])
    return model


X = np.random.default_rng(0).normal(size=(1500, 16)).astype("float32")
APART = np.geomspace(1.0, 1000.0, 24)


def labeled(model):
    return X, np.argmax(model(X), 1)


@pytest.fixture(scope="module")
def faulty():
    return network(APART)


@pytest.fixture(scope="module")
def found(faulty, tmp_path_factory):
    path = tmp_path_factory.mktemp("within") / "a.tflite"
    return kd.quantize_within(
        faulty, labeled(faulty), path, max_drop=6.0, calibration="minmax", verbose=False
    )


@pytest.mark.promise
def test_the_layers_that_suffer_get_more_bits(found, faulty):
    assert found.within and found.drop <= 6.0
    named = {name for names in found.exclude.values() for name in names}
    assert "second" in named and "fourth" not in named
    rows = {row.layers[0]: row for row in found.layers}
    assert rows["second"].sensitivity > 5 * rows["fourth"].sensitivity
    assert rows["fourth"].decision == "int8" and rows["fourth"].operations == 96 * 96
    assert rows["second"].operations == 24 * 48
    assert rows["fourth"].bytes == 96 * 96  # its bias is zero, and not stored
    total = 16 * 24 + 24 * 48 + 48 * 96 + 96 * 96 + 96 * 6
    floats = sum(row.operations for row in found.layers if row.decision == "float32")
    assert found.integer_operations == pytest.approx(1 - floats / total)
    # int8 with the converter's ranges loses more.
    plain = kd.export_tflite(
        faulty, found.path.with_name("plain.tflite"), "int8", X, calibration="minmax",
        verbose=False, on_disagreement="ignore",
    )  # fmt: skip
    result = kd.evaluate_tflite(plain, labeled(faulty), verbose=False)
    assert result.accuracy < found.accuracy


def test_the_figures_are_those_of_the_written_file(found, faulty):
    _, _, reporting = _divided(labeled(faulty), source_of(faulty), 2048, True)
    rows = [batch.inputs["x"] for batch in reporting.batches]
    x = np.concatenate(rows)
    y = np.argmax(faulty(x), 1)
    result = kd.evaluate_tflite(found.path, (x, y), faulty, verbose=False)
    assert found.samples == len(x) == 500
    assert found.accuracy <= result.accuracy and abs(found.accuracy - result.accuracy) < 0.02
    assert found.bytes == found.path.stat().st_size


@pytest.mark.promise
def test_the_plan_writes_the_same_file(found, faulty):
    content = json.loads(found.path.with_name("a.tflite.plan.json").read_text())
    assert content["result"]["exclude"] == found.exclude
    assert content["result"]["within"] is True
    calibrating, _, _ = _divided(labeled(faulty), source_of(faulty), 2048, True)
    again = kd.export_tflite(
        faulty, found.path.with_name("again.tflite"), "int8", calibrating, exclude=found.exclude,
        calibration=found.calibration, verbose=False, on_disagreement="ignore",
    )  # fmt: skip
    assert again.read_bytes() == found.path.read_bytes()


def test_the_table_says_everything(found):
    text = str(found)
    assert text.splitlines()[0].split() == [
        "layer",
        "sensitivity",
        "decision",
        "bytes",
        "operations",
    ]
    assert "keeps to max_drop=6" in text and "operations in integers" in text


def test_nothing_is_decided_on_what_is_reported():
    model = network()
    x = np.arange(300 * 16, dtype="float32").reshape(300, 16)
    parts = _divided((x, np.zeros(300, int)), source_of(model), 250, True)
    rows = [{row[0] for row in np.asarray(parts[0]["x"])}]
    rows += [{row[0] for b in part.batches for row in b.inputs["x"]} for part in parts[1:]]
    assert [len(part) for part in rows] == [83, 83, 84]
    assert not rows[0] & rows[1] and not rows[0] & rows[2] and not rows[1] & rows[2]


def test_without_a_fault_all_is_in_8_bits(tmp_path):
    model = network()
    found = kd.quantize_within(model, X, tmp_path / "a.tflite", min_agreement=0.9, verbose=False)
    assert found.within and found.exclude == {} and found.integer_operations == 1.0
    assert found.accuracy is None and found.drop is None and found.agreement >= 0.9


@pytest.mark.promise
def test_a_killed_search_goes_on(faulty, tmp_path, monkeypatch, capsys):
    """The second run measures what the first did not, and finds what one run finds."""
    measured = []
    original = bit_search.measure_answers

    def counting(expected, path, xnnpack):
        if len(measured) == 3 and not measured.count("killed"):
            measured.append("killed")
            raise KeyboardInterrupt
        measured.append(path)
        return original(expected, path, xnnpack)

    monkeypatch.setattr(bit_search, "measure_answers", counting)
    arguments = {"max_drop": 6.0, "calibration": "minmax", "verbose": False}
    path = tmp_path / "a.tflite"
    with pytest.raises(KeyboardInterrupt):
        kd.quantize_within(faulty, labeled(faulty), path, **arguments)
    assert not path.exists()
    first = json.loads(path.with_name("a.tflite.plan.json").read_text())
    kd.quantize_within(faulty, labeled(faulty), path, **arguments)
    after = json.loads(path.with_name("a.tflite.plan.json").read_text())
    assert first["tried"].items() <= after["tried"].items()
    total = len(measured)
    capsys.readouterr()
    arguments["verbose"] = True
    resumed = kd.quantize_within(faulty, labeled(faulty), path, **arguments)
    assert len(measured) == total  # all is known
    said = capsys.readouterr().out
    assert said.startswith(f"{len(after['tried'])} files were measured before")
    assert "layers in more bits: " not in said
    whole = kd.quantize_within(faulty, labeled(faulty), tmp_path / "b.tflite", **arguments)
    lines = [x for x in capsys.readouterr().out.splitlines() if "layers in more bits: " in x]
    assert len(lines) == len(after["tried"])
    assert resumed.exclude == whole.exclude
    assert path.read_bytes() == (tmp_path / "b.tflite").read_bytes()
    # Another model begins anew.
    other = network(APART[::-1])
    kd.quantize_within(other, labeled(other), path, **arguments)
    assert len(measured) > total


@keras.saving.register_keras_serializable(package="tests")
class Raw(keras.Model):
    """Computes outside of layers what 8 bits cannot hold."""

    def __init__(self):
        super().__init__()
        self.hidden = layers.Dense(6, name="hidden")

    def call(self, x):
        x = self.hidden(x)
        large = keras.ops.concatenate([x[:, :1] * 1e4, x[:, 1:]], 1)
        return large * keras.ops.convert_to_tensor([1e-4, 1.0, 1.0, 1.0, 1.0, 1.0])


@pytest.mark.promise
def test_a_limit_that_cannot_be_met_is_said_and_the_nearest_file_kept(tmp_path):
    keras.utils.set_random_seed(0)
    model = Raw()
    model(X[:1])
    with pytest.warns(UserWarning, match=r"does not keep to the limit.*min_agreement=0.99"):
        found = kd.quantize_within(
            model, X, tmp_path / "a.tflite", min_agreement=0.99, verbose=False
        )
    assert not found.within and found.agreement < 0.99
    assert found.path.exists() and "does not keep to min_agreement=0.99" in str(found)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "max_drop=None, min_agreement=None"),
        ({"max_drop": 1.0, "min_agreement": 0.9}, "max_drop=1.0, min_agreement=0.9"),
        ({"max_drop": -1.0}, "max_drop"),
        ({"min_agreement": 0.9, "quantization": "float16"}, "quantization='float16'"),
        ({"max_drop": 1.0}, "`data` has no labels"),
        ({"min_agreement": 0.9, "data": X[:50]}, "50 samples"),
        ({"min_agreement": 0.99, "data": X[:250]}, r"leaves 83 samples.*`data` of 300 samples"),
        ({"min_agreement": 0.9, "calibration": "best"}, "calibration='best'"),
        ({"min_agreement": 0.9, "path": "a.tfl"}, "must end in '.tflite'"),
        ({"min_agreement": 0.9, "quantization": "int4", "integer_io": True}, "`integer_io=True`"),
        ({"min_agreement": 0.9, "class_names": []}, "class_names"),
        (
            {"min_agreement": 0.9, "representative_data": iter([X])},
            "`representative_data` is needed several times",
        ),
    ],
)
def test_what_cannot_be_is_refused(tmp_path, monkeypatch, arguments, message):
    """Before any work, and nothing is left behind."""
    monkeypatch.setattr(Conversion, "run", None)
    arguments = dict(arguments)
    data, path = arguments.pop("data", X), tmp_path / arguments.pop("path", "a.tflite")
    with pytest.raises(ValueError, match=message):
        kd.quantize_within(network(), data, path, verbose=False, **arguments)
    assert not list(tmp_path.iterdir())


def test_a_misspelt_argument_gets_a_suggestion(tmp_path):
    with pytest.raises(TypeError, match="batch_size"):
        kd.quantize_within(network(), X, tmp_path / "a.tflite", min_agreement=0.9, batch_sise=1)


@pytest.mark.promise
def test_numbers_are_no_answers(tmp_path):
    model = keras.Sequential([keras.Input((16,)), layers.Dense(1)])
    model.compile(loss="mse")
    y = X.sum(1)
    with pytest.raises(ValueError, match="is not classes"):
        kd.quantize_within(model, (X, y), tmp_path / "a.tflite", min_agreement=0.9, verbose=False)


@pytest.mark.promise
def test_it_starts_from_the_way_that_is_chosen(found, faulty, tmp_path):
    """What ranges and scales cure costs no float, and the limit holds as closely as asked."""
    arguments = {"min_agreement": 0.97, "verbose": False}
    cured = kd.quantize_within(faulty, X, tmp_path / "a.tflite", **arguments)
    assert "equalization" in cured.calibration and found.calibration == "minmax"
    assert cured.within and cured.exclude == {} and cured.integer_operations == 1.0
    data = _divided(X, source_of(faulty), 2048, True)[0]
    plain = kd.export_tflite(faulty, tmp_path / "b.tflite", "int8", data, verbose=False)
    assert plain.fidelity.calibration == cured.calibration
    assert plain.read_bytes() == cured.path.read_bytes()
    # More bits stand beside those ranges, too.
    finer = kd.quantize_within(
        faulty, X, tmp_path / "c.tflite", calibration="percentile", **arguments
    )
    assert finer.within and finer.exclude and finer.calibration == "percentile"
    again = kd.export_tflite(
        faulty, tmp_path / "d.tflite", "int8", data, exclude=finer.exclude,
        calibration=finer.calibration, verbose=False,
    )  # fmt: skip
    assert again.read_bytes() == finer.path.read_bytes()


def test_few_samples_without_a_mistake_prove_little():
    few, many = (bit_search.Figures(n, 1.0, None, None) for n in (80, 200))
    limit = {"min_agreement": 0.99}
    assert few.spare(limit) == many.spare(limit) == pytest.approx(0.01)
    assert few.spare(limit, errors=1.0) < 0 < many.spare(limit, errors=1.0)
    lucky = bit_search.Figures(400, 0.97, 0.93, 0.91)  # more right answers, of which 12 differ
    assert lucky.spare({"max_drop": 0.5}) == pytest.approx(0.025)
    assert lucky.spare({"max_drop": 0.5}, errors=1.0) == pytest.approx(0.005 - (0.03 / 400) ** 0.5)
    # None may differ: then none does, or one does.
    assert few.spare({"min_agreement": 1.0}, errors=1.0) == 0.0


@pytest.mark.parametrize("samples", [200, 300, 597, 1000])
def test_a_file_at_its_limit_is_within_it(samples):
    """Shares of a count are not exact in binary: 0.98 - 0.975 is above 0.005."""
    for lost in range(1, 20):
        for right in range(lost, samples + 1):
            figures = bit_search.Figures(
                samples, 1 - lost / samples, (right - lost) / samples, right / samples
            )
            assert figures.spare({"max_drop": 100 * lost / samples}) == 0.0
            assert figures.spare({"max_drop": 100 * (lost - 0.5) / samples}) < 0.0
            assert figures.spare({"min_agreement": (samples - lost) / samples}) == 0.0


def assert_decisions_of_the_file(found):
    kernels = kd.read_metadata(found.path)["kernels_in_4_bits"]
    bits = {tuple(kernel["layers"]): kernel["bits"] for kernel in kernels}
    tensors = ModelFile(found.path.read_bytes()).graphs()[0].tensors
    constants = [t for t in tensors if t.constant and len(t.shape) == 2]
    for row in found.layers:
        if row.layers in bits:
            assert row.decision == {4: "int4", 8: "dynamic"}[bits[row.layers]]
    for decision, kind in (("int4", "INT4"), ("dynamic", "INT8"), ("float32", "FLOAT32")):
        decided = sum(row.decision == decision for row in found.layers)
        assert decided == sum(t.kind == kind for t in constants)


@pytest.mark.promise
def test_a_kernel_that_int4_keeps_in_8_bits_is_said_to_have_8(faulty, tmp_path):
    """4 bits change the uneven kernel too much, and those of fewer than 1,024 numbers have 8."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = kd.quantize_within(
            faulty, X[:300], tmp_path / "a.tflite", min_agreement=0.5, quantization="int4",
            representative_data=X[:64], calibration="minmax", verbose=False,
        )  # fmt: skip
    assert found.exclude == {}
    decisions = {row.layers[0]: row.decision for row in found.layers}
    assert decisions == {
        "first": "dynamic", "second": "dynamic", "third": "int4", "fourth": "int4",
        "logits": "dynamic",
    }  # fmt: skip
    assert_decisions_of_the_file(found)


@pytest.mark.parametrize(
    ("limit", "advice"),
    [
        ({"min_agreement": 1.0}, "give more data to decide on, or a looser limit."),
        ({"max_drop": 0.0}, "give more data to decide on, or a looser limit."),
        ({"min_agreement": 0.99}, "give more data, or a tighter limit."),
    ],
)
def test_no_tighter_limit_is_advised_than_none(found, limit, advice):
    text = _shortfall(dataclasses.replace(found, limit=limit), True)
    assert text.endswith(advice)
    _check_enough(32, {"min_agreement": 1.0}, 2)
    with pytest.raises(ValueError, match="`data` of 2000 samples"):
        _check_enough(32, {"min_agreement": 0.999}, 2)


def test_4_bits(tmp_path):
    model = network()
    found = kd.quantize_within(
        model, X, tmp_path / "a.tflite", min_agreement=0.93, quantization="int4", verbose=False
    )
    assert found.within
    assert {row.decision for row in found.layers} >= {"int4"}
    assert_decisions_of_the_file(found)
    assert set(found.exclude) <= {"dynamic", "float32"}


@pytest.mark.promise
@pytest.mark.parametrize("fault", ["student", "dead_channel", "uneven_kernel", "masked_pooling"])
def test_every_planted_fault_costs_half_a_point_at_most(script, tmp_path, fault):
    model, calibration, test, deciding = getattr(script, fault)()
    arguments = {"representative_data": calibration, "verbose": False}
    found = kd.quantize_within(model, deciding, tmp_path / "a.tflite", max_drop=0.5, **arguments)
    assert found.within and found.drop <= 0.5
    assert found.integer_operations >= 0.9
    plain = kd.export_tflite(model, tmp_path / "b.tflite", "int8", **arguments)
    ours, theirs = (kd.evaluate_tflite(p, test, model, verbose=False) for p in (found.path, plain))
    assert ours.model_accuracy - ours.accuracy <= 0.005
    assert ours.agreement >= theirs.agreement  # never less true than without a limit
    bare = kd.export_tflite(
        model, tmp_path / "c.tflite", "int8", calibration="minmax", on_disagreement="ignore",
        **arguments,
    )  # fmt: skip
    lost = ours.model_accuracy - kd.evaluate_tflite(bare, test, model, verbose=False).accuracy
    assert fault == "student" or lost > 0.005  # the fault is one


@pytest.mark.promise
def test_a_looser_limit_runs_the_kernels_that_a_tighter_one_spared(faulty, tmp_path):
    path, data = tmp_path / "a.tflite", labeled(faulty)
    arguments = {"calibration": "minmax", "verbose": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kd.quantize_within(faulty, data, path, min_agreement=1.0, **arguments)
    tried = json.loads(path.with_name("a.tflite.plan.json").read_text())["tried"]
    assert len(tried["{}"]) == 1  # XNNPACK's alone: they break the limit
    kd.quantize_within(faulty, data, path, min_agreement=0.5, **arguments)
    tried = json.loads(path.with_name("a.tflite.plan.json").read_text())["tried"]
    assert len(tried["{}"]) == 2


@pytest.mark.promise
def test_sample_weights_are_a_part_of_what_was_measured(faulty, tmp_path):
    x, y = labeled(faulty)
    settings = []
    for weight in (1.0, 0.0):
        data = x, y, np.where(np.arange(len(x)) < 700, 1.0, weight)
        path = tmp_path / f"{weight}.tflite"
        kd.quantize_within(faulty, data, path, min_agreement=0.5, verbose=False)
        settings.append(
            json.loads(path.with_name(f"{path.name}.plan.json").read_text())["settings"]
        )
    assert settings[0] != settings[1]


@pytest.mark.promise
def test_every_output_is_held_to_the_limit(faulty, tmp_path):
    """The second head reads the layer that 8 bits ruin; the first does not."""
    shallow = layers.Dense(6, name="shallow")(faulty.input)
    model = keras.Model(faulty.input, [shallow, faulty.output])
    answers = tuple(np.argmax(output, 1) for output in model(X))
    found = kd.quantize_within(
        model, (X, answers), tmp_path / "a.tflite", max_drop=6.0, calibration="minmax",
        verbose=False,
    )  # fmt: skip
    assert found.within and found.exclude
    plain = kd.export_tflite(
        model, tmp_path / "b.tflite", "int8", X, calibration="minmax", on_disagreement="ignore",
        verbose=False,
    )  # fmt: skip
    given = LiteRuntime(plain).predict({"x": X})
    right = [np.mean(np.argmax(given[n], 1) == y) for n, y in zip(given, answers, strict=True)]
    assert right[0] > 0.94 > right[1]
    with pytest.raises(ValueError, match="has no labels"):
        kd.quantize_within(
            model, (X, (answers[0], None)), tmp_path / "c.tflite", max_drop=6.0, verbose=False
        )


def test_batches_of_several_lengths(tmp_path):
    keras.utils.set_random_seed(0)
    i = keras.Input((None, 4))
    x = layers.GlobalAveragePooling1D()(layers.Conv1D(8, 3, padding="same")(i))
    model = keras.Model(i, layers.Dense(3)(x))
    generator = np.random.default_rng(0)
    batches = [generator.normal(size=(16, 6 + n % 4, 4)).astype("float32") for n in range(20)]
    data = [(x, np.argmax(model(x), 1)) for x in batches]
    found = kd.quantize_within(model, data, tmp_path / "a.tflite", min_agreement=0.9, verbose=False)
    assert found.within and (tmp_path / "a.tflite").exists()
