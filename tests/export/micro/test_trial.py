"""The interpreter for microcontrollers runs what was exported, in the arena that is told."""

import pathlib
import re
import shutil
import sys

import keras
import numpy as np
import pytest

from keras_kd.export.micro import trial as micro_trial
from keras_kd.export.micro.c_array import export_c_array
from keras_kd.export.tflite import export_tflite
from keras_kd.litert.runtime import LiteRuntime

pytest.importorskip("tflite_micro")

REFERENCE = pathlib.Path(__file__).parents[3] / "exports" / "reference" / "seed0" / "int8.tflite"


def test_the_reference_file_is_measured(tmp_path):
    model = shutil.copy(REFERENCE, tmp_path / "student.tflite")
    written = export_c_array(model)
    # What the library's own records say of this file, from its print_allocations().
    assert written.arena_bytes == 44416
    assert written.arena_size == 49152  # a tenth more, in whole KiB
    assert 0 <= written.max_difference < 0.5  # one step of its int8 output is 0.106
    assert 0.0 < written.latency_ms < 1000.0
    text = written.header.read_text()
    assert "Ran in 44,416 bytes on a 64-bit machine" in text
    assert re.search(r"Run in TensorFlow Lite for Microcontrollers .* at most [\d.e-]+\.", text)


def test_the_bytes_in_the_source_run_on_the_given_arena(tmp_path):
    from tflite_micro import runtime

    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((6, 6, 2)), keras.layers.Conv2D(3, 3)])
    x = np.random.default_rng(0).normal(size=(16, 6, 6, 2)).astype("float32")
    path = tmp_path / "net.tflite"
    export_tflite(model, path, "int8", representative_data=x, integer_io=True, verbose=False)
    written = export_c_array(path)
    array = re.search(r"kModel\[kModelSize\] = \{(.*?)\};", written.source.read_text(), re.S)[1]
    content = bytes(int(byte, 16) for byte in re.findall(r"0x\w\w", array))
    interpreter = runtime.Interpreter.from_bytes(content, arena_size=written.arena_size)
    header = written.header.read_text()
    constants = dict(re.findall(r"constexpr \w+ (k\w+) = (-?[\d.e+-]+)f?;", header))
    assert "using Input0Type = std::int8_t;" in header
    assert "constexpr int kOutput0Shape[] = {1, 4, 4, 3};" in header
    scale, zero = float(constants["kInput0Scale"]), int(constants["kInput0ZeroPoint"])
    values = np.clip(np.round(x[:1] / scale) + zero, -128, 127).astype(np.int8)
    interpreter.set_input(values, 0)
    interpreter.invoke()
    scale, zero = float(constants["kOutput0Scale"]), int(constants["kOutput0ZeroPoint"])
    given = (interpreter.get_output(0).astype(np.float64) - zero) * scale
    (expected,) = LiteRuntime(path).predict({LiteRuntime(path).inputs[0].name: x[:1]}).values()
    np.testing.assert_allclose(given, expected, atol=1.01 * scale)
    np.testing.assert_allclose(given, model(x[:1]), atol=8 * scale)


def test_a_refusal_is_in_the_library_s_own_words(tmp_path, monkeypatch):
    script = tmp_path / "refuse.py"
    script.write_text(
        "import sys\nprint('Didn\\'t find op', file=sys.stderr)\nraise SystemExit(3)\n"
    )
    monkeypatch.setattr(micro_trial.micro_probe, "__file__", str(script))
    model = shutil.copy(REFERENCE, tmp_path / "a.tflite")
    with pytest.raises(ValueError, match=r"Microcontrollers cannot run '.*': Didn't find op"):
        export_c_array(model)
    script.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    with pytest.raises(ValueError, match=r"its interpreter crashed \(signal 11\)"):
        export_c_array(model)
    assert not (tmp_path / "a.h").exists()


def test_different_outputs_are_refused(tmp_path, monkeypatch):
    model = shutil.copy(REFERENCE, tmp_path / "a.tflite")
    trial = micro_trial.Trial(1000, 1.0, 10.0, differs=True, latency_ms=1.0)
    monkeypatch.setattr("keras_kd.export.micro.c_array.run_trial", lambda path, estimate: trial)
    with pytest.raises(ValueError, match="allow_differences=False"):
        export_c_array(model)
    assert not (tmp_path / "a.h").exists()
    with pytest.warns(UserWarning, match="differ by 1, where the largest output is 10"):
        export_c_array(model, allow_differences=True)


class Dilated(keras.layers.Layer):
    """What the exporter cannot write as one operator where the batch is open."""

    def __init__(self, *args, **kwargs):
        super().__init__()
        self.arguments = args

    def build(self, shape):
        rank, _, inputs, outputs = self.arguments
        self.kernel = self.add_weight(shape=(3,) * rank + (inputs, outputs))

    def call(self, x):
        return keras.ops.conv(x, self.kernel, padding="same", dilation_rate=self.arguments[1])


@pytest.mark.promise
@pytest.mark.parametrize("trial", [True, False])
@pytest.mark.parametrize("arguments", [(1, 2, 3, 4), (2, 2, 3, 4), (1, 4, 3, 2)])
def test_dilation_by_batches_is_refused_with_the_cure(tmp_path, arguments, trial):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((16,) * arguments[0] + (3,)), Dilated(*arguments)])
    path = tmp_path / "a.tflite"
    x = np.random.default_rng(0).normal(size=(16, *model.input_shape[1:])).astype("float32")
    export_tflite(model, path, "int8", representative_data=x, batch_size=None, verbose=False)
    with pytest.raises(ValueError, match="batch_size=1"):
        export_c_array(path, trial=trial)
    export_tflite(model, path, "int8", representative_data=x, verbose=False)
    export_c_array(path, trial=trial)


@pytest.mark.fast_cases("layer-norm-int8")
@pytest.mark.parametrize("quantization", ["float32", "int8"])
@pytest.mark.parametrize(
    "layer",
    [
        lambda: keras.layers.Dense(6, activation="tanh"),
        lambda: keras.layers.Dense(6, activation="softmax"),
        lambda: keras.layers.Conv1D(4, 3, dilation_rate=2),
        lambda: keras.layers.LayerNormalization(),
        lambda: keras.layers.GRU(4),
        lambda: keras.layers.UpSampling1D(2),
    ],
    ids=["tanh", "softmax", "dilated", "layer-norm", "gru", "upsampling"],
)
def test_rounding_is_no_difference(tmp_path, layer, quantization):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((12, 4)), layer()])
    x = np.random.default_rng(0).normal(size=(32, 12, 4)).astype("float32")
    path = tmp_path / "a.tflite"
    data = None if quantization == "float32" else x
    export_tflite(model, path, quantization, representative_data=data, verbose=False)
    assert export_c_array(path).max_difference < 0.1


def test_a_trial_needs_the_package(tmp_path, monkeypatch):
    model = shutil.copy(REFERENCE, tmp_path / "a.tflite")
    monkeypatch.setitem(sys.modules, "tflite_micro", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"keras-kd\[micro\]"):
        export_c_array(model, trial=True)
    written = export_c_array(model)
    assert written.arena_bytes is None and written.latency_ms is None


def test_the_estimate_is_on_the_safe_side_of_the_measured_arena():
    from keras_kd.export.micro.arena import estimate_arena
    from keras_kd.litert.model_file import ModelFile

    estimate = estimate_arena(ModelFile(REFERENCE.read_bytes()).graphs())
    assert 44416 <= estimate <= 1.3 * 44416
