import json
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd as kd
from keras_kd.caching.checks import teacher_fingerprint
from keras_kd.losses.top_k_logits import TopKLogits
from keras_kd.teachers import TaughtInputs

SparseCE = keras.losses.SparseCategoricalCrossentropy


def network(units, name, classes=3):
    inputs = keras.Input((5,))
    hidden = keras.layers.Dense(units, activation="relu", name="hidden")(inputs)
    return keras.Model(inputs, keras.layers.Dense(classes)(hidden), name=name)


def arrays(n=44):
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, 5)).astype("float32"), rng.integers(0, 3, n)


def batches(n=44, size=8):
    return tf.data.Dataset.from_tensor_slices(arrays(n)).batch(size)


def teacher(classes=3):
    keras.utils.set_random_seed(5)
    return network(7, "teacher", classes)


def cache(*args, **kwargs):
    return kd.teachers.cache(*args, verbose=False, **kwargs)


def forbid_calls(model):
    """Let the teacher run on the few samples of the comparison at opening, and no more."""
    original, seen = model.call, []

    def call(inputs, *args, **kwargs):
        def count(size):
            assert size <= 8 and not seen, "the teacher was run"
            seen.append(size)

        tf.py_function(count, [tf.shape(inputs)[0]], [])
        return original(inputs, *args, **kwargs)

    object.__setattr__(model, "call", call)


def distiller_of(model, losses):
    keras.utils.set_random_seed(1)
    distiller = kd.Distiller(model, network(4, "student", model.output_shape[-1]), losses)
    distiller.compile(
        keras.optimizers.SGD(0.1), SparseCE(from_logits=True), evaluate_distillation=True
    )
    return distiller


def trained(model, data, losses, epochs=2):
    distiller = distiller_of(model, losses)
    logs = distiller.fit(data, validation_data=data, epochs=epochs, verbose=0).history
    return distiller.student.get_weights(), logs


def kl_and_hint():
    return [kd.losses.KLDivergence(2.0), kd.Hint("hidden", "hidden")]


