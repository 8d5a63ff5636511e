import keras
import numpy as np
import pytest


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("benchmarks/fashion_models.py")


def build():
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])


def data():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(16, 3)).astype("float32"), rng.integers(0, 2, 16)
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices((x, y)).batch(8)


def compiled(script):
    keras.utils.set_random_seed(0)
    model = build()
    model.compile(
        script.momentum_optimizer(0.1, 1e-3, 8),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return model


def fit(script, model, folder):
    return script.fit_resumably(
        model, data(), data(), epochs=4, folder=folder, name="model", verbose=0
    )


def test_a_killed_training_goes_on_to_the_same_weights(script, tmp_path):
    whole = compiled(script)
    history = fit(script, whole, tmp_path / "whole")

    class Killed(Exception):
        pass

    killed = compiled(script)
    original = killed.train_step
    steps = []

    def train_step(batch):
        steps.append(1)
        if len(steps) > 5:
            raise Killed
        return original(batch)

    killed.train_step = train_step
    killed.run_eagerly = True
    with pytest.raises(Killed):
        fit(script, killed, tmp_path / "killed")
    resumed = compiled(script)
    resumed_history = fit(script, resumed, tmp_path / "killed")
    for a, b in zip(whole.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)
    assert resumed_history["epoch"] == history["epoch"] == [0, 1, 2, 3]
    np.testing.assert_allclose(resumed_history["loss"], history["loss"], rtol=1e-5)
    # Killed before the model was saved: nothing is trained again.
    again = fit(script, compiled(script), tmp_path / "killed")
    assert {**again, "seconds": 0} == {**resumed_history, "seconds": 0}


def test_finished_models_are_loaded(script, tmp_path):
    calls = []

    def train():
        calls.append(1)
        return build(), {"loss": [1.0], "seconds": 2.0}

    first, _ = script.train_or_load(tmp_path / "model.keras", train)
    second, history = script.train_or_load(tmp_path / "model.keras", train)
    assert calls == [1]
    assert history == {"loss": [1.0], "seconds": 2.0}
    for a, b in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_with_policy_keeps_the_weights(script):
    with script.dtype_policy("mixed_bfloat16"):
        model = build()
    copy = script.with_policy(build, model, "float32")
    assert model.compute_dtype == "bfloat16"
    assert copy.compute_dtype == "float32"
    assert keras.config.dtype_policy().name == "float32"
    for a, b in zip(model.get_weights(), copy.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_schedule_warms_up_and_ends_at_zero(script):
    schedule = script.momentum_optimizer(0.1, 1e-3, 100)._learning_rate
    assert float(schedule(0)) == pytest.approx(0.01)
    assert float(schedule(10)) == pytest.approx(0.1)
    assert float(schedule(100)) == pytest.approx(0.0, abs=1e-6)
