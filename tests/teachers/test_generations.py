import json

import keras
import numpy as np
import pytest

import keras_kd as kd
from keras_kd.teachers import Ensemble, born_again, chain


def network(units, name="student"):
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(units, activation="relu")(inputs)
    return keras.Model(inputs, keras.layers.Dense(3)(hidden), name=name)


def add_one(calls):
    """Return a `fit` that makes the student the teacher's first number plus one."""

    def fit(teacher, student):
        calls.append((teacher, student))
        value = teacher.get_weights()[0].flat[0] + 1.0
        student.set_weights([np.full_like(w, value) for w in student.get_weights()])
        return {"loss": [np.float32(value)]}

    return fit


def first(model):
    return model.get_weights()[0].flat[0]


def teacher_of_zeros(units=8):
    teacher = network(units, "teacher")
    teacher.set_weights([np.zeros_like(w) for w in teacher.get_weights()])
    return teacher


def test_each_model_of_a_chain_is_taught_by_the_one_before_it():
    models, calls = [teacher_of_zeros(), network(6, "assistant"), network(4)], []
    trained = chain(models, add_one(calls))
    assert calls == [(models[0], models[1]), (models[1], models[2])]
    assert trained.models == models[1:]
    assert trained.student is models[2]
    assert [first(model) for model in trained.models] == [1.0, 2.0]
    assert trained.histories == [{"loss": [1.0]}, {"loss": [2.0]}]


@pytest.mark.promise
def test_a_chain_through_distillers_brings_the_student_to_the_teacher():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(256, 4)).astype("float32")
    teacher = network(16, "teacher")
    teacher.set_weights([2.0 * w for w in teacher.get_weights()])
    student = network(8)

    def disagreement():
        return float(np.mean(teacher(x).numpy().argmax(-1) != student(x).numpy().argmax(-1)))

    def fit(teacher, student):
        distiller = kd.Distiller(
            teacher, student, kd.losses.KLDivergence(2.0), student_loss_weight=0.0
        )
        distiller.compile(keras.optimizers.Adam(0.03))
        return distiller.fit(x, batch_size=64, epochs=15, verbose=0)

    before = disagreement()
    trained = chain([teacher, network(12, "assistant"), student], fit)
    assert disagreement() < min(0.15, 0.5 * before)
    for history in trained.histories:
        assert history["distillation_loss"][-1] < 0.2 * history["distillation_loss"][0]


def test_generations_are_taught_by_the_one_before_and_make_an_ensemble():
    calls = []
    trained = born_again(teacher_of_zeros(), lambda: network(8), 3, add_one(calls))
    assert [first(model) for model in trained.models] == [1.0, 2.0, 3.0]
    assert [teacher for teacher, _ in calls[1:]] == trained.models[:2]
    x = np.ones((2, 4), "float32")
    mean = np.mean([model(x) for model in trained.models], axis=0)
    np.testing.assert_allclose(Ensemble(trained.models, combine="logits")(x), mean, rtol=1e-6)


def stopped_after(count, calls):
    fit = add_one(calls)

    def stopping(teacher, student):
        if len(calls) == count:
            raise KeyboardInterrupt
        return fit(teacher, student)

    return stopping


def test_a_stopped_chain_goes_on_behind_the_last_finished_model(tmp_path):
    models = [teacher_of_zeros(), network(6), network(5), network(4)]
    with pytest.raises(KeyboardInterrupt):
        chain(models, stopped_after(2, []), tmp_path / "run")
    again, calls = [models[0], network(6), network(5), network(4)], []
    trained = chain(again, add_one(calls), tmp_path / "run")
    assert calls == [(again[2], again[3])]
    assert trained.models == again[1:]
    assert [first(model) for model in again] == [0.0, 1.0, 2.0, 3.0]
    assert trained.histories == [{"loss": [1.0]}, {"loss": [2.0]}, {"loss": [3.0]}]
    kept = keras.saving.load_model(tmp_path / "run" / "chain_3.keras")
    assert first(kept) == 3.0


def test_generations_can_be_added(tmp_path):
    teacher, calls = teacher_of_zeros(), []
    born_again(teacher, lambda: network(8), 1, add_one([]), tmp_path)
    trained = born_again(teacher, lambda: network(8), 2, add_one(calls), tmp_path)
    assert calls == [tuple(trained.models)]
    assert first(trained.student) == 2.0


