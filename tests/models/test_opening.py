"""Whatever a model file holds, opening it runs nothing of it and ends in one kind of error."""

import ast
import json
import pathlib
import shutil
import zipfile

import h5py
import keras
import numpy as np
import pytest
import tf_keras

import keras_kd as kd
from keras_kd.cli.model_files import load_model as load_on_command_line
from keras_kd.compression.running.compressed_model import CompressedModel
from keras_kd.models import opening
from keras_kd.models.opening import open_model
from keras_kd.teachers.generations import FinishedModels


def apart(y, y_pred):
    return keras.ops.mean(keras.ops.abs(y - y_pred))


OPEN = {
    "open_model": open_model,
    "teachers.load": kd.teachers.load,
    "command line": lambda path: load_on_command_line(str(path)),
    "load_compressed": kd.load_compressed,
}


WITHOUT_RECORD = ("model.h5", "old.h5")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Dense(3, activation="relu")(inputs))
    compressed = CompressedModel(model, [], {}, False)
    compressed.save(folder / "model.keras")
    compressed.save(folder / "compressed.h5")
    model.save(folder / "model.h5")
    old = tf_keras.Sequential([tf_keras.Input((4,)), tf_keras.layers.Dense(3)])
    old.save(folder / "old.h5")
    return folder


@pytest.fixture(params=["model.keras", "compressed.h5", "model.h5", "old.h5"])
def path(saved, tmp_path, request):
    return pathlib.Path(shutil.copy(saved / request.param, tmp_path / request.param))


def rewrite(path, change):
    """Change the configuration in a file."""
    if path.suffix == ".h5":
        with h5py.File(path, "a") as file:
            config = json.loads(file.attrs["model_config"])
            change(config)
            file.attrs["model_config"] = json.dumps(config)
        return
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(content["config.json"])
    change(config)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in {**content, "config.json": json.dumps(config).encode()}.items():
            archive.writestr(name, data)


def dense_of(config):
    return next(part for part in config["config"]["layers"] if part["class_name"] == "Dense")


def to_lambda(config):
    dense = dense_of(config)
    dense.update(class_name="Lambda", module="keras.layers", registered_name=None)
    dense["config"] = {"name": "dense", "function": ["gAAA", None, None], "function_type": "lambda"}


def to_lambda_activation(config):
    code = {"class_name": "__lambda__", "config": {"value": "gAAA"}}
    dense_of(config)["config"]["activation"] = code


def to_nested_lambda(config):
    inner = {"class_name": "Lambda", "config": {"name": "inner", "function": "x"}}
    dense = dense_of(config)
    dense.update(class_name="TimeDistributed", module="keras.layers", registered_name=None)
    dense["config"] = {"name": "dense", "layer": inner}


def to_saved_model(config):
    dense_of(config).update(
        class_name="TFSMLayer", module="keras.layers", config={"name": "dense", "filepath": "/a"}
    )


def to_vocabulary(config):
    dense_of(config).update(
        class_name="StringLookup",
        module="keras.layers",
        config={"name": "dense", "vocabulary": "/etc/hostname"},
    )


def to_module(config):
    dense_of(config).update(class_name="Gate", module="a_module_of_a_test", registered_name="Gate")


def to_function(config):
    dense_of(config)["config"]["activation"] = {
        "class_name": "function", "module": "keras.utils", "config": "get_file",
    }  # fmt: skip


CODE = {
    "Lambda": (to_lambda, "Lambda"),
    "activation": (to_lambda_activation, "Lambda"),
    "nested": (to_nested_lambda, "'inner'.*Lambda"),
    "TFSMLayer": (to_saved_model, "TFSMLayer"),
    "vocabulary": (to_vocabulary, "vocabulary"),
    "module": (to_module, "a_module_of_a_test:Gate"),
    "function": (to_function, "get_file"),
}


@pytest.mark.parametrize("use", OPEN.values(), ids=OPEN)
def test_a_whole_file_is_opened(path, use):
    if use is kd.load_compressed and path.name in WITHOUT_RECORD:
        pytest.skip("Keras's own file holds no record of stages")
    opened = use(path)
    model = getattr(opened, "model", opened)
    assert np.asarray(model(np.ones((1, 4), "float32"))).shape == (1, 3)


