import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd as kd
from keras_kd.teachers import Ensemble

SparseCE = keras.losses.SparseCategoricalCrossentropy


def network(units, name, outputs=1, end=None):
    inputs = keras.Input((5,))
    hidden = keras.layers.Dense(units, activation="relu", name="hidden")(inputs)
    ends = [keras.layers.Dense(3, activation=end)(hidden) for _ in range(outputs)]
    return keras.Model(inputs, ends[0] if outputs == 1 else ends, name=name)


def constant(values):
    return lambda x: tf.convert_to_tensor(values)


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def logits(seed, scale=1.0):
    return scale * np.random.default_rng(seed).normal(size=(4, 3))


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("weights", [None, [2.0, 1.0, 0.0]])
def test_softened_probabilities_of_the_outputs_are_the_mean_of_the_members(temperature, weights):
    z = [logits(seed, 3.0) for seed in range(3)]
    ensemble = Ensemble([constant(v) for v in z], weights, temperature=temperature)
    outputs = ensemble(None).numpy()
    assert outputs.dtype == np.float64
    shares = np.array(weights or [1.0, 1.0, 1.0]) / sum(weights or [1.0, 1.0, 1.0])
    expected = sum(w * softmax(v / temperature) for w, v in zip(shares, z, strict=True))
    np.testing.assert_allclose(softmax(outputs / temperature), expected, rtol=1e-12)
    np.testing.assert_allclose(outputs, temperature * np.log(expected), rtol=1e-10)


def test_logits_of_a_thousand_stay_finite_and_right():
    a = np.array([[1000.0, 0.0, -1000.0]], "float32")
    b = np.array([[-1000.0, 1000.0, 0.0]], "float32")
    outputs = Ensemble([constant(a), constant(b)], weights=[3, 1])(None).numpy()
    # log(w exp(0)) where one member is sure; below, log(w) + the larger of the differences.
    expected = [[np.log(0.75), np.log(0.25), np.log(0.25) - 1000.0]]
    np.testing.assert_allclose(outputs, expected, rtol=1e-6)


def test_weighted_mean_of_logits():
    z = [logits(seed) for seed in range(2)]
    outputs = Ensemble([constant(v) for v in z], [1, 3], combine="logits")(None).numpy()
    np.testing.assert_allclose(outputs, 0.25 * z[0] + 0.75 * z[1], rtol=1e-12)


def test_members_that_return_probabilities():
    p = [softmax(logits(seed)) for seed in range(2)]
    ensemble = Ensemble([constant(v) for v in p], from_logits=False)
    np.testing.assert_allclose(ensemble(None), np.log((p[0] + p[1]) / 2), rtol=1e-12)
    ensemble.check(None)
    with pytest.raises(ValueError, match=r"'teacher_0'.*does not return prob.*from_logits=True"):
        Ensemble([constant(logits(0))], from_logits=False).check(None)


def test_several_outputs_are_combined_one_by_one():
    a, b = logits(0), logits(1)
    members = [lambda x: {"a": a, "b": [b, a]}, lambda x: {"a": b, "b": [b, b]}]
    outputs = Ensemble(members, combine="logits")(None)
    np.testing.assert_allclose(outputs["a"], (a + b) / 2)
    np.testing.assert_allclose(outputs["b"][0], b)
    np.testing.assert_allclose(outputs["b"][1], (a + b) / 2)


def test_an_ensemble_of_ensembles():
    z = [logits(seed) for seed in range(3)]
    inner = Ensemble([constant(z[0]), constant(z[1])])
    nested = Ensemble([inner, constant(z[2])], weights=[2, 1])(None)
    np.testing.assert_allclose(nested, Ensemble([constant(v) for v in z])(None), rtol=1e-10)


