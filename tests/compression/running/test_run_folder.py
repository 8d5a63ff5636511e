"""A run of `compress` that is kept in a folder."""

import copy
import json
import math
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_kd as kd
from keras_kd.compression.running.epoch_backup import EpochBackup
from keras_kd.compression.running.run_folder import RunFolder, differences
from keras_kd.compression.running.run_plan import run_plan
from keras_kd.compression.stages.stage import Plan, Stage
from keras_kd.models.tfmot import import_tfmot
from keras_kd.quantizing.kernels import default_weight_quantizer
from keras_kd.system.folder_lock import held_folder


def make_student(width=4, name="student"):
    inputs = keras.Input((8, 8, 1), name="image")
    x = layers.Conv2D(width, 3, use_bias=False, name="conv")(inputs)
    x = layers.BatchNormalization(name="bn")(x)
    x = layers.ReLU(name="relu")(x)
    x = layers.Dropout(0.5, name="drop")(layers.GlobalAveragePooling2D(name="pool")(x))
    return keras.Model(inputs, layers.Dense(3, name="logits")(x), name=name)


def make_run(kill_after=None):
    """Return the arguments of `compress`.

    The process kills itself in the first epoch that begins while the file `kill_after` exists.
    """
    # Imported later, they would draw from the seeded generator in a fresh process alone.
    import_tfmot()
    keras.utils.set_random_seed(0)
    student, teacher = make_student(), make_student(6, "teacher")
    distiller = kd.Distiller(
        teacher, student, [kd.losses.KLDivergence(), kd.Hint("relu", "relu")], None, 0.5
    )
    distiller.compile(
        "adam",
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, 48).astype("int32")
    images = generator.normal(0, 0.3, (48, 8, 8, 1)).astype("float32")
    images[np.arange(48), :, labels * 2] += 1.5
    whole = tf.data.Dataset.from_tensor_slices((images, labels)).batch(16)
    seen = [0]

    def look(_):
        seen[0] += kill_after is not None and os.path.exists(kill_after)
        if seen[0] == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return np.float32(0.0)

    def watched(index, batch):
        zero = tf.ensure_shape(tf.numpy_function(look, [index], tf.float32), ())
        return batch[0] + zero, batch[1]

    train = tf.data.Dataset.zip((tf.data.Dataset.range(3), whole)).map(watched)
    stages = [
        kd.Prune(0.5, epochs=3, learning_rate=0.01),
        kd.QuantizeAware(epochs=3, learning_rate=0.01),
    ]
    return {"distiller": distiller, "train": train, "validation_data": whole, "stages": stages}


def _process(path, kill_after=None):
    script = (
        f"import sys; sys.path.insert(0, {os.path.dirname(__file__)!r})\n"
        "import test_run_folder as t, keras_kd as kd\n"
        f"kd.compress(**t.make_run({kill_after!r}), path={str(path)!r}, verbose=2)\n"
    )
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)


def _killed(path, file):
    result = _process(path, str(path / file))
    assert result.returncode == -signal.SIGKILL, result.stderr[-2000:]


def _finished(path):
    """Compress in a process of its own, as a user does; return what it printed and its result."""
    result = _process(path)
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout, kd.compress(**make_run(), path=path, verbose=0)


def _weights(model):
    return [np.asarray(weight) for weight in model.weights]


