"""kd.check: what it says is what the stages and exports do, in the same words."""

import io
import json
import sys
import warnings

import keras
import numpy as np
import pytest
from keras import layers

import keras_kd as kd
from keras_kd.litert.constants import count_constants
from keras_kd.litert.model_file import ModelFile
from keras_kd.planning import check_model
from keras_kd.planning.check_model import LayerCheck


@keras.saving.register_keras_serializable(package="test_check")
class Scale(layers.Layer):
    """A layer of one's own with a weight."""

    def build(self, input_shape):
        self.scale = self.add_weight(shape=(input_shape[-1],), initializer="ones")

    def call(self, x):
        return x * self.scale

    def compute_output_shape(self, input_shape):
        return input_shape


class Lost(layers.Layer):
    """Cannot be made again."""

    def call(self, x):
        return x + 1.0

    def get_config(self):
        raise NotImplementedError("no configuration")


class Subclassed(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.hidden, self.logits = layers.Dense(8, name="hidden"), layers.Dense(3, name="logits")
        self.unused = layers.Dense(3, name="unused")

    def call(self, x):
        return self.logits(self.hidden(x))


def special(*more):
    """A model with augmentation, operators, a folded and an unfolded BatchNormalization."""
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 3), name="image")
    x = layers.RandomFlip(name="flip")(image)
    x = layers.Conv2D(16, 3, padding="same", use_bias=False, name="conv")(x)
    x = layers.BatchNormalization(name="bn")(x)
    x = layers.ReLU(name="relu")(x)
    y = layers.Conv2D(16, 3, padding="same", activation="relu", name="conv2")(x)
    y = layers.BatchNormalization(name="late")(y)
    x = layers.Add(name="sum")([x, y]) * 2.0
    x = Scale(name="own")(x)
    for layer in more:
        x = layer(x)
    x = layers.GlobalAveragePooling2D(name="pool")(layers.Dropout(0.1, name="drop")(x))
    frozen = layers.Dense(8, trainable=False, name="frozen")(x)
    return keras.Model(image, layers.Dense(3, name="logits")(frozen), name="student")


def data():
    random = np.random.default_rng(0)
    return random.random((16, 8, 8, 3), "float32"), random.integers(0, 3, 16)


