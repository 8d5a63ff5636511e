"""Under MirroredStrategy the masks are equal on every device, and those of one device."""

import pytest

SCRIPT = """

def run(**arguments):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((5,)), keras.layers.Dense(12, "relu"), keras.layers.Dense(3)]
    )
    model.compile(
        keras.optimizers.SGD(0.1, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,
    )
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(48, 5)).astype("float32"), rng.integers(0, 3, 48)
    seen = []

    class Copies(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            for weight in model.trainable_weights:
                copies = getattr(weight.value, "values", [weight.value])
                seen.append(max(float(tf.reduce_max(tf.abs(c - copies[0]))) for c in copies))

    model.fit(
        x, y, epochs=3, batch_size=16, shuffle=False, verbose=0,
        callbacks=[kd.Prune(**arguments).as_callback(), Copies()],
    )
    return model.get_weights(), max(seen)


for name, arguments in (("by layer", {"frequency": 2}), ("global", {"scope": "global"})):
    arguments = {"sparsity": 0.6, **arguments}
    single, _ = run(**arguments)
    with strategy.scope():
        mirrored, difference = run(**arguments)
    results[name] = {
        "difference": difference,
        "weights": max(float(np.abs(a - b).max()) for a, b in zip(single, mirrored)),
        "zeros": all(((a == 0) == (b == 0)).all() for a, b in zip(single, mirrored)),
        "sparsity": float(np.concatenate([w.ravel() == 0 for w in mirrored[::2]]).mean()),
    }
"""


@pytest.mark.promise
def test_two_devices_prune_as_one(run_on_two_devices):
    results = run_on_two_devices(SCRIPT)
    assert len(results) == 2
    for result in results.values():
        assert result["difference"] == 0.0
        assert result["weights"] < 1e-5
        assert result["zeros"]
        assert abs(result["sparsity"] - 0.6) < 0.02
