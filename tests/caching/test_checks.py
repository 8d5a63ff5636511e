import json
import shutil
import zlib

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd as kd
from keras_kd.caching.checks import difference, fingerprint, teacher_fingerprint


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(5)
    return keras.Sequential([keras.Input((5,)), keras.layers.Dense(3)])


def examples(n=44):
    rng = np.random.default_rng(0)
    return tf.data.Dataset.from_tensor_slices(rng.normal(size=(n, 5)).astype("float32"))


def cache(*args, **kwargs):
    return kd.teachers.cache(*args, verbose=False, **kwargs)


@pytest.fixture(scope="module")
def built(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("caches") / "whole"
    cache(model, examples().batch(8), folder)
    return folder


@pytest.fixture
def folder(built, tmp_path):
    return shutil.copytree(built, tmp_path / "cache")


ADVICE = "Give another path, or remove that folder to build the cache again"


def noisy(x):
    return x + tf.random.normal(tf.shape(x))


@pytest.mark.parametrize(
    "data",
    [
        examples().shuffle(44).batch(8),
        examples().shuffle(44, seed=0).batch(8),
        examples().batch(8).map(noisy),
        examples().map(noisy).batch(8).cache().shuffle(6),
    ],
    ids=["shuffle", "seeded shuffle", "augmentation", "shuffled batches"],
)
def test_random_data_is_refused_at_once_with_what_to_write(model, data, tmp_path):
    with pytest.raises(
        ValueError, match=r"different inputs in each pass.*\.unbatch\(\)\.shuffle.*views="
    ):
        cache(model, data, tmp_path / "c")
    assert not (tmp_path / "c").exists() or not list((tmp_path / "c").glob("*"))


def test_a_shuffle_that_stays_as_it_is_is_accepted(model, tmp_path):
    data = examples().shuffle(44, seed=3, reshuffle_each_iteration=False).batch(8)
    for given, *_ in cache(model, data, tmp_path):
        np.testing.assert_allclose(given.outputs, model(given.inputs), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("alter", ["truncate", "append", "flip", "remove"])
def test_altered_files_are_refused_with_the_reason(model, folder, alter):
    shard = sorted(folder.glob("*.tfrecord"))[-1]
    content = bytearray(shard.read_bytes())
    if alter == "truncate":
        content = content[:-3]
    elif alter == "append":
        content += b"xyz"
    else:
        content[40] ^= 1
    if alter == "remove":
        shard.unlink()
    else:
        shard.write_bytes(content)
    reason = {
        "truncate": f"'{shard.name}' was truncated: it has",
        "append": f"'{shard.name}' was altered: it has",
        "flip": f"'{shard.name}' was altered: its checksum is another",
        "remove": f"'{shard.name}' is missing",
    }[alter]
    with pytest.raises(ValueError, match=f"{reason}.*{ADVICE}"):
        cache(model, examples().batch(8), folder)
    if alter == "flip":  # without the check at opening, TFRecord's own is left
        taught = cache(model, examples().batch(8), folder, check_files=False)
        with pytest.raises(tf.errors.DataLossError):
            list(taught)


def test_other_manifests_and_other_folders_are_refused(model, folder, tmp_path):
    (folder / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match=f"manifest.json cannot be read.*{ADVICE}"):
        cache(model, examples().batch(8), folder)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/cat.png").touch()
    with pytest.raises(ValueError, match=r"holds 'cat.png' and no manifest"):
        cache(model, examples().batch(8), tmp_path / "photos")
    assert [p.name for p in (tmp_path / "photos").iterdir()] == ["cat.png"]


def test_another_teacher_is_refused(folder):
    keras.utils.set_random_seed(6)
    other = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3)])
    with pytest.raises(ValueError, match=f"another teacher: the weights differ.*{ADVICE}"):
        cache(other, examples().batch(8), folder)


def test_other_data_is_refused(model, folder):
    for data, reason in (
        (
            examples().map(lambda x: x + 1e-6).batch(8),
            "does not give the inputs",
        ),
        (examples().shuffle(44, seed=1, reshuffle_each_iteration=False).batch(8), "reordered"),
        (examples().skip(8).batch(8), "had 6 batches, this one has 5"),
        (examples().batch(9), "had 6 batches, this one has 5"),
        (examples().map(lambda x: x[:4]).batch(8), "had elements of"),
    ):
        with pytest.raises(ValueError, match=reason):
            cache(model, data, folder)


def test_data_that_changes_later_is_refused_while_reading(model, folder):
    def changed(i, x):
        return tf.where(tf.equal(i, 3), x + 1.0, x)

    data = examples().batch(8).enumerate().map(changed)
    reading = iter(cache(model, data, folder))
    for _ in range(3):
        next(reading)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"does not belong to this data.*3"):
        next(reading)
    assert len(list(cache(model, data, folder, check_inputs=False))) == 6
    swapped = examples().batch(8).enumerate().map(lambda i, x: tf.where(i > 0, x[::-1], x))
    with pytest.raises(tf.errors.InvalidArgumentError, match="reordered"):
        list(cache(model, swapped, folder))