@pytest.mark.parametrize("use", OPEN.values(), ids=OPEN)
@pytest.mark.parametrize(("change", "token"), CODE.values(), ids=CODE)
def test_no_code_of_a_file_runs(path, change, token, use, monkeypatch):
    (path.parent / "a_module_of_a_test.py").write_text("raise SystemExit('it was run')\n")
    monkeypatch.syspath_prepend(str(path.parent))
    rewrite(path, change)
    if use is kd.load_compressed and path.name in WITHOUT_RECORD:
        token = "holds no record"
    with pytest.raises(ValueError, match=f"{path.name}.*{token}"):
        use(path)


def test_no_code_of_a_finished_model_runs(saved, tmp_path):
    class Unbuilt(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(3)

        def call(self, x):
            return self.dense(x)

    finished = FinishedModels(tmp_path, "model")
    shutil.copy(saved / "model.keras", tmp_path / "model_1.keras")
    rewrite(tmp_path / "model_1.keras", to_lambda)
    (tmp_path / "model_1.json").write_text('{"model": "", "teacher": null, "history": null}')
    with pytest.raises(ValueError, match=r"model_1\.keras.*Lambda"):
        finished.restore(0, None, Unbuilt())


def test_code_runs_where_the_user_says_so(tmp_path):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Lambda(lambda x: 3.0 * x)])
    model.save(tmp_path / "model.keras")
    model.save(tmp_path / "model.h5")
    for name in ("model.keras", "model.h5"):
        with pytest.raises(ValueError, match=f"{name}.*Lambda.*safe_mode=False"):
            kd.teachers.load(tmp_path / name)
        loaded = kd.teachers.load(tmp_path / name, safe_mode=False)
        assert float(loaded(np.ones((1, 2), "float32"))[0, 0]) == 3.0


class Gate(keras.layers.Layer):
    def call(self, x):
        return 2.0 * x


def test_classes_are_given_or_named(tmp_path):
    keras.Sequential([keras.Input((2,)), Gate()]).save(tmp_path / "gate.keras")
    with pytest.raises(ValueError, match=r"gate\.keras.*Gate.*custom_objects"):
        open_model(tmp_path / "gate.keras")
    loaded = open_model(tmp_path / "gate.keras", {"Gate": Gate})
    assert float(loaded(np.ones((1, 2), "float32"))[0, 0]) == 2.0


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def deep(path):
    def change(config):
        for _ in range(300):
            config["config"] = {"config": config["config"]}

    rewrite(path, change)


def no_class(path):
    rewrite(path, lambda config: dense_of(config).update(class_name=3))


def no_layers(path):
    rewrite(path, lambda config: config.update(config=None))


def other_numbers(path):
    rewrite(path, lambda config: dense_of(config)["config"].update(units=5))


def inside(path):
    """Return the HDF5 file of the weights, which a `.keras` file holds as an entry."""
    if path.suffix == ".h5":
        return path, lambda: None
    extracted = path.with_name("model.weights.h5")
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    extracted.write_bytes(content["model.weights.h5"])

    def put_back():
        content["model.weights.h5"] = extracted.read_bytes()
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in content.items():
                archive.writestr(name, data)

    return extracted, put_back


def in_weights(change):
    def damage(path):
        weights, put_back = inside(path)
        with h5py.File(weights, "a") as file:
            change(file)
        put_back()

    return damage


def giant(file):
    file.create_dataset("giant", (10**6, 10**6), "f4", chunks=(100, 100), compression="gzip")


def linked(file):
    file["there"] = h5py.ExternalLink("/etc/hostname", "/")


def softly_linked(file):
    file["there"] = h5py.SoftLink("/nowhere")


def external(file):
    file.create_dataset("external", (4,), "f4", external=[("/etc/hostname", 0, 16)])