def compressed(model, stages):
    pixels = keras.Input((8, 8, 3))
    teacher = keras.Model(pixels, layers.Dense(3)(layers.Flatten()(pixels)))
    distiller = kd.Distiller(teacher, model, kd.losses.KLDivergence())
    distiller.compile("adam", loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return kd.compress(distiller, data(), stages=stages, verbose=0)


STAGES = {
    "prune": lambda: [kd.Prune(0.75, exclude="conv2")],
    "low_rank": lambda: [kd.LowRank(0.3, layers=["conv*", "frozen"], epochs=0)],
    "cluster": lambda: [kd.Cluster(8)],
    "quantize_aware": lambda: [kd.QuantizeAware()],
}
PREFIX = {
    "prune": "not pruned: ",
    "low_rank": "not split: ",
    "cluster": "not clustered: ",
    "quantize_aware": "stays float: ",
}


@pytest.mark.parametrize("name", STAGES)
@pytest.mark.promise
def test_says_before_what_the_records_say_after(name):
    found = kd.check(special(), STAGES[name](), exports=[])
    assert found.ok
    records = compressed(special(), STAGES[name]()).layers
    spared = {}
    for record in records[1:]:
        cell = found[record.name].cells.get(name)
        reason = "" if cell is None else cell.reason
        spared |= {record.name: reason} if reason else {}
        assert list(record.not_done) == ([PREFIX[name] + reason] if reason else []), record.name
        treated = cell is not None and cell.action not in ("keep", "float")
        assert bool(record.done) == (treated and record.parameters > 0), record.name
    # What a layer computes in its own code is quantized; no other stage knows its weights.
    assert ("own" in spared) == (name != "quantize_aware")


def test_advice_stands_beside_the_reason():
    model = special(layers.LayerNormalization(name="norm"))
    found = kd.check(model, [kd.Prune(0.5), kd.QuantizeAware()], exports=[])
    assert (
        found["frozen"].cells["prune"]
        == kd.check(special(), kd.Prune(0.5), [])["frozen"].cells["prune"]
    )
    assert found["frozen"].cells["prune"].reason == "it is not trainable"
    assert found["frozen"].cells["prune"].advice == "set `layer.trainable = True`"
    norm = found["norm"].cells["quantize_aware"]
    assert norm.action == "float" and "representative_data" in norm.advice
    assert found["own"].cells["quantize_aware"].action == "8 bits"
    assert found["late"].cells["quantize_aware"].action == "8-bit depthwise convolution"
    assert found["bn"].cells["quantize_aware"].action == "fold"
    assert "prune" not in found["relu"].cells


def test_shrink_and_what_later_stages_see():
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(16, 3, name="conv")(image)
    x = layers.Conv2D(16, 3, name="conv2")(layers.ReLU()(x))
    x = layers.Dense(32, name="hidden")(layers.Flatten()(x))
    model = keras.Model(image, layers.Dense(4, name="logits")(x))
    stages = [kd.Shrink(0.5), kd.LowRank(0.5, layers="hidden", epochs=0), kd.Prune(0.5)]
    found = kd.check(model, stages, exports=["float32"])
    assert found.ok
    assert found["conv"].cells["shrink"].action == "16 to 8 channels"
    assert found["logits"].cells["shrink"].reason == "its channels are the model's output"
    rank = int(found["hidden"].cells["low_rank"].action.split()[1])
    preview = stages[1].plan(stages[0].plan(model).preview()).preview()
    assert preview.get_layer("hidden").kernel.shape == (rank, 16)
    paths = [row.path for row in found.rows]
    assert paths.index("hidden_low_rank") == paths.index("hidden") - 1
    assert set(found["hidden_low_rank"].cells) == {"prune", "float32"}
    assert found["conv"].parameters == 448, "rows are about the model as given"
    assert model.get_layer("conv").filters == 16


def raised(function):
    with pytest.raises(ValueError) as caught:
        function()
    return str(caught.value)


def test_refusals_are_the_errors_that_stages_raise():
    subclassed = Subclassed(name="net")
    subclassed(np.ones((2, 4), "float32"))
    found = kd.check(subclassed, exports=["float32", "int8"])
    stages = [kd.Shrink(0.5), kd.LowRank()]
    for stage in stages:
        (problem,) = (p for p in found.problems if p.where == stage.name)
        assert problem.message == stage.plan(subclassed).refused
    *used, unused = found.rows
    assert {row.cells["prune"].action for row in used} == {"prune 50%"}
    assert {row.cells["quantize_aware"].action for row in used} == {"8 bits"}
    assert [row.path for row in used] == ["hidden", "logits"]
    assert unused.path == "unused" and unused.parameters == 0 and "prune" not in unused.cells
    assert len(found.problems) == len(stages) and not found.ok
    assert "stage out; Prune takes it as it is" in str(found).replace("\n", " ")


def test_a_layer_that_cannot_be_copied_is_a_problem_of_every_chain():
    model = special(Lost(name="lost"))
    found = kd.check(model, kd.QuantizeAware(), exports=[])
    (problem,) = found.problems
    assert "Lost" in problem.message
    assert problem.message == raised(lambda: compressed(model, [kd.QuantizeAware()]))


def test_a_refused_order_is_a_problem_with_the_same_message():
    stages = [kd.QuantizeAware(), kd.Prune(0.5)]
    found = kd.check(special(), stages, exports=[])
    (problem,) = found.problems
    assert problem.where == "stages"
    assert problem.message == raised(lambda: compressed(special(), stages))


def recurrent(steps):
    inputs = keras.Input((steps, 4))
    return keras.Model(inputs, layers.Dense(2)(layers.LSTM(40, name="lstm")(inputs)))


@pytest.mark.promise
def test_recurrent_layers(tmp_path):
    keras.backend.clear_session()
    model = recurrent(None)
    found = kd.check(model, [], exports=["float32", "dynamic"])
    (problem,) = found.problems
    assert (
        problem.where == "dynamic" and "number of steps of 'lstm' is not known" in problem.message
    )
    message = raised(lambda: kd.export_tflite(model, tmp_path / "a.tflite", "dynamic"))
    assert message == problem.message
    found = kd.check(recurrent(3), [], exports=["float32", "int8"], convert=True)
    assert found.ok
    assert found["lstm"].cells["float32"].action == "loop"
    # In a process that has built many models the converter leaves SPLIT in float.
    assert found["lstm"].cells["int8"].action in ("unrolled, 8 bits", "partly float")
    assert "WHILE" in found.operators["float32"] and "WHILE" not in found.operators["int8"]
    assert "LOGISTIC" in found["lstm"].cells["int8"].operators


def test_lookups_are_refused_before_the_conversion(tmp_path):
    words = keras.Input((1,), dtype="string")
    x = layers.StringLookup(vocabulary=["a", "b"], output_mode="one_hot", name="words")(words)
    model = keras.Model(words, layers.Dense(2)(x))
    (problem,) = kd.check(model, [], exports="float32").problems
    assert "'words'" in problem.message
    message = raised(lambda: kd.export_tflite(model, tmp_path / "a.tflite"))
    assert message == problem.message


@pytest.mark.promise
def test_exports_are_what_the_files_hold(tmp_path):
    model = special()
    found = kd.check(model, [], convert=True)
    assert found.ok and found.exports == (
        "float32", "float16", "weight_only", "dynamic", "int8", "int16x8",
    )  # fmt: skip
    cells = {row.path: {q: row.cells[q].action for q in found.exports} for row in found.rows}
    assert set(cells["flip"].values()) | set(cells["drop"].values()) == {"vanish"}
    assert set(cells["bn"].values()) == {"fold"}
    assert cells["conv2"]["dynamic"] == "8-bit weights" and cells["conv"]["dynamic"] == "float32"
    path = kd.export_tflite(model, tmp_path / "a.tflite", "dynamic", verbose=False)
    file = ModelFile(path.read_bytes())
    assert count_constants(file).types["INT8"] == 16 * 16 * 9
    assert found.operators["dynamic"] == file.operator_counts()
    assert "representative_data" in found.notes["int8"][0]
    needs = raised(lambda: kd.export_tflite(model, tmp_path / "b.tflite", "int8"))
    assert found.notes["int8"] == (needs,)


def test_what_tflite_computes_in_float_is_known_and_found():
    inputs = keras.Input((6, 6, 6, 2))
    x = layers.Conv3D(4, 3, name="volume")(inputs)
    x = layers.LayerNormalization(name="norm")(layers.Flatten()(x))
    model = keras.Model(inputs, layers.Dense(2, name="logits")(x))
    before = kd.check(model, [], exports="int8")
    after = kd.check(model, [], exports="int8", convert=True)
    assert before["volume"].cells["int8"].reason == "TFLite computes it in float only"
    for path in ("volume", "norm", "logits"):
        assert before[path].cells["int8"].action == after[path].cells["int8"].action
    assert after["volume"].cells["int8"].operators == "CONV_3D"
    assert "RSQRT" in after["norm"].cells["int8"].operators


def test_operators_of_several_sums_are_kept_apart():
    keras.backend.clear_session()  # so that the first sum is called "add"
    i = keras.Input((8,))
    x = layers.Dense(8, name="a")(i)
    for name in "bc":
        x = x + layers.Dense(8, activation="tanh", name=name)(x)
    model = keras.Model(i, layers.Dense(2, name="out")(x))
    found = kd.check(model, [], exports="float32", convert=True)
    for path in ("add", "add_1"):
        assert found[path].cells["float32"].operators == "ADD"


def test_a_converter_error_is_a_problem(tmp_path):
    class Inverse(layers.Layer):
        def call(self, x):
            import tensorflow as tf

            return tf.linalg.inv(x)

    inputs = keras.Input((3, 3))
    model = keras.Model(inputs, layers.Dense(2)(Inverse(name="inverse")(inputs)))
    assert kd.check(model, [], exports="float32")["inverse"].cells["float32"].action == "not known"
    (problem,) = kd.check(model, [], exports="float32", convert=True).problems
    assert "TFLite has no builtin operator for MatrixInverse" in problem.message


def test_4_bits_are_asked_for_by_name(tmp_path):
    i = keras.Input((12, 12, 32))
    x = layers.DepthwiseConv2D(3, name="depthwise")(layers.Conv2D(32, 1, name="conv")(i))
    x = layers.Dense(8, name="small")(layers.BatchNormalization(name="norm")(x))
    found = kd.check(keras.Model(i, x), [], exports="int4")
    cells = {row.path: row.cells["int4"].action for row in found.rows}
    assert (cells["conv"], cells["depthwise"]) == ("4-bit weights", "8-bit weights")
    assert (cells["small"], found.ok) == ("8-bit weights", True)


@pytest.mark.parametrize("bits", [8, 16])
def test_quantization_aware_models_are_exported_in_any_format(bits):
    stages = [kd.QuantizeAware(activation_bits=bits)]
    forms = ["float32", "float16", "dynamic", "int8", "int16x8", "int4"]
    found = kd.check(special(), stages, exports=forms)
    assert found.ok
    needy = [
        form for form in forms if any("`representative_data` to" in n for n in found.notes[form])
    ]
    assert needy == (["int16x8"] if bits == 8 else ["int8", "int16x8"])


def test_nested_models_are_opened_and_shared_names_kept_apart():
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(4, name="dense")], name="inner")
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.Dense(2, name="dense")(inner(inputs) + 1.0))
    found = kd.check(model, [kd.Prune(0.5), kd.QuantizeAware()], exports="float32")
    first, added, last = (row.path for row in found.rows)
    assert (first, last) == ("inner/dense", "dense")
    assert added.startswith("add")
    assert found["inner/dense"].cells["quantize_aware"].action == "8 bits"
    assert found["inner/dense"] == LayerCheck(
        "inner/dense", "Dense", (None, 4), 20, found["inner/dense"].cells
    )