def test_a_student_of_another_architecture_with_the_same_shapes_is_refused(tmp_path):
    def student(activation):
        inputs = keras.Input((4,))
        hidden = keras.layers.Dense(4, activation=activation)(inputs)
        return keras.Model(inputs, keras.layers.Dense(3)(hidden), name="student")

    teacher, calls = teacher_of_zeros(), []
    chain([teacher, student("relu")], add_one(calls), tmp_path)
    chain([teacher, student("relu")], add_one(calls), tmp_path)
    assert len(calls) == 1
    with pytest.raises(ValueError, match="is of another architecture than 'student'"):
        chain([teacher, student("tanh")], add_one(calls), tmp_path)
    # Earlier versions did not record it.
    record = tmp_path / "chain_1.json"
    content = json.loads(record.read_text())
    del content["architecture"]
    record.write_text(json.dumps(content))
    chain([teacher, student("relu")], add_one(calls), tmp_path)
    assert len(calls) == 1


def test_finished_models_of_another_run_are_refused(tmp_path):
    teacher = teacher_of_zeros()
    chain([teacher, network(4)], add_one([]), tmp_path)
    other = teacher_of_zeros()
    other.set_weights([w + 1 for w in other.get_weights()])
    with pytest.raises(ValueError, match=r"taught by another teacher.*Give another `path`"):
        chain([other, network(4)], add_one([]), tmp_path)
    with pytest.raises(ValueError, match="another architecture than 'wide'"):
        chain([teacher, network(9, "wide")], add_one([]), tmp_path)
    file = tmp_path / "chain_1.keras"
    network(4).save(file)
    with pytest.raises(ValueError, match="is not the model that was kept"):
        chain([teacher, network(4)], add_one([]), tmp_path)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"chain_1\.keras' does not fit.*or is damaged"):
        chain([teacher, network(4)], add_one([]), tmp_path)
    (tmp_path / "chain_1.json").write_text("{")
    with pytest.raises(ValueError, match=r"chain_1\.json' is damaged"):
        chain([teacher, network(4)], add_one([]), tmp_path)


def test_a_subclassed_model_that_is_not_built_is_restored(tmp_path):
    @keras.saving.register_keras_serializable(package="test_generations")
    class Student(keras.Model):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.dense = keras.layers.Dense(3)

        def call(self, x):
            return self.dense(x)

    def fit(teacher, student):
        student(np.ones((1, 4), "float32"))
        student.set_weights([w + 7.0 for w in student.get_weights()])

    teacher = teacher_of_zeros()
    weights = chain([teacher, Student()], fit, tmp_path).student.get_weights()
    restored = chain([teacher, Student()], fit, tmp_path)
    assert restored.histories == [None]
    np.testing.assert_array_equal(restored.student.get_weights()[0], weights[0])


def test_records_are_plain_json(tmp_path):
    chain([lambda x: x[:, :3], network(4)], lambda teacher, student: None, tmp_path)
    record = json.loads((tmp_path / "chain_1.json").read_text())
    assert record["teacher"] is None
    assert record["history"] is None
    assert sorted(f.name for f in tmp_path.iterdir()) == ["chain_1.json", "chain_1.keras"]


same = network(4, "same")


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda fit: chain([network(4)], fit),
            ValueError,
            r"at least one model to train.*Received",
        ),
        (lambda fit: chain(network(4), fit), ValueError, "needs a teacher and at least one model"),
        (lambda fit: chain([network(4), same, same], fit), ValueError, "Element 2.*twice"),
        (lambda fit: chain([same, lambda x: x], fit), TypeError, "Element 1.*a function"),
        (lambda fit: chain(["a.keras", same], fit), ValueError, r"keras_kd\.teachers\.load"),
        (lambda fit: chain([network(4), same], lambda t: None), TypeError, "teacher and a student"),
        (lambda fit: chain([network(4), same], 3), TypeError, "Received: 3"),
        (lambda fit: born_again(same, same, 2, fit), TypeError, "function that returns"),
        (lambda fit: born_again(same, lambda: 3, 1, fit), TypeError, "returned must be a keras"),
        (lambda fit: born_again(same, lambda: same, 1, fit), ValueError, "'same' again"),
        (lambda fit: born_again(same, network, 0, fit), ValueError, "generations=0"),
    ],
)
def test_nonsense_is_refused_before_training(call, error, message):
    calls = []
    with pytest.raises(error, match=message):
        call(add_one(calls))
    assert calls == []


def test_metrics_with_one_value_per_class_are_kept(tmp_path):
    def fit(teacher, student):
        return {"f1_score": [np.array([0.25, 0.5], "float32")], "loss": [keras.ops.ones(())]}

    models = [teacher_of_zeros(), network(4)]
    chain(models, fit, tmp_path)
    (history,) = chain(models, fit, tmp_path).histories
    assert history == {"f1_score": [[0.25, 0.5]], "loss": [1.0]}
