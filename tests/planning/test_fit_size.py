import json

import keras
import numpy as np
import pytest
from keras import layers

import keras_kd as kd
from keras_kd.measuring.sizes import zipped_size


@pytest.fixture(scope="module")
def arguments():
    keras.utils.set_random_seed(0)
    generator = np.random.default_rng(0)
    x = generator.normal(size=(64, 32)).astype("float32")
    y = (x[:, 0] > 0).astype("int32")

    def network(name):
        inputs = keras.Input((32,))
        hidden = layers.Dense(100, activation="relu", name="hidden")(inputs)
        return keras.Model(inputs, layers.Dense(2, name="logits")(hidden), name=name)

    distiller = kd.Distiller(network("teacher"), network("student"), [kd.losses.KLDivergence()])
    distiller.compile("adam", loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return {
        "distiller": distiller,
        "train": (x, y),
        "stages": [kd.Prune(0.95, epochs=2)],
        "quantization": "float32",
        "verbose": 0,
    }


@pytest.mark.slow
def test_the_gentlest_strength_that_is_small_enough(arguments, tmp_path):
    limit = 9_000  # 3,300 weights of 4 bytes
    sized = kd.compress_to_size(**arguments, max_bytes=limit, path=tmp_path)
    assert sized.bytes == zipped_size(sized.file) <= limit
    # Not much smaller than asked for: the search is in steps of 1/64, and 2 % are kept back.
    assert sized.bytes > 0.9 * limit
    assert sized.model.sparsity == pytest.approx(0.95 * sized.strength, abs=0.01)
    assert sized.tried[sized.strength] == sized.bytes
    content = json.loads((tmp_path / "size.json").read_text())
    untrained = {float(strength): size for strength, size in content["untrained"].items()}
    ordered = [untrained[strength] for strength in sorted(untrained)]
    assert ordered == sorted(ordered, reverse=True)

    # Once more: nothing is measured or trained again.
    again = kd.compress_to_size(
        **{**arguments, "representative_data": None}, max_bytes=limit, path=tmp_path
    )
    assert json.loads((tmp_path / "size.json").read_text()) == content
    np.testing.assert_array_equal(
        again.model.model.get_weights()[0], sized.model.model.get_weights()[0]
    )
    with pytest.raises(ValueError, match="is of another student, other stages"):
        kd.compress_to_size(**{**arguments, "zipped": False}, max_bytes=limit, path=tmp_path)


def test_what_cannot_be_reached_is_refused_before_training(arguments):
    with pytest.raises(ValueError, match="At full strength the zipped float32 file"):
        kd.compress_to_size(**arguments, max_bytes=1000)
    with pytest.raises(ValueError, match="`max_bytes` must be a whole number"):
        kd.compress_to_size(**arguments, max_bytes=1.5)
    once = {**arguments, "representative_data": iter([])}
    with pytest.raises(ValueError, match="`representative_data` is needed several times"):
        kd.compress_to_size(**once, max_bytes=100_000)
    with pytest.raises(ValueError, match="`trainings` must be a whole number"):
        kd.compress_to_size(**arguments, max_bytes=1000, trainings=0)


@pytest.mark.promise
def test_strengths_at_which_a_stage_has_nothing_to_do(arguments):
    """A kernel of 128 weights is not clustered to more than 128 values."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((32,))
    hidden = layers.Dense(4, activation="relu", name="hidden")(inputs)
    student = keras.Model(inputs, layers.Dense(2, name="logits")(hidden))
    distiller = kd.Distiller(arguments["distiller"].teacher, student, [kd.losses.KLDivergence()])
    distiller.compile("adam", loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    given = {**arguments, "distiller": distiller, "stages": [kd.Cluster(4, epochs=0)]}
    sized = kd.compress_to_size(**given, max_bytes=100_000)
    record = {layer.name: layer for layer in sized.model.layers}["hidden"]
    # 128 weights: the most clusters are the first number below it.
    assert 100 < record.clusters < 128
    weakest = min(sized.tried)
    assert kd.Cluster(4).at_strength(weakest).number_of_clusters < 128
    assert kd.Cluster(4).at_strength(weakest - 1 / 64).number_of_clusters >= 128


def test_a_folder_with_something_else(arguments, tmp_path):
    (tmp_path / "size.json").write_text("{}")
    with pytest.raises(ValueError, match=r"size.json' is not a record of a search"):
        kd.compress_to_size(**arguments, max_bytes=9000, path=tmp_path)