def test_distillation_with_hints_at_members():
    teachers = [network(6, "teacher"), network(8, "teacher")]
    x = np.random.default_rng(0).normal(size=(16, 5)).astype("float32")
    y = np.zeros(16)
    ensemble = Ensemble([*teachers, lambda x: teachers[0](x)], temperature=2.0)
    distiller = kd.Distiller(
        ensemble,
        network(4, "student"),
        [
            kd.losses.KLDivergence(2.0),
            kd.Hint("teacher_1/hidden", "hidden"),
            kd.Hint("teacher_2", "hidden", name="outputs"),
        ],
    )
    distiller.compile(
        "sgd", SparseCE(from_logits=True), evaluate_distillation=True, run_eagerly=False
    )
    assert distiller.teacher is ensemble
    distiller.fit(x, y, verbose=0)
    projections = [layer.kernel.shape for layer in distiller.teaching_layers]
    assert projections == [(4, 8), (4, 3)]
    results = distiller.evaluate(x, y, verbose=0, return_dict=True)
    z = [teacher(x).numpy().astype("float64") for teacher in teachers]
    p = sum(w * softmax(v / 2.0) for w, v in zip([2 / 3, 1 / 3], z, strict=True))
    s = distiller.student(x).numpy().astype("float64")
    divergence = 4.0 * np.mean(np.sum(p * (np.log(p) - np.log(softmax(s / 2.0))), -1))
    assert results["kl_divergence"] == pytest.approx(divergence, rel=1e-4)


def test_hints_that_name_no_member_list_those_there_are():
    ensemble = Ensemble([network(6, "big"), lambda x: x[:, :3]])
    hint = kd.Hint("big/hidden", "hidden", name="h")
    message = r"no layer 'big/hidden'.*teacher_0, .*teacher_0/hidden.*teacher_1"
    with pytest.raises(ValueError, match=message):
        kd.Distiller(ensemble, network(4, "student"), hint)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"teachers": []}, "one teacher or more"),
        ({"teachers": "abc"}, "a list of one teacher"),
        ({"teachers": [3]}, "another callable.*int: 3"),
        ({"weights": [1.0]}, "2 teachers takes 2 weights"),
        ({"weights": [1.0, -1.0]}, "not negative"),
        ({"weights": [0, 0]}, "not all zero"),
        ({"combine": "mean"}, '"probabilities", "logits"'),
        ({"temperature": 0}, "`temperature` must be a number above 0"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    given = {"teachers": [constant(logits(0)), constant(logits(1))], **arguments}
    with pytest.raises(ValueError, match=message):
        Ensemble(**given)


def test_a_softmax_at_the_end_of_a_member_is_refused():
    members = [network(6, "a"), network(6, "b", end="softmax")]
    with pytest.raises(ValueError, match=r"'teacher_1' \(b\).*ends in softmax.*from_logits=False"):
        Ensemble(members)
    ensemble = Ensemble([members[0], lambda x: members[1](x)])
    distiller = kd.Distiller(ensemble, network(4, "student"), kd.losses.KLDivergence())
    distiller.compile("sgd", SparseCE(from_logits=True))
    with pytest.raises(ValueError, match=r"'teacher_1'.*ends in softmax"):
        distiller.fit(np.ones((4, 5), "float32"), np.zeros(4), verbose=0)


def test_unequal_members_are_refused_before_training():
    four = lambda x: tf.concat([x[:, :3], x[:, :1]], -1)  # noqa: E731
    ensemble = Ensemble([network(6, "a"), four])
    distiller = kd.Distiller(ensemble, network(4, "student"), kd.losses.KLDivergence())
    distiller.compile("sgd", SparseCE(from_logits=True))
    before = distiller.student.get_weights()
    with pytest.raises(ValueError, match=r"'teacher_0' \(a\) returns \(3,\) and 'teacher_1'.*\(4,"):
        distiller.fit(np.ones((4, 5), "float32"), np.zeros(4), verbose=0)
    np.testing.assert_array_equal(before[0], distiller.student.get_weights()[0])
    inputs = keras.Input((7,))
    other = keras.Model(inputs, keras.layers.Dense(3)(inputs))
    with pytest.raises(ValueError, match=r"inputs of shape \(7,\)"):
        kd.Distiller(Ensemble([other]), network(4, "student"), kd.losses.KLDivergence())


def test_one_number_an_example_has_no_softmax():
    x = np.ones((4, 5), "float32")
    for values in (np.ones((4, 1)), np.ones(4)):
        ensemble = Ensemble([constant(values)])
        for use in (ensemble, ensemble.check, lambda x: ensemble.evaluate(x, x[:, :1], verbose=0)):  # noqa: B023
            with pytest.raises(ValueError, match=r'one number per example.*combine="logits"'):
                use(x)
    with pytest.raises(ValueError, match=r"one number per example"):
        Ensemble([constant(np.full((4, 1), 0.5))], combine="logits", from_logits=False)(x)


def test_evaluate_refuses_members_whose_values_are_probabilities():
    member = network(6, "a", end="softmax")
    ensemble = Ensemble([lambda x: member(x)])
    x, y = np.ones((4, 5), "float32"), np.zeros(4)
    generator = ((x, y) for _ in range(1))
    for data in ((x, y), (tf.data.Dataset.from_tensors((x, y)),), (generator,)):
        with pytest.raises(ValueError, match=r"'teacher_0'.*ends in softmax"):
            ensemble.evaluate(*data, verbose=0)


def test_labels_of_several_classes_need_metrics_of_their_own():
    ensemble = Ensemble([network(4, "a"), network(6, "b")], combine="logits")
    x, several = np.ones((4, 5), "float32"), np.array([[1.0, 1.0, 0.0]] * 4)
    with pytest.raises(ValueError, match="several classes per example"):
        ensemble.evaluate(x, several, verbose=0)
    metrics = [keras.metrics.BinaryAccuracy("share", threshold=0.0)]
    assert list(ensemble.evaluate(x, several, metrics=metrics, verbose=0)) == ["share"]


@pytest.mark.parametrize("wrapped", [False, True])
def test_softmaxes_are_not_combined_for_labels_of_their_own(wrapped):
    def distilled(combine):
        ensemble = Ensemble([network(4, "a"), network(6, "b")], combine=combine)
        teacher = Ensemble([ensemble], combine="logits") if wrapped else ensemble
        return kd.Distiller(teacher, network(4, "student"), kd.losses.BinaryKLDivergence(2.0))

    distilled("logits")
    with pytest.raises(ValueError, match=r"mean of softmaxes. Use Ensemble\(..., combine="):
        distilled("probabilities")


def test_evaluate_gives_accuracy_and_loss_of_the_combined_logits():
    teachers = [network(4, "a"), network(6, "b")]
    ensemble = Ensemble(teachers)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(50, 5)).astype("float32"), rng.integers(0, 3, 50)
    p = sum(softmax(teacher(x).numpy().astype("float64")) for teacher in teachers) / 2
    right = (p.argmax(-1) == y).mean()
    assert ensemble.evaluate(x, y, verbose=0) == {"accuracy": pytest.approx(right)}
    one_hot = tf.data.Dataset.from_tensor_slices((x, np.eye(3, dtype="float32")[y])).batch(16)
    assert ensemble.evaluate(one_hot, verbose=0)["accuracy"] == pytest.approx(right)
    results = ensemble.evaluate(x, y, loss=SparseCE(from_logits=True), metrics=[], verbose=0)
    assert results == {"loss": pytest.approx(-np.log(p[np.arange(50), y]).mean(), rel=1e-5)}


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_evaluate_does_not_round_the_inputs_of_the_members(policy, dtype_policy):
    rng = np.random.default_rng(0)
    x = rng.normal(3e5, 1e3, (64, 4)).astype("float32")
    keras.utils.set_random_seed(0)
    scaling = keras.layers.Rescaling(1e-3, offset=-300.0)
    member = keras.Sequential([keras.Input((4,)), scaling, keras.layers.Dense(3)])
    y = member.predict(x, verbose=0).argmax(-1)
    with dtype_policy(policy):
        assert Ensemble([member]).evaluate(x, y, verbose=0)["accuracy"] == 1.0