@pytest.mark.promise
def test_a_killed_run_ends_with_the_weights_of_one_that_was_not(tmp_path):
    _, whole = _finished(tmp_path / "whole")
    folder = tmp_path / "killed"
    _killed(folder, "stage_1_prune.attempt_1.npz")
    content = json.loads((folder / "run.json").read_text())
    assert content["stages"] == [] and content["before"]["parameters"] > 0
    with np.load(folder / "stage_1_prune.attempt_1.npz") as file:
        assert json.loads(str(file["progress"]))["epochs"] == 1
    _killed(folder, "stage_2_quantize_aware.attempt_1.npz")
    content = json.loads((folder / "run.json").read_text())
    assert [stage["record"]["name"] for stage in content["stages"]] == ["prune"]
    with np.load(folder / "stage_2_quantize_aware.attempt_1.npz") as file:
        assert json.loads(str(file["progress"]))["epochs"] == 1

    printed, resumed = _finished(folder)
    assert "1 of 2 stages are done" in printed
    assert not list(folder.glob("*.attempt_*"))
    for name in ("prune", "quantize_aware"):
        for key, values in whole.history[name].items():
            np.testing.assert_allclose(resumed.history[name][key], values, rtol=1e-4, err_msg=key)
    for one, other in zip(_weights(whole.model), _weights(resumed.model), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    assert whole.layers == resumed.layers
    same = ("name", "metrics", "parameters", "nonzero_parameters", "outcome", "epochs")
    for one, other in zip(whole.stages, resumed.stages, strict=True):
        for key in same:
            assert getattr(one, key) == pytest.approx(getattr(other, key)) or key == "metrics"

    # Everything is done: nothing is trained, and the same model comes back.
    again = kd.compress(**make_run(), path=folder, verbose=0)
    inputs = make_run()["validation_data"]
    np.testing.assert_array_equal(again.predict(inputs), resumed.predict(inputs))
    assert again.stages == resumed.stages and again.layers == resumed.layers

    # A stage's file stands for itself.
    pruned = kd.load_compressed(folder / "stage_1_prune.keras")
    assert pruned.stages == resumed.stages[:2]
    assert pruned.sparsity == pytest.approx(0.5, abs=0.05)

    for changes, message in (
        ({"stages": [kd.Prune(0.6, epochs=3, learning_rate=0.01)]}, "sparsity: 0.5 there, 0.6"),
        ({"stages": make_run()["stages"][:1]}, r"stage 2 \(QuantizeAware there, nothing here\)"),
        ({"train": make_run()["train"].take(2)}, r"the data \(train batches: 3 there, 2 here"),
        ({"max_drop": 90.0}, r"`max_drop` \(None there, 90.0 here\)"),
    ):
        with pytest.raises(ValueError, match=message):
            kd.compress(**{**make_run(), **changes}, path=folder, verbose=0)
    other = make_run()
    other["distiller"].student.layers[-1].bias.assign([1.0, 0.0, 0.0])
    with pytest.raises(ValueError, match=r"the student \(weights\)"):
        kd.compress(**other, path=folder, verbose=0)


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "stage_1_prune.keras").write_text("mine")
    with pytest.raises(ValueError, match=r"holds 'stage_1_prune.keras' but no run.json"):
        kd.compress(**make_run(), path=tmp_path, verbose=0)
    assert [file.name for file in tmp_path.iterdir()] == ["stage_1_prune.keras"]
    (tmp_path / "other").mkdir()
    pathlib.Path(tmp_path / "other" / "run.json").write_text('{"a": 1}')
    with pytest.raises(ValueError, match="is not a record"):
        kd.compress(**make_run(), path=tmp_path / "other", verbose=0)


def test_differences_are_told_in_words():
    plan = {
        "student": {"weights": "a"},
        "teacher": None,
        "objective": {"student_loss_weight": 0.5},
        "data": {"train batches": 3},
        "stages": [{"class": "Prune", "config": {"sparsity": 0.5}}],
        "max_drop": None,
        "reference": "student",
        "retries": 2,
    }
    assert differences(plan, plan) == []
    other = {**plan, "objective": {"student_loss_weight": 1.0}, "stages": []}
    assert differences(plan, other) == [
        "the losses (student_loss_weight: 0.5 there, 1.0 here)",
        "stage 1 (Prune there, nothing here)",
    ]