def test_it_teaches_as_the_teacher_does_without_running_it(tmp_path):
    model = teacher()
    expected, logs = trained(model, batches(), kl_and_hint())
    taught = cache(model, batches(), tmp_path / "c", layers=["hidden"])
    assert int(taught.cardinality()) == 6
    forbid_calls(model)
    result, cached_logs = trained(model, taught, kl_and_hint())
    for a, b in zip(expected, result, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    for name, values in logs.items():
        np.testing.assert_allclose(cached_logs[name], values, rtol=1e-5)
    # Opened again, the teacher is not run either.
    again = cache(model, batches(), tmp_path / "c", layers=["hidden"])
    for (x, y), (taught_x, taught_y) in zip(batches(), again, strict=True):
        np.testing.assert_array_equal(taught_x.inputs, x)
        np.testing.assert_array_equal(taught_y, y)


def test_what_is_stored_is_what_the_teacher_says_batch_by_batch(tmp_path):
    model = teacher()
    x, y = arrays(44)
    weights = np.arange(44, dtype="float32")
    hidden = keras.Model(model.input, model.get_layer("hidden").output)
    data = tf.data.Dataset.from_tensor_slices((x, y, weights)).batch(8)
    taught = cache(model, data, tmp_path, layers=[kd.Hint("hidden", "hidden")], batch_size=20)
    seen = 0
    for given, labels, weight in taught:
        assert isinstance(given, TaughtInputs)
        n = len(labels)
        np.testing.assert_allclose(given.outputs, model(x[seen : seen + n]), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(
            given.features["hidden"], hidden(x[seen : seen + n]), rtol=1e-5, atol=1e-6
        )
        np.testing.assert_array_equal(weight, weights[seen : seen + n])
        seen += n
    assert seen == 44 and n == 4


def test_the_teacher_sees_large_batches(tmp_path):
    model = teacher()
    sizes = []
    call = model.call

    def counting(inputs, *args, **kwargs):
        tf.py_function(lambda n: sizes.append(int(n)), [tf.shape(inputs)[0]], [])
        return call(inputs, *args, **kwargs)

    object.__setattr__(model, "call", counting)
    cache(model, batches(44, size=8), tmp_path, batch_size=20)
    assert sizes == [16, 16, 12]


def test_float16_is_read_as_float32_and_refuses_what_it_cannot_hold(tmp_path):
    model = teacher()
    whole = next(iter(cache(model, batches(), tmp_path / "32")))[0].outputs
    half = next(iter(cache(model, batches(), tmp_path / "16", dtype="float16")))[0].outputs
    assert half.dtype == tf.float32
    np.testing.assert_array_equal(half, whole.numpy().astype("float16").astype("float32"))
    assert (half.numpy() != whole.numpy()).any()
    model.layers[-1].bias.assign([0.0, 1e5, 0.0])
    with pytest.raises(ValueError, match=r"float16 ends at 65504.*dtype=\"float32\""):
        cache(model, batches(), tmp_path / "large", dtype="float16")


@pytest.mark.parametrize("top_k", [None, 2])
def test_a_cache_of_float16_serves_again(tmp_path, top_k):
    arguments = {"dtype": "float16", "top_k": top_k, "temperature": top_k and 1.0}
    model = teacher()
    first = [*cache(model, batches(), tmp_path, **arguments)]
    again = [*cache(model, batches(), tmp_path, **arguments)]
    for a, b in zip(*map(tf.nest.flatten, (first, again)), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.promise
def test_top_k_keeps_the_mass_of_the_others(tmp_path):
    model = teacher(classes=6)
    taught = cache(model, batches(), tmp_path, top_k=2, temperature=2.0)
    x, _ = arrays()
    logits = model(x).numpy().astype("float64")
    order = np.argsort(-logits, axis=-1)
    outputs = next(iter(taught))[0].outputs
    assert isinstance(outputs, TopKLogits)
    np.testing.assert_array_equal(outputs.indices, order[:8, :2])
    np.testing.assert_allclose(
        outputs.values, np.take_along_axis(logits, order, -1)[:8, :2], rtol=1e-5
    )
    others = np.take_along_axis(logits, order, -1)[:8, 2:]
    np.testing.assert_allclose(outputs.rest, np.log(np.exp(others / 2.0).sum(-1)), rtol=1e-5)
    # All classes but one can be told from k values and the mass: KL is that of whole logits.
    five = cache(model, batches(), tmp_path / "5", top_k=5, temperature=2.0)
    losses = [kd.losses.KLDivergence(2.0)]
    expected, _ = trained(model, batches(), losses)
    result, _ = trained(model, five, losses)
    for a, b in zip(expected, result, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="needs the temperature"):
        cache(model, batches(), tmp_path / "none", top_k=2)


def test_top_k_of_another_temperature_is_refused_wherever_it_counts(tmp_path):
    model = teacher(classes=6)
    fits = cache(model, batches(), tmp_path / "fits", top_k=2, temperature=2.0)
    other = cache(model, batches(), tmp_path / "other", top_k=2, temperature=1.0)
    distiller = distiller_of(model, [kd.losses.KLDivergence(2.0)])
    said = "temperature 2.0, but the teacher's top-k logits were made for 1.0"
    for call in (
        lambda: distiller.fit(other, verbose=0),
        lambda: distiller.fit(fits, validation_data=other, verbose=0),
        lambda: distiller.evaluate(other, verbose=0),
    ):
        with pytest.raises(ValueError, match=said):
            call()
    assert distiller.evaluate(fits, verbose=0)[0] > 0


@pytest.mark.parametrize("weights", [None, "balanced"])
def test_a_look_at_the_data_does_not_count_as_a_view(tmp_path, weights):
    """Shuffling reads a whole small view to give its first batch."""
    x = arrays(16)[0]

    def views(seed):
        return tf.data.Dataset.from_tensor_slices((x + 100.0 * seed, arrays(16)[1])).batch(8)

    numbers = tf.Variable(-1, dtype=tf.int64)
    data = tf.data.Dataset.range(1).flat_map(
        lambda _: views(tf.cast(numbers.assign_add(1), tf.float32))
    )
    model = teacher()
    taught = cache(model, data, tmp_path, views=3)
    seen = []

    class Note(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            seen.append([])

    losses = [kd.losses.KLDivergence(2.0), kd.losses.LogitsMSE()]
    keras.utils.set_random_seed(1)
    distiller = kd.Distiller(model, network(4, "student"), losses, weights)
    distiller.compile(keras.optimizers.SGD(0.0), SparseCE(from_logits=True), run_eagerly=True)
    step = distiller.train_step

    def noted(batch):
        seen[-1].append(round(float(np.mean(batch[0].inputs)) / 100.0))
        return step(batch)

    object.__setattr__(distiller, "train_step", noted)
    shuffled = taught.unbatch().shuffle(100).batch(8)
    distiller.fit(shuffled, epochs=4, callbacks=[Note()], verbose=0)
    first = seen[0][0]
    assert [set(epoch) for epoch in seen] == [{(first + i) % 3} for i in range(4)]
    assert first == 0


@pytest.mark.promise
def test_shuffled_and_rebatched_behind_the_cache(tmp_path):
    model = teacher(classes=6)
    data = tf.data.Dataset.from_tensor_slices(arrays()).batch(8)
    options = {"top_k": 2, "temperature": 1.0, "layers": ["hidden"]}
    taught = cache(model, data, tmp_path, **options).unbatch().shuffle(44).batch(11)
    firsts = []
    for _ in range(2):
        seen = 0
        for given, _ in taught:
            logits = model(given.inputs).numpy()
            np.testing.assert_array_equal(given.outputs.indices[:, 0], logits.argmax(-1))
            np.testing.assert_allclose(given.outputs.values[:, 0], logits.max(-1), rtol=1e-5)
            assert given.features["hidden"].shape == (11, 7)
            seen += len(logits)
        firsts.append(given.inputs.numpy())
        assert seen == 44
    assert (firsts[0] != firsts[1]).any()
    trained(model, taught, [kd.losses.KLDivergence(1.0), kd.Hint("hidden", "hidden")])


def test_nested_inputs_and_several_outputs(tmp_path):
    a, b = keras.Input((3,), name="a"), keras.Input((2,), name="b")
    both = keras.layers.Concatenate()([a, b])
    outputs = {
        "class": keras.layers.Dense(4, name="class")(both),
        "value": keras.layers.Dense(1, name="value")(both),
    }
    model = keras.Model({"a": a, "b": b}, outputs)
    rng = np.random.default_rng(0)
    x = {"a": rng.normal(size=(20, 3)), "b": rng.normal(size=(20, 2))}
    x = {key: values.astype("float32") for key, values in x.items()}
    y = {"class": rng.integers(0, 4, 20), "value": rng.normal(size=(20, 1))}
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(8)
    for given, labels in cache(model, data, tmp_path).take(1):
        assert set(given.outputs) == {"class", "value"} and set(labels) == {"class", "value"}
        expected = model({key: values[:8] for key, values in x.items()})
        for key, tensor in given.outputs.items():
            np.testing.assert_allclose(tensor, expected[key], rtol=1e-5, atol=1e-6)
    # An output with fewer classes than k is kept whole.
    few = cache(model, data, tmp_path / "k", top_k=3, temperature=1.0)
    given = next(iter(few))[0]
    assert given.outputs["class"].values.shape == (8, 3)
    assert given.outputs["value"].values.shape == (8, 1)


def test_a_list_of_outputs_and_inputs_alone(tmp_path):
    inputs = keras.Input((5,))
    model = keras.Model(inputs, [keras.layers.Dense(2)(inputs), keras.layers.Dense(3)(inputs)])
    x, _ = arrays(12)
    element = next(iter(cache(model, tf.data.Dataset.from_tensor_slices(x).batch(4), tmp_path)))
    assert len(element) == 1
    given, y, sample_weight = keras.utils.unpack_x_y_sample_weight(element)
    assert y is None and sample_weight is None
    assert [tuple(output.shape) for output in given.outputs] == [(4, 2), (4, 3)]


def test_arrays_and_data_of_unknown_length(tmp_path):
    model, (x, y) = teacher(), arrays(40)
    assert [len(labels) for _, labels in cache(model, (x, y), tmp_path / "arrays")] == [32, 8]
    data = batches(40).filter(lambda x, y: tf.constant(True))
    assert int(data.cardinality()) == tf.data.UNKNOWN_CARDINALITY
    assert int(cache(model, data, tmp_path / "unknown").cardinality()) == 5


def test_sequences_of_a_length_of_their_own_in_each_batch(tmp_path):
    inputs = keras.Input((None,), dtype="int32")
    hidden = keras.layers.Embedding(11, 4, name="hidden")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(6)(hidden))
    lengths = [3, 3, 5, 2]

    def generate():
        for i, length in enumerate(lengths):
            yield np.full((2, length), i, "int32"), np.zeros((2, length), "int32")

    spec = tf.TensorSpec((None, None), tf.int32)
    data = tf.data.Dataset.from_generator(generate, output_signature=(spec, spec))
    for options in ({}, {"top_k": 2, "temperature": 1.0}):
        taught = cache(model, data, tmp_path / str(len(options)), layers=["hidden"], **options)
        shapes = []
        for (given, _), (x, _) in zip(taught, data, strict=True):
            outputs = given.outputs.values if options else given.outputs
            logits = model(x).numpy()
            expected = np.sort(logits, -1)[..., :-3:-1] if options else logits
            np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-6)
            shapes.append(given.features["hidden"].shape[1])
        assert shapes == lengths


def test_a_distiller_brings_its_teacher_and_its_layers(tmp_path):
    model = teacher(classes=6)
    losses = kl_and_hint()
    distiller = kd.Distiller(
        model, network(4, "student"), losses, teacher_outputs=lambda logits: logits[:, :3]
    )
    given = next(iter(cache(distiller, batches(), tmp_path)))[0]
    assert given.outputs.shape == (8, 3) and set(given.features) == {"hidden"}
    cache(distiller, batches(), tmp_path)
    # The function behind the teacher cannot be hashed: another one is told by what it gives.
    other = kd.Distiller(
        model, network(4, "student"), losses, teacher_outputs=lambda logits: logits[:, 3:]
    )
    with pytest.raises(ValueError, match=r"made by another teacher.*'outputs' of the first batch"):
        cache(other, batches(), tmp_path)


@pytest.mark.parametrize("views", [None, 2])
def test_outputs_cached_from_a_distiller_are_adapted_once(tmp_path, views):
    def distiller():
        student = network(4, "student")
        result = kd.Distiller(
            teacher(), student, kd.losses.KLDivergence(2.0), teacher_outputs=lambda y: y[:, ::-1]
        )
        result.compile("sgd", SparseCE(from_logits=True), evaluate_distillation=True)
        return result

    keras.utils.set_random_seed(3)
    live = distiller()
    expected = live.evaluate(batches(), verbose=0, return_dict=True)
    ways = {"of distiller": live, "of teacher": teacher()}
    for name, source in ways.items():
        taught = cache(source, batches(), tmp_path / name, views=views)
        again = taught.unbatch().map(lambda x, y: (x._replace(inputs=x.inputs + 0.0), y)).batch(8)
        for data in (taught, again):
            found = live.evaluate(data, verbose=0, return_dict=True)
            assert found["distillation_loss"] == pytest.approx(
                expected["distillation_loss"], rel=1e-5
            )


def masked_network(mask, outputs=1, units=3):
    inputs = keras.Input((6,), dtype="int32")
    hidden = keras.layers.Embedding(9, 4, mask_zero=mask, name="hidden")(inputs)
    heads = [keras.layers.Dense(units)(hidden) for _ in range(outputs)]
    return keras.Model(inputs, heads[0] if outputs == 1 else heads)


def sequences(teach=None, size=8):
    rng = np.random.default_rng(0)
    x = rng.integers(1, 9, (24, 6)) * (np.arange(6) < rng.integers(1, 7, (24, 1)))
    return tf.data.Dataset.from_tensor_slices((x.astype("int32"), x % 3)).batch(size)


MASKED = {
    "one output": (1, kd.losses.KLDivergence(2.0), {}),
    "two outputs": (2, [None, kd.losses.LogitsMSE()], {}),
    "hint": (1, kd.Hint("hidden", "hidden", loss=kd.losses.FitNet()), {}),
    "relation": (1, kd.Hint("hidden", "hidden", loss=kd.losses.SimilarityPreserving()), {}),
    "float16": (1, kd.losses.KLDivergence(2.0), {"dtype": "float16"}),
    "top-k": (1, kd.losses.KLDivergence(2.0), {"top_k": 3, "temperature": 2.0}),
    "views": (1, kd.losses.KLDivergence(2.0), {"views": 2}),
}


@pytest.mark.fast_cases("one output", "views")
@pytest.mark.parametrize("kind", MASKED)
def test_the_masks_of_the_teacher_are_kept(tmp_path, kind):
    outputs, loss, options = MASKED[kind]
    keras.utils.set_random_seed(0)
    model, student = masked_network(True, outputs), masked_network(False, outputs)
    distiller = kd.Distiller(model, student, [loss], None, 0.0)
    distiller.compile("sgd", evaluate_distillation=True)
    expected = distiller.evaluate(sequences(), verbose=0, return_dict=True)["loss"]
    unmasked = masked_network(False, outputs)
    unmasked.set_weights(model.get_weights())
    distiller.teacher = unmasked
    other = distiller.evaluate(sequences(), verbose=0, return_dict=True)["loss"]
    assert abs(other - expected) > 0.01 * expected  # padding would count
    distiller.teacher = model
    for _ in range(2):  # built, then opened
        taught = cache(distiller, sequences(), tmp_path, **options)
        for data in (taught, taught.unbatch().batch(8)):
            found = distiller.evaluate(data, verbose=0, return_dict=True)["loss"]
            assert found == pytest.approx(expected, rel=1e-2 if "dtype" in options else 1e-5)


def test_a_cache_without_the_masks_is_refused(tmp_path):
    model = masked_network(True)
    plain = masked_network(False)
    plain.set_weights(model.get_weights())
    cache(plain, sequences(), tmp_path)
    manifest = tmp_path / "manifest.json"
    content = json.loads(manifest.read_text())
    content["fingerprint"]["teacher"]["config"] = teacher_fingerprint(model)["config"]
    manifest.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="does not hold the Keras masks"):
        cache(model, sequences(), tmp_path)


def test_a_function_may_be_the_teacher(tmp_path):
    def double(x):
        return tf.constant(2.0 * x.numpy()[:, :3])  # not traceable

    given = next(iter(cache(double, batches(), tmp_path)))[0]
    np.testing.assert_array_equal(given.outputs, 2.0 * given.inputs[:, :3])
    cache(double, batches(), tmp_path)
    with pytest.raises(ValueError, match=r"made by another teacher"):
        cache(lambda x: 3.0 * x[:, :3], batches(), tmp_path)


def test_an_ensemble_may_be_the_teacher(tmp_path):
    members = [teacher(), network(3, "other")]
    ensemble = kd.teachers.Ensemble(members, combine="logits")
    taught = cache(ensemble, batches(), tmp_path, layers=["teacher_1/hidden"])
    given = next(iter(taught))[0]
    expected = (members[0](given.inputs) + members[1](given.inputs)) / 2.0
    np.testing.assert_allclose(given.outputs, expected, rtol=1e-5, atol=1e-6)
    assert given.features["teacher_1/hidden"].shape == (8, 3)
    weighted = kd.teachers.Ensemble(members, weights=[0.9, 0.1], combine="logits")
    with pytest.raises(ValueError, match=r"made by another teacher.*'outputs' of the first batch"):
        cache(weighted, batches(), tmp_path, layers=["teacher_1/hidden"])
    members[1].layers[-1].bias.assign([0.0, 0.0, 1.0])
    with pytest.raises(ValueError, match="the weights differ"):
        cache(ensemble, batches(), tmp_path, layers=["teacher_1/hidden"])


def test_an_ensemble_that_cannot_teach_is_not_cached(tmp_path):
    member = keras.Sequential([teacher(), keras.layers.Softmax()])
    ensemble = kd.teachers.Ensemble([lambda x: member(x)])
    refused = kd.Distiller(ensemble, network(4, "s"), kl_and_hint()[:1], teacher_inputs=tf.abs)
    for of, match in (
        (ensemble, "ends in softmax"),
        (refused, "ends in softmax"),
        (kd.teachers.Ensemble([teacher(1)]), "one number per example"),
    ):
        with pytest.raises(ValueError, match=match):
            cache(of, batches(), tmp_path / match)


@pytest.mark.promise
def test_views_store_the_augmented_inputs_of_several_epochs(tmp_path):
    model, epochs = teacher(), []

    def augmented(x, y):
        return x + tf.random.normal(tf.shape(x)), y

    data = tf.data.Dataset.from_tensor_slices(arrays()).shuffle(44).batch(8).map(augmented)
    taught = cache(model, data, tmp_path, layers=["hidden"], views=3)
    assert int(taught.cardinality()) == 6
    for _ in range(4):
        next(iter(taught))  # a look at the first batch is no epoch
        inputs = []
        for given, labels in taught:
            np.testing.assert_allclose(given.outputs, model(given.inputs), rtol=1e-5, atol=1e-5)
            inputs.append(np.c_[given.inputs, labels])
        epochs.append(np.concatenate(inputs))
    assert (epochs[0] != epochs[1]).any() and (epochs[1] != epochs[2]).any()
    np.testing.assert_array_equal(epochs[3], epochs[0])
    for epoch in epochs:  # every epoch holds every example
        np.testing.assert_array_equal(np.sort(epoch[:, 5]), np.sort(arrays()[1]))
    forbid_calls(model)
    trained(model, cache(model, data, tmp_path, layers=["hidden"], views=3), kl_and_hint())


@pytest.mark.promise
def test_fit_reads_another_view_in_every_epoch(tmp_path):
    model = teacher()
    counter = tf.Variable(0.0)

    def numbered(x, y):
        return x * 0.0 + counter.assign_add(1.0), y

    taught = cache(model, batches(16).map(numbered), tmp_path, views=3)
    seen = []

    def look(given, y):
        tf.py_function(lambda v: seen.append(float(v)), [given.inputs[0, 0]], [])
        return given, y

    distiller = distiller_of(model, [kd.losses.KLDivergence(2.0)])
    distiller.fit(taught.map(look), epochs=4, verbose=0, shuffle=False)
    assert seen[-8:] == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 1.0, 2.0]