def test_evaluate_of_one_unit_answers_above_zero():
    z = np.array([[-1.0], [0.3], [0.7], [2.0]], "float32")
    ensemble = Ensemble([lambda x: x, lambda x: x], combine="logits")
    results = ensemble.evaluate(z, np.array([0, 1, 1, 0]), verbose=0)
    assert results["accuracy"] == pytest.approx(0.75)


@pytest.mark.parametrize("combine", ["probabilities", "logits"])
def test_padding_of_the_members_is_left_out(combine, tagger, tokens):
    members, student = [tagger(1), tagger(2)], tagger(3, masked=False)
    ensemble = Ensemble(members, combine=combine)
    distiller = kd.Distiller(ensemble, student, kd.losses.LogitsMSE(), student_loss_weight=0.0)
    distiller.compile("sgd")
    outputs = [np.asarray(model(tokens), "float64") for model in members]
    of_probabilities = np.log(sum(map(softmax, outputs)) / 2)
    expected = sum(outputs) / 2 if combine == "logits" else of_probabilities
    squares = np.mean((expected - np.asarray(student(tokens))) ** 2, axis=-1)
    value = distiller.evaluate(tokens, verbose=0, return_dict=True)["loss"]
    np.testing.assert_allclose(value, squares[tokens > 0].mean(), rtol=1e-5)