DAMAGE = {
    "cut": cut,
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("a model"),
    "deep": deep,
    "class": no_class,
    "layers": no_layers,
    "numbers": other_numbers,
    "giant": in_weights(giant),
    "link": in_weights(linked),
    "soft link": in_weights(softly_linked),
    "external": in_weights(external),
}


@pytest.mark.parametrize("use", OPEN.values(), ids=OPEN)
@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damage_is_told_in_one_kind_of_error(path, damage, use):
    damage(path)
    with pytest.raises(ValueError, match=path.name):
        use(path)


@pytest.mark.parametrize("seed", range(20))
def test_any_damage_at_all(path, seed):
    rng = np.random.default_rng(seed)
    content = bytearray(path.read_bytes())
    for at in rng.integers(0, len(content), rng.choice([1, 5, 50])):
        content[at] = rng.integers(256)
    path.write_bytes(content)
    try:
        open_model(path)
    except ValueError as error:
        assert path.name in str(error)


def test_an_archive_that_unpacks_to_far_more(saved, tmp_path, monkeypatch):
    monkeypatch.setattr("keras_kd.system.reading._SMALL", 2**20)
    path = pathlib.Path(shutil.copy(saved / "model.keras", tmp_path / "bomb.keras"))
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("assets/zeros", bytes(2**24))
    with pytest.raises(ValueError, match=r"bomb\.keras.*assets/zeros"):
        open_model(path)


@pytest.mark.parametrize(
    "record",
    [
        "[]",
        "{",
        "{}",
        '{"layers": [3], "quantization": null}',
        '{"layers": [], "history": 3, "quantization": null}',
    ],
)
def test_a_damaged_record_of_stages(saved, tmp_path, record):
    path = pathlib.Path(shutil.copy(saved / "compressed.h5", tmp_path / "a.h5"))
    with h5py.File(path, "a") as file:
        file.attrs["keras_kd_compressed"] = record
    with pytest.raises(ValueError, match=r"a\.h5"):
        kd.load_compressed(path)


def test_a_student_of_tf_keras_is_refused_with_the_way_out(saved, tmp_path):
    path = pathlib.Path(shutil.copy(saved / "old.h5", tmp_path / "old.h5"))
    with h5py.File(path, "a") as file:
        file.attrs["keras_kd_compressed"] = json.dumps({"layers": [], "history": {}})
    for use in (kd.load_compressed, OPEN["command line"]):
        with pytest.raises(ValueError, match=r"old\.h5.*QuantizeAware"):
            use(path)


def test_no_file_and_a_folder(tmp_path):
    with pytest.raises(FileNotFoundError):
        open_model(tmp_path / "absent.keras")
    with pytest.raises(OSError, match="folder"):
        (tmp_path / "folder.keras").mkdir()
        open_model(tmp_path / "folder.keras")


def test_one_place_loads_models():
    root = pathlib.Path(opening.__file__).parents[1]
    loading = {
        file.relative_to(root).as_posix()
        for file in root.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Attribute) and node.attr == "load_model"
    }
    # Keras 2's hands tf_keras's loader to the first; the demo is a program as a user writes it.
    assert loading == {"models/opening.py", "models/keras_2.py", "demo/run.py"}


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("kind", [keras, tf_keras], ids=["keras", "tf_keras"])
def test_models_inside_a_model_are_opened_uncompiled(kind, suffix, tmp_path):
    path = tmp_path / f"model{suffix}"
    inner = kind.Sequential([kind.Input((4,)), kind.layers.Dense(3)], name="inner")
    inner.compile("sgd", apart, metrics=[apart])
    middle = kind.Sequential([kind.Input((4,)), inner], name="middle")
    middle.compile("sgd", apart)
    outer = kind.Sequential([kind.Input((4,)), middle, kind.layers.Dense(2)])
    outer.compile("sgd", apart)
    outer.save(path)
    content = path.read_bytes()
    opened = open_model(path)
    x = np.ones((2, 4), "float32")
    np.testing.assert_allclose(opened(x), outer(x), rtol=1e-6)
    models = [opened, opened.get_layer("middle"), opened.get_layer("middle").get_layer("inner")]
    assert not any(model.compiled for model in models)
    assert path.read_bytes() == content
