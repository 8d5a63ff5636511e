"""Several devices give what one gives, at the same global batch."""

import pytest

SCRIPT = """
SparseCE = keras.losses.SparseCategoricalCrossentropy


def network(width, name, seed, **arguments):
    def dense(units, seed, **arguments):
        glorot = keras.initializers.GlorotUniform(seed)
        return keras.layers.Dense(units, kernel_initializer=glorot, **arguments)

    inputs = keras.Input((5,))
    hidden = dense(width, seed, activation="relu", name="hidden", **arguments)(inputs)
    return keras.Model(inputs, dense(3, seed + 1)(hidden), name=name)


def run(losses, weights):
    keras.utils.set_random_seed(0)
    teacher = network(7, "teacher", 1)
    student = network(4, "student", 3, kernel_regularizer=keras.regularizers.L2(0.1))
    distiller = kd.Distiller(
        teacher, student, losses(), [lambda e: 1.0 + e, *weights],
        keras.optimizers.schedules.PolynomialDecay(0.3, 10, 0.6), stop_distillation_at=2,
    )
    distiller.compile(
        keras.optimizers.Adam(0.01), SparseCE(from_logits=True), metrics=["accuracy"],
        evaluate_distillation=True,
    )
    # Both runs start from the same projection.
    for variable in distiller.objective.trainable_variables:
        values = np.random.default_rng(0).normal(size=variable.shape)
        variable.assign(values.astype("float32"))
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(48, 5)).astype("float32"), rng.integers(0, 3, 48)
    w = rng.uniform(size=48).astype("float32")
    logs = distiller.fit(
        x, y, sample_weight=w, validation_data=(x, y), epochs=3, batch_size=16, shuffle=False,
        verbose=0,
    ).history
    trained = [*student.get_weights()]
    trained += [variable.numpy() for variable in distiller.objective.trainable_variables]
    return logs, trained


def ours():
    return [
        kd.losses.KLDivergence(keras.optimizers.schedules.PolynomialDecay(4.0, 10, 1.0)),
        kd.Hint("hidden", "hidden"),
    ]


def of_keras(reduction="sum_over_batch_size"):
    kl = keras.losses.KLDivergence(reduction=reduction)
    return [keras.distillation.LogitsDistillation(2.0, kl), kd.Hint("hidden", "hidden")]


def run_peers():
    keras.utils.set_random_seed(0)
    peers = [network(4, "first", 1), network(7, "second", 3)]
    losses = [kd.losses.KLDivergence(2.0), kd.Hint("hidden", "hidden")]
    mutual = kd.MutualDistiller(peers, losses)
    mutual.compile(
        keras.optimizers.Adam(0.01), SparseCE(from_logits=True), metrics=["accuracy"]
    )
    for layer in mutual.teaching_layers:
        layer.set_weights([np.full(w.shape, 0.1, "float32") for w in layer.get_weights()])
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(48, 5)).astype("float32"), rng.integers(0, 3, 48)
    logs = mutual.fit(
        x, y, validation_data=(x, y), epochs=2, batch_size=16, shuffle=False, verbose=0
    ).history
    return logs, [variable.numpy() for variable in mutual.trainable_weights]


for name, train in (
    ("ours", lambda: run(ours, [0.5])),
    ("of_keras", lambda: run(of_keras, [0.5])),
    ("of_keras_sum", lambda: run(lambda: of_keras("sum"), [0.5])),
    ("mutual", run_peers),
):
    single = train()
    with strategy.scope():
        mirrored = train()
    results[name] = {
        "weights": max(float(np.abs(a - b).max()) for a, b in zip(single[1], mirrored[1])),
        "logs": {key: [single[0][key], mirrored[0][key]] for key in single[0]},
        "same_logs": sorted(single[0]) == sorted(mirrored[0]),
        "variables": len(single[1]),
    }
"""


@pytest.fixture(scope="module")
def results(run_on_two_devices):
    return run_on_two_devices(SCRIPT)


@pytest.mark.parametrize("losses", ["ours", "of_keras", "of_keras_sum", "mutual"])
@pytest.mark.promise
def test_two_devices_train_as_one(results, losses):
    result = results[losses]
    assert result["variables"] == (12 if losses == "mutual" else 6)
    assert result["weights"] < 1e-5


@pytest.mark.parametrize("losses", ["ours", "of_keras", "of_keras_sum", "mutual"])
@pytest.mark.promise
def test_two_devices_log_as_one(results, losses):
    result = results[losses]
    assert result["same_logs"]
    peer = "peer_1_" if losses == "mutual" else ""
    names = {"loss", "val_loss", f"{peer}student_loss", f"{peer}distillation_loss"}
    assert names <= set(result["logs"])
    for name, (single, mirrored) in result["logs"].items():
        assert mirrored == pytest.approx(single, rel=1e-4), name