def test_a_look_at_a_part_of_a_pass_is_no_pass(tmp_path):
    generator = tf.random.Generator.from_seed(0)
    keras.utils.set_random_seed(0)
    data = batches(160).map(lambda x, y: (x + generator.normal(tf.shape(x)), y))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        taught = cache(teacher(), data, tmp_path, views=3)
    whole = [[given.inputs.numpy() for given, _ in taught] for _ in range(3)]
    for _ in range(2):
        np.testing.assert_array_equal(next(iter(taught))[0].inputs, whole[0][0])
        for given, expected in zip(taught.take(2), whole[0], strict=False):
            np.testing.assert_array_equal(given[0].inputs, expected)


def test_data_that_can_be_read_once_gives_no_second_view(tmp_path):
    once = iter(zip(*arrays(24), strict=True))
    spec = batches().unbatch().element_spec
    data = tf.data.Dataset.from_generator(lambda: once, output_signature=spec).batch(8)
    with pytest.raises(ValueError, match="no examples when it is read for view 1"):
        cache(teacher(), data, tmp_path, views=2)


def test_equal_views_are_told(tmp_path):
    keras.utils.set_random_seed(0)
    data = batches(24).map(lambda x, y: (x + tf.random.normal(tf.shape(x)), y))
    for _ in range(2):
        with pytest.warns(UserWarning, match="holds 3 views, of which only 1 differ.*Generator"):
            cache(teacher(), data, tmp_path, views=3)


