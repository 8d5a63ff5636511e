import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_kd as kd
from keras_kd.models.tfmot import import_tfmot

CROSS_ENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def _arrays():
    rng = np.random.default_rng(0)
    return rng.normal(size=(48, 6)).astype("float32"), rng.integers(0, 3, 48)


def _model(seed=0, **arguments):
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(20, activation="relu", name="hidden"),
            layers.Dense(3, name="logits"),
        ]
    )
    # Compiling by XLA takes longer than these trainings do.
    arguments = {"jit_compile": False, **arguments}
    model.compile(keras.optimizers.Adam(0.01), CROSS_ENTROPY, **arguments)
    return model


def _fit(model, callbacks, epochs=4, **arguments):
    # Six steps an epoch.
    arguments = {"batch_size": 8, "verbose": 0, "shuffle": False, **arguments}
    return model.fit(*_arrays(), epochs=epochs, callbacks=callbacks, **arguments)


def _sparsities(model):
    return [float((layer.get_weights()[0] == 0).mean()) for layer in model.layers]


@pytest.mark.promise
def test_prunes_in_a_plain_fit_and_leaves_the_model_as_it_was():
    model = _model()
    attributes = set(model.__dict__)
    history = _fit(model, [kd.Prune(0.75).as_callback()], validation_data=_arrays())
    assert _sparsities(model) == [0.75, 0.75]
    assert history.history["sparsity"][0] < 0.75
    assert history.history["sparsity"][2:] == [0.75, 0.75]
    assert "train_step" not in model.__dict__
    assert set(model.__dict__) - attributes <= {"history", "stop_evaluating"}
    before = _sparsities(model)
    _fit(model, [], epochs=1)
    assert _sparsities(model)[0] < before[0]


def test_prunes_the_student_of_a_distiller_and_only_it():
    teacher, student = _model(1), _model(2)
    distiller = kd.Distiller(
        teacher,
        student,
        [kd.losses.KLDivergence(), kd.Hint("hidden", "logits")],
        stop_distillation_at=2,
    )
    distiller.compile(keras.optimizers.Adam(0.01), loss=CROSS_ENTROPY, jit_compile=False)
    _fit(distiller, [kd.Prune(0.5).as_callback()])
    assert _sparsities(student) == [0.5, 0.5]
    assert max(_sparsities(teacher)) == 0.0
    projection = distiller.teaching_layers[0]
    assert all((weight != 0).any() for weight in projection.get_weights())


class _Killed(Exception):
    pass


class _Kill(keras.callbacks.Callback):
    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            raise _Killed


