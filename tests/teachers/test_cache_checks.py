import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd as kd


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


ADVICE = "Give another path, or remove that folder to build the cache anew"


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
    with pytest.raises(ValueError, match=r"other inputs each time.*\.unbatch\(\)\.shuffle.*views="):
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