def test_students_of_classes_that_are_not_registered(tmp_path):
    class Net(keras.Model):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.dense = layers.Dense(3, name="dense")

        def call(self, x):
            return self.dense(keras.ops.mean(x, (1, 2)))

        def get_config(self):
            return {"name": self.name}

    net = Net(name="net")
    net(np.zeros((1, 8, 8, 1), "float32"))
    run = make_run()
    distiller = kd.Distiller(run["distiller"].teacher, net, [kd.losses.KLDivergence()])
    distiller.compile("adam", loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    arguments = {**run, "distiller": distiller, "stages": [kd.Prune(0.5, epochs=0)]}
    first = kd.compress(**arguments, path=tmp_path, verbose=0)
    second = kd.compress(**arguments, path=tmp_path, verbose=0)
    assert isinstance(second.model, Net)
    x = np.ones((2, 8, 8, 1), "float32")
    np.testing.assert_array_equal(first.predict(x), second.predict(x))


def test_schedules_of_tf_mot_are_told_apart(tmp_path):
    schedules = import_tfmot().sparsity.keras

    def run(sparsity):
        stage = kd.Prune(schedule=schedules.ConstantSparsity(sparsity, 0), epochs=0)
        return kd.compress(**{**make_run(), "stages": [stage]}, path=tmp_path, verbose=0)

    assert run(0.5).sparsity == pytest.approx(run(0.5).sparsity)
    with pytest.raises(ValueError, match="stage 1, Prune"):
        run(0.25)


def arrays_of(data):
    return tuple(np.concatenate(part) for part in zip(*data.as_numpy_iterator(), strict=True))


@pytest.mark.promise
def test_a_run_goes_on_in_a_process_that_did_other_things(tmp_path, monkeypatch):
    """As in a notebook: other random numbers were drawn, and arrays are shuffled by `compress`."""

    def run(path):
        arguments = make_run()
        data = arrays_of(arguments["validation_data"])
        if path.exists():
            keras.utils.set_random_seed(99)
        stages = [kd.Prune(0.5, epochs=3, learning_rate=0.01)]
        return kd.compress(
            **{**arguments, "train": data, "validation_data": None, "stages": stages},
            path=path,
            verbose=0,
        )

    whole = run(tmp_path / "whole")
    save, seen = EpochBackup.save, []

    def interrupt(self, epochs, *arguments):
        # In the first epoch nothing is kept yet, in the second the first one is.
        if len(seen) == 1:
            save(self, epochs, *arguments)
        seen.append(epochs)
        raise KeyboardInterrupt

    folder = tmp_path / "interrupted"
    monkeypatch.setattr(EpochBackup, "save", interrupt)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run(folder)
    monkeypatch.undo()
    assert seen == [1, 1]
    resumed = run(folder)
    assert resumed.history["prune"].keys() == whole.history["prune"].keys()
    for key, values in whole.history["prune"].items():
        np.testing.assert_allclose(resumed.history["prune"][key], values, rtol=1e-5, err_msg=key)
    for one, other in zip(_weights(whole.model), _weights(resumed.model), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)


@pytest.mark.promise
def test_projections_of_the_distiller_stay_as_they_are():
    run = make_run()
    distiller = run["distiller"]
    distiller.objective.build(distiller.student)
    (projection,) = distiller.objective.layers
    before = projection.get_weights()
    results = []
    for _ in range(2):
        keras.utils.set_random_seed(0)
        arguments = {**run, "stages": [kd.Prune(0.5, learning_rate=0.1)]}
        results.append(kd.compress(**arguments, verbose=0).model.get_weights())
        for one, other in zip(projection.get_weights(), before, strict=True):
            np.testing.assert_array_equal(one, other)
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)


@pytest.mark.promise
def test_other_validation_data_are_told(tmp_path, recwarn):
    arguments = {**make_run(), "stages": [kd.Prune(0.5, epochs=0)], "verbose": 0}
    kd.compress(**arguments, path=tmp_path)
    kd.compress(**arguments, path=tmp_path)
    assert not [w for w in recwarn if "validation data" in str(w.message)]
    other = arguments["validation_data"].map(lambda x, y: (x, (y + 1) % 3))
    with pytest.warns(UserWarning, match="the validation data have changed"):
        kd.compress(**{**arguments, "validation_data": other}, path=tmp_path)


def _batches(x, y, **kwargs):
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(16, **kwargs)


class _Sequence(keras.utils.PyDataset):
    def __init__(self, x, y):
        super().__init__()
        self.x, self.y = x, y

    def __len__(self):
        return 3

    def __getitem__(self, i):
        return self.x[16 * i : 16 * i + 16], self.y[16 * i : 16 * i + 16]


_KINDS = {
    "arrays": lambda x, y: (x, y),
    "dataset": _batches,
    "shuffled": lambda x, y: tf.data.Dataset.from_tensor_slices((x, y)).shuffle(48).batch(16),
    "sequence": _Sequence,
}


def _whole_arrays():
    x, y = arrays_of(make_run()["validation_data"])
    return x.copy(), y.copy()