@pytest.mark.parametrize(
    ("pruning_first", "arguments"),
    [(True, {"frequency": 4}), (False, {"scope": "global"}), (True, {"sparsity_m_by_n": (2, 4)})],
)
@pytest.mark.promise
def test_a_killed_run_ends_with_the_weights_of_the_other(tmp_path, pruning_first, arguments):
    def callbacks(*more):
        pair = [
            kd.Prune(**arguments).as_callback(),
            keras.callbacks.BackupAndRestore(tmp_path / "backup"),
        ]
        return [*(pair if pruning_first else pair[::-1]), *more]

    whole = _model()
    # A weight of zero that is not masked: the masks cannot be told from the weights.
    whole.get_layer("hidden").kernel.assign(
        np.where(np.arange(120).reshape(6, 20) == 7, 0.0, whole.get_layer("hidden").kernel)
    )
    start = whole.get_weights()
    _fit(whole, callbacks())
    killed = _model()
    killed.set_weights(start)
    with pytest.raises(_Killed):
        _fit(killed, callbacks(_Kill(2)))
    resumed = _model(seed=5)
    history = _fit(resumed, callbacks())
    assert history.epoch == [2, 3]
    for ours, theirs in zip(resumed.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_checkpoints_are_pruned_and_load_into_plain_models(tmp_path):
    model = _model()
    # It saves before the pruning callback is called.
    saves = [
        keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras"),
        keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.weights.h5", save_weights_only=True),
    ]
    _fit(model, [*saves, kd.Prune(0.5).as_callback()])
    loaded = keras.models.load_model(tmp_path / "3.keras")
    assert _sparsities(loaded) == [0.5, 0.5]
    plain = _model(seed=3)
    plain.load_weights(tmp_path / "4.weights.h5")
    for ours, theirs in zip(plain.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.promise
def test_several_steps_an_execution():
    constant = import_tfmot().sparsity.keras.ConstantSparsity(0.5, 3, -1, 3)
    # With updates in steps that begin an execution, both are the same.
    one, three = _model(), _model(steps_per_execution=3)
    schedule = import_tfmot().sparsity.keras.PolynomialDecay(0.0, 0.5, 1, 13, frequency=3)
    for model in (one, three):
        _fit(model, [kd.Prune(schedule=schedule).as_callback()])
    for ours, theirs in zip(three.get_weights(), one.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    inside = _model(steps_per_execution=4)
    _fit(inside, [kd.Prune(schedule=constant).as_callback()])
    assert _sparsities(inside) == [0.5, 0.5]


@pytest.mark.promise
def test_eager_steps_and_steps_without_xla_are_those_with_it():
    weights = []
    for arguments in ({"run_eagerly": True}, {"jit_compile": False}, {"jit_compile": True}):
        model = _model(**arguments)
        _fit(model, [kd.Prune(0.5, frequency=2).as_callback()], epochs=2)
        weights.append(model.get_weights())
    for others in weights[1:]:
        for ours, theirs in zip(others, weights[0], strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_two_callbacks_prune_two_parts_to_two_sparsities():
    model = _model()
    hidden = kd.Prune(0.5, layers="hidden", name="half").as_callback()
    logits = kd.Prune(0.8, layers="logits").as_callback()
    _fit(model, [hidden, logits])
    assert _sparsities(model) == [0.5, 0.8]
    assert hidden.sparsity_of("hidden") == 0.5
    assert "train_step" not in model.__dict__
    with pytest.raises(ValueError, match=r'under the name \'prune\'.*name="prune_2"'):
        _fit(model, [kd.Prune(layers="hidden").as_callback(), kd.Prune().as_callback()])


def test_only_a_part_of_the_model_that_is_trained():
    body = _model()
    model = keras.Sequential([keras.Input((6,)), body, layers.Dense(3, name="head")])
    model.compile("adam", CROSS_ENTROPY, jit_compile=False)
    _fit(model, [kd.Prune(0.5).as_callback(body)])
    assert _sparsities(body) == [0.5, 0.5]
    assert (model.get_layer("head").get_weights()[0] != 0).all()


def test_a_later_epoch_begins_where_the_schedule_is():
    model = _model()
    history = _fit(model, [kd.Prune(0.5).as_callback()], initial_epoch=3)
    assert history.history["sparsity"] == [0.5]


@pytest.mark.promise
def test_equal_weights_that_all_stay_are_told():
    def fit(*of_prune, **arguments):
        model = _model()
        model.optimizer.learning_rate = 0.0
        kernel = model.get_layer("hidden").kernel
        kernel.assign(np.where(np.asarray(kernel) > 0, 1.0, zero))
        _fit(model, [kd.Prune(*of_prune, **arguments).as_callback()], epochs=1)

    zero = -1.0
    match = r"misses the sparsity of 50% in 'hidden' \(0%\)\. Prune by scope=\"global\""
    with pytest.warns(UserWarning, match=match):
        fit(0.5)
    with pytest.warns(UserWarning, match=r"in 'hidden' \(0%\)"):
        fit(0.5, block_size=(4, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        fit(0.5, scope="global")
        zero = 0.0
        fit(0.4)  # it has more zeros before


def test_data_that_does_not_know_its_length():
    x, y = _arrays()
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(8).filter(lambda x, y: True)
    model = _model()
    with pytest.raises(ValueError, match=r"does not know its length.*steps_per_epoch"):
        model.fit(data, epochs=2, verbose=0, callbacks=[kd.Prune(0.5).as_callback()])
    model = _model()
    callback = kd.Prune(0.5).as_callback(steps_per_epoch=6)
    model.fit(data, epochs=2, verbose=0, callbacks=[callback])
    assert _sparsities(model) == [0.5, 0.5]


def test_evaluate_and_predict_leave_the_model_alone():
    model = _model()
    before, attributes = model.get_weights(), set(model.__dict__)
    model.evaluate(*_arrays(), verbose=0, callbacks=[kd.Prune(0.5).as_callback()])
    model.predict(_arrays()[0], verbose=0, callbacks=[kd.Prune(0.5).as_callback()])
    assert not [name for name in set(model.__dict__) - attributes if "prun" in name]
    for ours, theirs in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_mixed_precision_keeps_float32_weights_masked():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((6,)), layers.Dense(20, dtype="mixed_bfloat16"), layers.Dense(3)]
    )
    model.compile("adam", CROSS_ENTROPY, jit_compile=False)
    _fit(model, [kd.Prune(0.5).as_callback()], epochs=2)
    assert _sparsities(model) == [0.5, 0.5]
    assert model.layers[0].kernel.dtype == "float32"


def test_names_that_match_nothing_are_refused():
    with pytest.raises(ValueError, match=r"no such layer.*hidden, logits"):
        _fit(_model(), [kd.Prune(0.5, layers="conv*").as_callback()])


@pytest.mark.parametrize("pruning_first", [True, False])
@pytest.mark.promise
def test_zeros_survive_early_stopping_in_either_order(pruning_first):
    model = _model()
    stop = keras.callbacks.EarlyStopping("loss", mode="max", patience=5, restore_best_weights=True)
    callbacks = [kd.Prune(0.5).as_callback(), stop]
    with pytest.warns(UserWarning, match="EarlyStopping"):
        _fit(model, callbacks if pruning_first else callbacks[::-1])
    assert _sparsities(model) == [0.5, 0.5]
    assert "on_train_end" not in vars(model.history)


@pytest.mark.parametrize("ended", [[], [keras.callbacks.TerminateOnNaN()]])
def test_nothing_is_said_of_zeros_where_weights_are_nan(ended):
    model = _model()
    model.optimizer.learning_rate = 1e30
    x, y = _arrays()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        _fit(model, [kd.Prune(0.75).as_callback(), *ended], validation_data=(x, y))
    assert np.isnan(model.get_weights()[0]).any()