def test_data_that_ends_elsewhere_is_refused_where_its_length_is_unknown(model, folder):
    whole = examples().batch(8)
    for data in (whole.take(5), whole.concatenate(whole.take(1))):
        data = data.filter(lambda x: tf.constant(True))
        with pytest.raises(tf.errors.FailedPreconditionError, match="6"):
            list(cache(model, data, folder))


def test_refuses_single_examples(tmp_path):
    teacher = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    examples = tf.data.Dataset.from_tensor_slices(np.zeros((8, 4), "float32"))
    with pytest.raises(ValueError, match=r"single examples, but the teacher takes batches"):
        kd.teachers.cache(teacher, examples, tmp_path / "cache", verbose=0)
    assert not (tmp_path / "cache").exists()


class Scaled(keras.layers.Layer):
    factor = 0.25

    def call(self, x):
        return x * Scaled.factor


def subclassed(net):
    class Teacher(keras.Model):
        def __init__(self):
            super().__init__()
            self.net = net

        def call(self, x):
            return self.net(x * Scaled.factor)

    made = Teacher()
    made(tf.zeros((1, 5)))
    return made


CODES = {
    "layer": lambda net: keras.Sequential([keras.Input((5,)), Scaled(), net]),
    "model": subclassed,
    "function": lambda net: lambda x: net(x * Scaled.factor),
    "lambda": lambda net: keras.Sequential(
        [keras.Input((5,)), keras.layers.Lambda(lambda x: x * Scaled.factor), net]
    ),
    "ensemble": lambda net: kd.teachers.Ensemble([subclassed(net), net]),
}


@pytest.mark.fast_cases("layer-None", "function-2", "ensemble-None")
@pytest.mark.parametrize("views", [None, 2])
@pytest.mark.parametrize("make", CODES.values(), ids=CODES)
def test_a_teacher_whose_code_was_changed_is_refused(model, make, views, tmp_path, monkeypatch):
    cache(make(model), examples().batch(8), tmp_path, views=views)
    taught = cache(make(model), examples().batch(8), tmp_path, views=views)
    assert len(list(taught)) == 6
    monkeypatch.setattr(Scaled, "factor", 0.5)
    with pytest.raises(ValueError, match=f"another teacher.*'outputs'.*{ADVICE}"):
        cache(make(model), examples().batch(8), tmp_path, views=views)


def test_a_build_is_not_gone_on_with_by_other_code(model, tmp_path, monkeypatch):
    cache(CODES["model"](model), examples().batch(8), tmp_path)
    rewrite(tmp_path, complete=False)
    monkeypatch.setattr(Scaled, "factor", 0.5)
    with pytest.raises(ValueError, match=f"another teacher.*{ADVICE}"):
        cache(CODES["model"](model), examples().batch(8), tmp_path)


def rewrite(folder, **changes):
    file = folder / "manifest.json"
    manifest = json.loads(file.read_text())
    file.write_text(json.dumps({**manifest, **changes}))


@pytest.fixture
def victim(tmp_path):
    path = tmp_path / "victim.txt"
    path.write_text("precious")
    yield path
    assert path.read_text() == "precious"
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != "cache") == ["victim.txt"]


@pytest.mark.parametrize("complete", [True, False])
@pytest.mark.parametrize(
    "name", ["../victim.txt", "{}/victim.txt", "..", "", "manifest.json", "a/00000.tfrecord", None]
)
def test_names_from_a_manifest_are_never_paths(model, folder, victim, name, complete):
    name = name and name.format(victim.parent)
    shard = json.loads((folder / "manifest.json").read_text())["shards"][0]
    shard = {**shard, "file": name, "size": 8, "crc32": zlib.crc32(b"precious"), "inputs": "?"}
    rewrite(folder, shards=[shard], complete=complete)
    with pytest.raises(ValueError, match=f"manifest.json cannot be read.*{ADVICE}"):
        cache(model, examples().batch(8), folder)


def test_links_in_a_cache_are_not_followed(model, folder, victim):
    first = folder / "00000.tfrecord"
    first.unlink()
    first.symlink_to(victim)
    with pytest.raises(ValueError, match=f"'00000.tfrecord' is a link.*{ADVICE}"):
        cache(model, examples().batch(8), folder)
    rewrite(folder, complete=False)
    (folder / ".lock").unlink(missing_ok=True)
    for target in (victim, victim.parent / "absent", victim.parent):
        (folder / ".lock").symlink_to(target)
        with pytest.raises(ValueError, match=r"\.lock.*another folder"):
            cache(model, examples().batch(8), folder)
        (folder / ".lock").unlink()


def test_links_in_an_empty_folder_are_not_followed(model, tmp_path, victim):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/.00000.0123.tfrecord").symlink_to(victim)
    (tmp_path / "cache/.a.tfrecord").mkdir()
    cache(model, examples().batch(8), tmp_path / "cache")
    (tmp_path / "cache/manifest.json").rename(tmp_path / "cache/.manifest")
    (tmp_path / "cache/manifest.json").symlink_to(tmp_path / "absent")
    with pytest.raises(ValueError, match="manifest"):
        cache(model, examples().batch(8), tmp_path / "cache")