def _short(train, path, **changes):
    run = {**make_run(), "stages": [kd.Prune(0.5, epochs=0)], "validation_data": None, **changes}
    return kd.compress(**{**run, "train": train}, path=path, verbose=0)


@pytest.mark.fast_cases("arrays", "dataset")
@pytest.mark.parametrize("kind", _KINDS)
def test_a_folder_of_other_training_data_is_refused(tmp_path, kind):
    x, y = _whole_arrays()
    _short(_KINDS[kind](x, y), tmp_path)
    _short(_KINDS[kind](x, y), tmp_path)
    one_label, one_value = y.copy(), x.copy()
    one_label[-1] = (y[-1] + 1) % 3
    one_value[20, 0, 0, 0] += 1e-3
    for changed in ((x, one_label), (one_value, y)):
        with pytest.raises(ValueError, match="train contents"):
            _short(_KINDS[kind](*changed), tmp_path)


@pytest.mark.promise
def test_data_that_changes_from_pass_to_pass_is_not_compared(tmp_path):
    x, y = _whole_arrays()

    def augmented():
        return _batches(x, y).map(lambda x, y: (x + tf.random.normal(tf.shape(x)), y))

    _short(augmented(), tmp_path)
    _short(augmented(), tmp_path)


@pytest.mark.parametrize("kind", ["dataset", "sequence"])
@pytest.mark.promise
def test_of_large_data_the_first_and_last_batch_are_told(tmp_path, kind, monkeypatch, recwarn):
    monkeypatch.setattr("keras_kd.compression.running.run_plan._SMALL", 0)
    x, y = _whole_arrays()
    for _ in range(2):
        _short(_KINDS[kind](x, y), tmp_path)
    assert not [w for w in recwarn if "training data" in str(w.message)]
    x[-1 if kind == "sequence" else 0] += 1.0
    with pytest.warns(UserWarning, match="batch of the training data"):
        _short(_KINDS[kind](x, y), tmp_path)


def _two_prunings(run, path):
    stages = [kd.Prune(0.5, epochs=1), kd.Prune(0.6, epochs=0, name="again")]
    arguments = {**run, "stages": stages, "train": _whole_arrays(), "validation_data": None}
    return kd.compress(**arguments, path=path, verbose=0)


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory):
    """The folder of a run that was killed in its second stage, and that of another one."""
    folders = tmp_path_factory.mktemp("two_runs")
    for seed, folder in enumerate("ab"):
        run = make_run()
        for layer in run["distiller"].student.layers:
            layer.set_weights([w + 0.1 * seed for w in layer.get_weights()])
        _two_prunings(run, folders / folder)
    content = json.loads((folders / "a" / "run.json").read_text())
    content["stages"].pop()
    (folders / "a" / "run.json").write_text(json.dumps(content))
    return folders


@pytest.mark.parametrize("name", ["stage_1_prune.keras", "stage_1_prune.projections.npz"])
@pytest.mark.parametrize("damage", ["replaced", "missing"])
def test_files_of_another_run_are_refused(two_runs, tmp_path, name, damage):
    folder = shutil.copytree(two_runs / "a", tmp_path / "a")
    if damage == "missing":
        (folder / name).unlink()
    else:
        shutil.copy(two_runs / "b" / name, folder / name)
    with pytest.raises(ValueError, match=name):
        _two_prunings(make_run(), folder)