def test_prints_narrow_and_whole():
    found = kd.check(special(), [kd.Prune(0.75), kd.QuantizeAware()])
    text = str(found)
    assert max(map(len, text.splitlines())) <= 96
    assert "prune 75%  Conv2D ×2, Dense\n" in text
    assert text.count("TF-MOT does not prune BatchNormalization") == 1
    lines = found.table().splitlines()
    assert lines[0].split()[:4] == ["layer", "class", "output", "parameters"]
    (conv,) = (line for line in lines if line.startswith("conv "))
    assert conv.split()[:6] == ["conv", "Conv2D", "8×8×16", "432", "prune", "75%"]
    assert len([line for line in lines if not line.startswith("[")]) == len(found.rows) + 1
    kept = json.loads(json.dumps(found.to_dict()))
    assert kept["ok"] and kept["rows"][1]["cells"]["prune"]["action"] == "prune 75%"


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("verbose", [True, False])
def test_a_bar_on_the_terminal_names_what_is_looked_at(monkeypatch, verbose):
    monkeypatch.setattr("sys.stderr", Terminal())
    kd.check(special(), [kd.Prune()], exports="dynamic", verbose=verbose)
    shown = sys.stderr.getvalue()
    assert ("prune" in shown, "dynamic" in shown) == (verbose, verbose)


def test_a_model_is_made_again_once(monkeypatch):
    made = []
    remade = check_model.remade
    monkeypatch.setattr(check_model, "remade", lambda model: made.append(remade(model)))
    assert kd.check(special(), exports=[]).stages and len(made) == 1


def test_wrong_arguments():
    model = special()
    with pytest.raises(TypeError, match=r"takes a keras\.Model"):
        kd.check("student")
    with pytest.raises(TypeError, match="`stages` takes stages"):
        kd.check(model, ["prune"])
    with pytest.raises(ValueError, match="`exports` must be one of"):
        kd.check(model, [], exports="int3")
    with pytest.raises(ValueError, match="is not built"):
        kd.check(Subclassed(), [])
    with pytest.raises(TypeError, match=r"check\(distiller.student"):
        kd.check(kd.Distiller(special(), model, kd.losses.KLDivergence()))