def test_augmentation_seeded_by_example(tmp_path):
    model = teacher()

    def augmented(index, example):
        x, y = example
        seed = tf.stack([index, tf.zeros_like(index)])
        return x + tf.random.stateless_normal(x.shape, seed), y

    examples = tf.data.Dataset.from_tensor_slices(arrays()).enumerate()
    data = examples.map(augmented, num_parallel_calls=2).batch(8)
    for given, _ in cache(model, data, tmp_path):
        np.testing.assert_allclose(given.outputs, model(given.inputs), rtol=1e-5, atol=1e-5)


def test_every_worker_reads_its_shard(tmp_path):
    model = teacher()
    taught = cache(model, batches(), tmp_path)
    policy = taught.options().experimental_distribute.auto_shard_policy
    assert policy == tf.data.experimental.AutoShardPolicy.DATA
    parts = [[x.inputs.numpy() for x, _ in taught.shard(2, i)] for i in range(2)]
    assert [len(part) for part in parts] == [3, 3]
    whole = [x.numpy() for x, _ in batches()]
    np.testing.assert_array_equal(parts[1][2], whole[5])


@pytest.mark.promise
def test_compress_goes_on_with_it(tmp_path):
    model = teacher()
    taught = cache(model, batches(), tmp_path)
    distiller = distiller_of(model, [kd.losses.KLDivergence(2.0)])
    forbid_calls(model)
    compressed = kd.compress(
        distiller, taught, validation_data=taught, stages=[kd.Prune(0.5, epochs=1)], verbose=0
    )
    assert compressed.layers[1].sparsity == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dtype": "int8"}, "`dtype` must be"),
        ({"top_k": 0, "temperature": 1.0}, "`top_k` must be a whole number"),
        ({"views": 0}, "`views` must be a whole number"),
        ({"temperature": 2.0}, "with `top_k` alone"),
        ({"layers": ["absent"]}, "no layer 'absent'"),
        ({"top_k": 9, "temperature": 1.0}, "`k` must be"),
    ],
)
def test_arguments_are_refused(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        cache(teacher(), batches(), tmp_path / "c", **arguments)


def test_data_that_cannot_be_cached_is_refused(tmp_path):
    model = teacher()
    with pytest.raises(ValueError, match="is infinite"):
        cache(model, batches().repeat(), tmp_path / "c")
    with pytest.raises(ValueError, match="holds no examples"):
        cache(model, batches().take(0), tmp_path / "c")
    with pytest.raises(TypeError, match="Received: ndarray"):
        cache(model, arrays()[0], tmp_path / "c")
    taught = cache(model, batches(), tmp_path / "d")
    with pytest.raises(ValueError, match="brings a teacher's outputs along already"):
        cache(model, taught, tmp_path / "e")
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="is a file"):
        cache(model, batches(), tmp_path / "file")