def test_a_folder_of_the_version_before_is_resumed(tmp_path):
    x, y = _whole_arrays()
    first = _short((x, y), tmp_path)
    file = tmp_path / "run.json"
    content = json.loads(file.read_text())
    del content["files"], content["plan"]["data"]["train contents"]
    file.write_text(json.dumps(content))
    second = _short((x, y), tmp_path)
    for one, other in zip(_weights(first.model), _weights(second.model), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_path_of_a_model_is_not_read_from_the_record(tmp_path):
    x, y = _whole_arrays()
    _short((x, y), tmp_path / "a")
    (tmp_path / "a" / "stage_1_prune.keras").rename(tmp_path / "elsewhere.keras")
    file = tmp_path / "a" / "run.json"
    file.write_text(file.read_text().replace("stage_1_prune.keras", "../elsewhere.keras"))
    with pytest.raises(ValueError, match="elsewhere"):
        _short((x, y), tmp_path / "a")


@pytest.mark.promise
def test_a_resumed_stage_leaves_the_record_of_the_one_before(tmp_path, monkeypatch):
    x, y = _whole_arrays()
    stages = [kd.Prune(0.5, epochs=0), kd.Cluster(4, epochs=0)]
    _short((x, y), tmp_path / "whole", stages=stages)
    keep = RunFolder.keep

    def interrupt(self, index, *arguments):
        if index == 1:
            raise KeyboardInterrupt
        keep(self, index, *arguments)

    monkeypatch.setattr(RunFolder, "keep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        _short((x, y), tmp_path / "killed", stages=stages)
    monkeypatch.undo()
    _short((x, y), tmp_path / "killed", stages=stages)
    whole, killed = (
        json.loads((tmp_path / name / "run.json").read_text())["stages"]
        for name in ("whole", "killed")
    )
    assert [stage["state"] for stage in killed] == [stage["state"] for stage in whole]


@pytest.mark.promise
def test_what_killed_processes_left_is_removed(tmp_path):
    x, y = _whole_arrays()
    _short((x, y), tmp_path)
    names = {file.name for file in tmp_path.iterdir()}
    left = [
        "stage_1_prune.attempt_1.npz", "stage_1_prune.attempt_2.before.npz",
        ".stage_1_prune.0123456789ab.keras", ".stage_1_prune.attempt_1.0123456789ab.npz",
        ".before.projections.0123456789ab.npz", ".run.0123456789ab.json",
    ]  # fmt: skip
    mine = ["notes.txt", ".runrc", ".stage_1.txt"]
    for name in [*left, *mine]:
        (tmp_path / name).write_text("")
    _short((x, y), tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {*names, *mine}


def test_one_process_at_a_time(tmp_path):
    x, y = _whole_arrays()
    with held_folder(tmp_path), pytest.raises(OSError, match="at work in"):
        _short((x, y), tmp_path)
    _short((x, y), tmp_path)
    assert ".lock" not in [file.name for file in tmp_path.iterdir()]


@pytest.mark.parametrize(
    "name", ["../up", "a/b", "a\\b", "x**", "..", "a\n", "trailing.", "x" * 65]
)
def test_the_name_of_a_stage_is_no_path(name):
    with pytest.raises(ValueError, match="name="):
        kd.Prune(0.5, name=name)
    stage = kd.Prune(0.5)
    stage.name = name
    with pytest.raises(ValueError, match="name="):
        kd.compress(**{**make_run(), "stages": [stage]}, verbose=0)
    assert kd.Prune(0.5, name="größe 2.a-b").name == "größe 2.a-b"


@pytest.mark.parametrize(
    ("loss", "added"),
    [
        (kd.losses.KLDivergence(2.0), {"standardize": False}),
        (kd.Hint("a", "b", loss=kd.losses.FitNet()), {"normalize": None}),
    ],
    ids=["loss", "hint"],
)
def test_arguments_added_since_count_as_equal_at_their_defaults(loss, added):
    ours = json.loads(json.dumps(keras.saving.serialize_keras_object(loss), default=str))
    assert added.items() <= ours["config"].items()
    plan = {key: None for key in ("student", "teacher", "data")}
    plan |= {"objective": {"distillation_losses": [ours]}, "stages": []}
    kept = copy.deepcopy(plan)
    (before,) = kept["objective"]["distillation_losses"]
    before["config"] = {key: v for key, v in before["config"].items() if key not in added}
    before["module"] = "keras_kd.where_it_was"
    assert differences(kept, plan) == []
    key = next(iter(added))
    ours["config"][key] = "another"
    (said,) = differences(kept, plan)
    assert "the losses" in said


def test_stages_know_arguments_added_since():
    config = json.loads(json.dumps(kd.Shrink(0.5).get_config(), default=str))
    plan = {key: None for key in ("student", "teacher", "objective", "data")}
    plan["stages"] = [{"class": "Shrink", "config": config}]
    kept = copy.deepcopy(plan)
    del kept["stages"][0]["config"]["divisor"]
    assert differences(kept, plan) == []
    config["divisor"] = 8
    assert "divisor" in differences(kept, plan)[0]


def plan_of(activation="relu", weights=None, adapters=None, **optimizer):
    keras.utils.set_random_seed(0)
    image = keras.Input((3,), name="image")
    hidden = keras.layers.Dense(4, activation=activation, name="hidden")(image)
    student = keras.Model(image, keras.layers.Dense(2, name="logits")(hidden), name="student")
    distiller = kd.Distiller(lambda x: x, student, kd.losses.KLDivergence(2.0), **(adapters or {}))
    distiller.compile("adam", "sparse_categorical_crossentropy", loss_weights=weights)
    x, y = np.ones((4, 3), "float32"), np.zeros(4)
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(2)
    stage = kd.Prune(0.5, optimizer=keras.optimizers.SGD(0.1, **optimizer))
    return json.loads(json.dumps(run_plan(distiller, [stage], data, data), default=str))


def test_what_decides_on_a_run_is_in_its_plan():
    plan = plan_of()
    assert differences(plan, plan_of()) == []
    assert differences(plan, plan_of(name="another")) == []  # Keras numbers optimizers
    assert "optimizer" in differences(plan, plan_of(momentum=0.9))[0]
    assert "architecture" in differences(plan, plan_of(activation="tanh"))[0]


@pytest.mark.parametrize("name", ["teacher_inputs", "teacher_outputs"])
def test_what_fits_the_teacher_to_the_student_is_in_its_plan(name):
    functions = [None, keras.layers.Rescaling(1.0), keras.layers.Rescaling(2.0), keras.ops.abs]
    plans = [plan_of(adapters={name: function}) for function in functions]
    again = plan_of(adapters={name: keras.layers.Rescaling(2.0)})
    for i, plan in enumerate(plans):
        assert differences(plan, again) == [] if i == 2 else name in differences(plan, again)[0]
    for key in [key for key in plans[0]["teacher"] if key.startswith("teacher_")]:
        del plans[0]["teacher"][key]  # as before they were known
    assert differences(plans[0], again) == []


def test_a_plan_of_before_architectures_were_known_counts_as_equal():
    plan, now = plan_of(), plan_of()
    for part in ("student", "teacher"):
        del plan[part]["architecture"]
    assert differences(plan, now) == []


def test_weights_of_losses_are_in_a_plan():
    plans = [plan_of(weights={"logits": weight}) for weight in (1.0, 2.0)]
    assert "the losses" in differences(*plans)[0]
    del plans[0]["objective"]["loss_weights"]  # as before they were known
    assert differences(*plans) == []


@pytest.mark.parametrize(
    ("part", "key"),
    [("data", "train contents"), ("student", "architecture"), ("teacher", "architecture")],
)
@pytest.mark.parametrize("missing", ["there", "here"])
def test_what_cannot_be_told_is_not_what_it_was(part, key, missing):
    """Data that are augmented since, say, cannot be hashed; an earlier version knew no hash."""
    plan = plan_of()
    assert plan["data"]["train contents"] is not None
    known, unknown, before = copy.deepcopy(plan), copy.deepcopy(plan), copy.deepcopy(plan)
    known[part][key], unknown[part][key] = "0123", None
    del before[part][key]
    (said,) = differences(unknown, known) if missing == "there" else differences(known, unknown)
    assert key in said
    for same in (known, unknown):
        assert differences(same, same) == differences(before, same) == []


@pytest.mark.fast_cases("True-there", "False-here")
@pytest.mark.parametrize("augmented", ["there", "here"])
@pytest.mark.parametrize("small", [True, False])
def test_data_that_were_augmented_since_are_other_data(tmp_path, monkeypatch, augmented, small):
    if not small:
        monkeypatch.setattr("keras_kd.compression.running.run_plan._SMALL", 0)
    x, y = _whole_arrays()
    plain = _batches(x, y)
    # `tf.random.normal` would draw the same in every pass, for the tests are seeded.
    generator = tf.random.Generator.from_seed(0)
    noisy = plain.map(lambda x, y: (x + generator.normal(tf.shape(x)), y))
    first, second = (noisy, plain) if augmented == "there" else (plain, noisy)
    _short(first, tmp_path)
    if small:
        with pytest.raises(ValueError, match="train contents"):
            _short(second, tmp_path)
    else:
        with pytest.warns(UserWarning, match="batch of the training data"):
            _short(second, tmp_path)


class Diverges(Stage):
    """Has a history that is not finite, as that of a training that diverged."""

    def __init__(self, name=None):
        super().__init__(0, name=name)

    def make_plan(self, student, earlier):
        return Plan({}, self.diverge)

    def diverge(self, state, teaching):
        history = {"loss": [1.5, math.nan, math.inf], "val_loss": [-math.inf, 1.0, math.nan]}
        state.history[self.name] = history

    def get_config(self):
        return {"name": self.name}


class Undefined(keras.metrics.SparseCategoricalAccuracy):
    """Is NaN, as a metric of data that hold nothing of what it looks at."""

    def result(self):
        return super().result() * math.nan


@pytest.mark.fast_cases("teacher")
@pytest.mark.parametrize("reference", ["student", "teacher"])
def test_what_is_not_finite_survives_a_resume(tmp_path, monkeypatch, reference):
    def run(folder):
        arguments = make_run()
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        metrics = [Undefined(name="undefined"), "accuracy"]
        arguments["distiller"].compile("adam", loss=loss, metrics=metrics)
        stages = [Diverges("a"), Diverges("b")]
        arguments |= {"stages": stages, "reference": reference, "path": tmp_path / folder}
        return kd.compress(**arguments, verbose=0)

    whole, keep = run("whole"), RunFolder.keep

    def interrupt(self, *arguments):
        keep(self, *arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(RunFolder, "keep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run("killed")
    monkeypatch.undo()
    text = (tmp_path / "killed" / "run.json").read_text()
    json.loads(text, parse_constant=pytest.fail)  # JSON as others read it
    resumed = run("killed")
    resumed.save(tmp_path / "model.keras")
    loaded = kd.load_compressed(tmp_path / "model.keras", {"Undefined": Undefined})
    for made in (resumed, loaded):
        for stage in "ab":
            for key, values in whole.history[stage].items():
                finite = np.where(np.isfinite(values), values, np.nan)
                found = np.asarray(made.history[stage][key])
                np.testing.assert_array_equal(np.where(np.isfinite(found), found, np.nan), finite)
        for one, other in zip(made.stages, whole.stages, strict=True):
            assert one.metrics == pytest.approx(other.metrics, nan_ok=True)
    assert len(run("killed").history["a"]["loss"]) == 3  # all is done


def chosen(name):
    def layers(layer):
        return layer.name == name

    return layers


def rounding(bits):
    def quantizer(_):
        return default_weight_quantizer(bits)

    return quantizer


@pytest.mark.parametrize(
    "make",
    [
        lambda choice: kd.Prune(0.5, epochs=0, layers=chosen(["hidden", "end"][choice])),
        lambda choice: kd.QuantizeAware(epochs=0, weight_quantizer=rounding(8 - 6 * choice)),
    ],
)
def test_functions_of_one_name_are_told_apart_by_what_they_do(tmp_path, make):
    x = np.random.default_rng(0).normal(size=(16, 4)).astype("float32")
    keras.utils.set_random_seed(0)
    pair = []
    for _ in range(2):
        i = keras.Input((4,))
        hidden = keras.layers.Dense(4, name="hidden")(i)
        pair.append(keras.Model(i, keras.layers.Dense(3, name="end")(hidden)))
    distiller = kd.Distiller(*pair, kd.losses.KLDivergence(), student_loss_weight=0.0)
    distiller.compile("sgd")
    given = {"path": tmp_path / "run", "verbose": 0}
    first = kd.compress(distiller, (x, None), stages=[make(0)], **given)
    again = kd.compress(distiller, (x, None), stages=[make(0)], **given)
    for one, other in zip(first.model.get_weights(), again.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(ValueError, match=r"holds another run, which differs in .*stage 1"):
        kd.compress(distiller, (x, None), stages=[make(1)], **given)
    file = tmp_path / "run" / "run.json"  # as earlier versions wrote it
    content = json.loads(file.read_text())
    del content["plan"]["stages"][0]["functions"]
    file.write_text(json.dumps(content))
    kd.compress(distiller, (x, None), stages=[make(0)], **given)