LEAF = {"key": "outputs", "dtype": "float32", "read_as": "float32", "shape": [None, 3]}
INPUT = {"key": "inputs", "dtype": "int64", "read_as": "int64", "shape": [None]}


@pytest.mark.parametrize(
    "changes",
    [
        {"leaves": [{**LEAF, "dtype": "variant"}, INPUT]},
        {"leaves": [{**LEAF, "dtype": "int32"}, INPUT]},
        {"leaves": [{**LEAF, "shape": [None, 3, 3]}, INPUT]},
        {"leaves": [LEAF]},
        {"outputs": "absent"},
        {"outputs": {"dict": {"a": 3}}},
        {"outputs": None},
        {"fingerprint": {}},
        {"fingerprint": None},
        {"shards": [3]},
        {"shards": []},
    ],
    ids=str,
)
def test_a_manifest_that_does_not_fit_its_records_is_refused(model, folder, changes):
    rewrite(folder, **changes)
    with pytest.raises(ValueError, match=f"is not used.*{ADVICE}"):
        cache(model, examples().batch(8), folder)


def network(activation="relu", units=4):
    inputs = keras.Input((3,))
    inner = keras.Sequential([keras.layers.Dense(units), keras.layers.Dropout(0.5)])
    x = keras.layers.Activation(activation)(inner(inputs))
    x = keras.layers.Softmax()(keras.layers.Dense(3, activation="softmax")(x))
    return keras.Model(inputs, keras.layers.Dense(2)(x + 1.0))


def test_a_copy_is_the_same_teacher_whatever_its_layers_are_called():
    first, second = network(), network()
    assert first.layers[-1].name != second.layers[-1].name
    assert teacher_fingerprint(first)["config"] == teacher_fingerprint(second)["config"]
    assert teacher_fingerprint(first)["weights"] != teacher_fingerprint(second)["weights"]
    second.set_weights(first.get_weights())
    second.trainable = False
    second.compile("adam", "mse")
    assert teacher_fingerprint(first) == teacher_fingerprint(second)


def test_every_weight_and_every_layer_counts():
    model, other = network(), network("tanh")
    other.set_weights(model.get_weights())
    before = teacher_fingerprint(model)
    assert before["weights"] == teacher_fingerprint(other)["weights"]
    assert before["config"] != teacher_fingerprint(other)["config"]
    # The same layers in another order of the graph.
    a, b = keras.Input((3,)), keras.Input((3,))
    graphs = [keras.Model([a, b], keras.layers.Subtract()(pair)) for pair in ([a, b], [b, a])]
    first, second = map(teacher_fingerprint, graphs)
    assert first["config"] != second["config"]
    bias = model.layers[-1].bias
    bias.assign_add([0.0, 1e-7])
    assert before["weights"] != teacher_fingerprint(model)["weights"]


def test_other_kinds_of_teachers():
    class Subclassed(keras.Model):
        def __init__(self, scale):
            super().__init__()
            self.dense, self.scale = keras.layers.Dense(2), scale

        def call(self, x):
            return self.scale * self.dense(x)

    model = Subclassed(np.float32(2.0))
    model(tf.zeros((1, 3)))
    assert teacher_fingerprint(model)["weights"] is not None
    assert teacher_fingerprint(lambda x: x) == {"weights": None, "config": None}
    # A weight in bfloat16 has no buffer that NumPy could name.
    half = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, dtype="bfloat16")])
    half.layers[0].kernel.assign(tf.ones((3, 2)))
    assert teacher_fingerprint(half)["weights"] is not None


def test_the_code_of_a_lambda_is_compared_by_what_it_does():
    models = []
    for function in (lambda x: 2 * x, lambda x: 3 * x):
        dense = keras.layers.Dense(2, kernel_initializer="ones")
        models.append(keras.Sequential([keras.Input((3,)), dense, keras.layers.Lambda(function)]))
    assert teacher_fingerprint(models[0]) == teacher_fingerprint(models[1])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"layers": ["a"]}, "it holds layers=[], and layers=['a'] was asked for"),
        ({"dtype": "float16"}, "it holds dtype='float32', and dtype='float16' was asked for"),
        ({"top_k": 5}, "it holds top_k=None, and top_k=5"),
        ({"temperature": 2.0}, "it holds temperature=None, and temperature=2.0"),
        ({"views": 2}, "it holds views=None, and views=2"),
    ],
)
def test_arguments_count(change, reason):
    data = tf.data.Dataset.from_tensor_slices(np.zeros((6, 3), "float32"))
    same = {"layers": [], "dtype": "float32", "top_k": None, "temperature": None, "views": None}
    model = network()
    first = fingerprint(model, data.batch(2), **same)
    assert difference(first, fingerprint(model, data.batch(2), **same)) is None
    found = difference(first, fingerprint(model, data.batch(2), **{**same, **change}))
    assert found.startswith(reason)
    found = difference(first, fingerprint(model, data.batch(3), **same))
    assert found == "its dataset had 3 batches, this one has 2"
    found = difference(first, fingerprint(model, data.batch(2, drop_remainder=True), **same))
    assert "elements of" in found