def ends_in(activation):
    model = teacher()
    inputs = keras.Input((5,))
    ended = keras.Model(inputs, keras.layers.Activation(activation)(3 * model(inputs)))
    return ended, keras.Model(inputs, 3 * model(inputs))


def test_top_k_of_a_softmax_keeps_logarithms(tmp_path):
    ended, logits = ends_in("softmax")
    given = {"top_k": 2, "temperature": 4.0}
    student, losses = network(4, "student")(next(iter(batches()))[0]), {}
    for name, source in (("softmax", ended), ("logits", logits)):
        kept = next(iter(cache(source, batches(), tmp_path / name, **given)))[0].outputs
        losses[name] = float(kd.losses.KLDivergence(4.0)(kept, student))
    assert losses["softmax"] == pytest.approx(losses["logits"], rel=1e-4)
    with pytest.raises(ValueError, match="`top_k` keeps the largest logits"):
        cache(ends_in("sigmoid")[0], batches(), tmp_path / "sigmoid", **given)
    with pytest.raises(ValueError, match=r"`top_k` keeps logits.*sum to one"):
        cache(lambda x, training=False: ended(x), batches(), tmp_path / "function", **given)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_probabilities_are_not_rounded_to_float16(tmp_path, activation):
    ended, _ = ends_in(activation)
    taught = cache(ended, batches(), tmp_path / "model", dtype="float16")
    x = next(iter(batches()))[0]
    np.testing.assert_allclose(next(iter(taught))[0].outputs, ended(x), rtol=1e-5)
    sure = keras.Model(ended.inputs, keras.ops.sigmoid(30 * ended.output))
    with pytest.raises(ValueError, match="probabilities that float16 rounds"):
        cache(lambda x, training=False: sure(x), batches(), tmp_path / "f", dtype="float16")
