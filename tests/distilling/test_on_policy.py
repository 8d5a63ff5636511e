from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd as kd

VOCABULARY, LENGTH, STOP = 11, 7, 10
CE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@keras.saving.register_keras_serializable(package="tests")
class Causal(keras.layers.Layer):
    """The mean of the tokens so far: causal, and cheap."""

    def call(self, x):
        count = keras.ops.arange(1, x.shape[1] + 1, dtype=x.dtype)
        return keras.ops.cumsum(x, axis=1) / count[:, None]


def network(seed, width=8, scale=1.0):
    keras.utils.set_random_seed(seed)
    inputs = {
        "token_ids": keras.Input((LENGTH,), dtype="int32", name="token_ids"),
        "padding_mask": keras.Input((LENGTH,), dtype="int32", name="padding_mask"),
    }
    x = keras.layers.Embedding(VOCABULARY, width, embeddings_initializer="glorot_normal")(
        inputs["token_ids"]
    )
    x = keras.layers.Concatenate()([x, Causal()(x)])
    outputs = keras.layers.Rescaling(scale)(keras.layers.Dense(VOCABULARY, name="head")(x))
    return keras.Model(inputs, outputs)


@keras.saving.register_keras_serializable(package="tests")
def counting(prompt, seeds):
    """Every token is the one before it and one more; 10 ends a text."""
    tokens, kept = np.array(prompt["token_ids"]), np.array(prompt["padding_mask"])
    mask = kept.copy()
    for row, keep, seen in zip(tokens, kept, mask, strict=True):
        for i in range(keep.sum(), len(row)):
            row[i] = min(row[i - 1] + 1, STOP)
            seen[i] = row[i - 1] != STOP or keep[i - 1]
        ends = np.flatnonzero((row == STOP) & ~keep)
        seen[ends[0] + 1 if len(ends) else len(row) :] = False
    return {"token_ids": tokens, "padding_mask": mask}


def sampling(student):
    """Samples of any causal model, a pass for each token."""

    def generate(prompt, seeds):
        tokens, kept = prompt["token_ids"], prompt["padding_mask"]
        every = keras.ops.ones_like(tokens)
        for i in range(1, LENGTH):
            x = {"token_ids": tokens, "padding_mask": every}
            drawn = keras.random.categorical(student(x)[:, i - 1], 1, seed=seeds, dtype="int32")
            column = keras.ops.where(kept[:, i : i + 1], tokens[:, i : i + 1], drawn)
            tokens = keras.ops.concatenate([tokens[:, :i], column, tokens[:, i + 1 :]], axis=1)
        return {"token_ids": tokens, "padding_mask": keras.ops.ones_like(kept)}

    return generate


def batch(weight=None):
    tokens = np.array([[1, 2, 3, 4, 0, 0, 0], [7, 7, 7, 7, 7, 7, 7], [5, 0, 0, 0, 0, 0, 0]])
    lengths = np.array([4, 7, 1])
    mask = (np.arange(LENGTH) < lengths[:, None]).astype("int32")
    if weight is None:
        # A prompt of three tokens, one of two, and a row that does not count.
        weight = np.array([[0, 0, 1, 1, 0, 0, 0], [0, 2, 2, 2, 2, 2, 0], [0] * 7], "float32")
    return {"token_ids": tokens.astype("int32"), "padding_mask": mask}, weight


def distiller(student, loss=None, teacher=None, generate=counting, **arguments):
    return kd.OnPolicyDistiller(
        teacher or network(1, scale=4.0), student, loss or kd.losses.ReverseKL(),
        generate=generate, **arguments,
    )  # fmt: skip


def test_prompts_stay_and_what_the_student_wrote_counts():
    x, weights = distiller(network(0)).write(*batch())
    np.testing.assert_array_equal(
        x["token_ids"],
        [[1, 2, 3, 4, 5, 6, 7], [7, 7, 8, 9, 10, 10, 10], [5, 6, 7, 8, 9, 10, 10]],
    )
    np.testing.assert_array_equal(
        x["padding_mask"], [[1] * 7, [1, 1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1, 0]]
    )
    # A position weighs if the token after it was written: not the prompt, nor behind the stop
    # token, nor the last one.
    np.testing.assert_array_equal(
        weights, [[0, 0, 1, 1, 1, 1, 0], [0, 2, 2, 2, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0]]
    )
    assert x["token_ids"].dtype == x["padding_mask"].dtype == "int32"


@pytest.mark.parametrize(
    ("weight", "prompt_length", "expected"),
    [
        (None, None, [1, 1, 1, 1, 1, 1, 0]),  # one token
        (None, 3, [0, 0, 1, 1, 1, 1, 0]),
        (np.array([3.0]), 2, [0, 3, 3, 3, 3, 3, 0]),
        (np.array([[0, 0, 0, 0, 3, 3, 0]]), 2, [0, 3, 3, 3, 3, 3, 0]),
        (np.array([[0, 0, 0, 0, 3, 3, 0]]), None, [0, 0, 0, 0, 3, 3, 0]),
    ],
)
def test_the_length_of_the_prompt(weight, prompt_length, expected):
    tokens = np.array([[0, 1, 1, 1, 1, 1, 1]])

    def ones(prompt, seeds):
        return {"token_ids": prompt["token_ids"], "padding_mask": np.ones((1, 7), bool)}

    x, weights = distiller(
        keras.Sequential([keras.Input((7,)), keras.layers.Embedding(VOCABULARY, VOCABULARY)]),
        teacher=keras.Sequential([keras.layers.Embedding(VOCABULARY, VOCABULARY)]),
        generate=ones,
        prompt_length=prompt_length,
    ).write(tokens, weight)
    np.testing.assert_array_equal(x, tokens)
    np.testing.assert_array_equal(weights, [expected])


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.5, 0.75, 1.0])
def test_the_share_holds_in_every_part_of_a_training(fraction):
    trainer = distiller(network(0), student_fraction=fraction, seed=5)
    written = [trainer.writes_at(step) for step in range(2000)]
    for start in range(0, 1900, 100):
        assert abs(sum(written[start : start + 100]) - 100 * fraction) <= 2
    assert abs(sum(written) - 2000 * fraction) <= 3
    if 0 < fraction < 1:  # no batch of an unshuffled epoch is always the one
        by_batch = np.reshape(written, (-1, 10)).mean(axis=0)
        np.testing.assert_allclose(by_batch, fraction, atol=0.02)
        other = distiller(network(0), student_fraction=fraction)
        assert [other.writes_at(step) for step in range(99)] != written[:99]


@pytest.mark.parametrize(("several", "seed"), [(1, 0), (8, 3), (13, 3), (34, 0), (34, 3)])
def test_the_share_holds_with_several_steps_per_execution(several, seed):
    written = tf.Variable(0)

    def same(prompt, seeds):
        written.assign_add(1)
        return {**prompt, "padding_mask": keras.ops.ones_like(prompt["padding_mask"])}

    student = keras.Sequential(
        [keras.Input((2,), dtype="int32"), keras.layers.Embedding(VOCABULARY, VOCABULARY)]
    )
    teacher = keras.Sequential([keras.layers.Embedding(VOCABULARY, VOCABULARY)])
    trainer = distiller(student, teacher=teacher, generate=same, seed=seed)
    trainer.compile("sgd", CE, steps_per_execution=several)
    executions = 20
    steps = executions * several
    tokens = np.ones((steps, 2), "int32")
    trainer.fit(tokens, tokens, batch_size=1, shuffle=False, verbose=0)
    assert abs(int(written) / steps - 0.5) <= 0.05
    begun = [trainer.writes_at(step) for step in range(0, steps, several)]
    assert int(written) == several * sum(begun)


def test_a_step_is_that_of_the_loss_computed_by_hand():
    """SGD on the divergence at the written tokens, from the same weights, in float64."""
    student, teacher = network(0), network(1, scale=4.0)
    head = student.get_layer("head")
    kernel, bias = (weight.numpy().astype("d") for weight in (head.kernel, head.bias))
    x, weight = batch()
    texts, weights = distiller(student, teacher=teacher).write(x, weight)
    features = keras.Model(student.inputs, head.input)(texts).numpy().astype("d")
    logits = features @ kernel + bias

    def log_softmax(z):
        return z - np.log(np.exp(z).sum(-1, keepdims=True))

    log_s, log_t = log_softmax(logits), log_softmax(teacher(texts).numpy().astype("d"))
    s = np.exp(log_s)
    divergence = (s * (log_s - log_t)).sum(-1)
    shares = 0.7 * weights.numpy() / (3 * LENGTH)
    loss = (shares * divergence).sum()
    slopes = shares[..., None] * s * (log_s - log_t - divergence[..., None])

    trainer = distiller(student, teacher=teacher, student_fraction=1.0, student_loss_weight=0.3)
    trainer.compile(keras.optimizers.SGD(0.5), CE, metrics=["accuracy"], run_eagerly=True)
    labels = np.zeros((3, LENGTH), "int32")
    logs = trainer.train_on_batch(x, labels, weight, return_dict=True)
    assert logs["loss"] == pytest.approx(loss, rel=1e-5)
    assert logs["on_policy_loss"] == pytest.approx(loss / 0.7, rel=1e-5)
    np.testing.assert_allclose(head.bias, bias - 0.5 * slopes.sum((0, 1)), atol=1e-6)
    moved = np.einsum("bti,btj->ij", features, slopes)
    np.testing.assert_allclose(head.kernel, kernel - 0.5 * moved, atol=1e-6)


def data(rows=24, size=4):
    random = np.random.default_rng(0)
    tokens = random.integers(0, STOP, (rows, LENGTH + 1)).astype("int32")
    x = {"token_ids": tokens[:, :-1], "padding_mask": np.ones((rows, LENGTH), "int32")}
    return tf.data.Dataset.from_tensor_slices((x, tokens[:, 1:])).batch(size)


def compiled(student, eagerly=False, **arguments):
    trainer = distiller(student, generate=sampling(student), prompt_length=2, **arguments)
    trainer.compile(keras.optimizers.Adam(0.03), CE, metrics=["accuracy"], run_eagerly=eagerly)
    return trainer


@pytest.mark.promise
def test_labels_and_metrics_count_the_batches_of_the_data_alone():
    student = network(0)
    trainer = compiled(student, student_fraction=0.5)
    trainer.optimizer.learning_rate = 0.0
    written = [trainer.writes_at(step) for step in range(12)]
    history = trainer.fit(data(), epochs=2, verbose=0, validation_data=data()).history
    assert {*history} == {
        "loss", "student_loss", "distillation_loss", "on_policy_loss", "accuracy",
        "val_loss", "val_accuracy",
    }  # fmt: skip
    batches = [*data()]
    for epoch in range(2):
        part = written[6 * epoch : 6 * epoch + 6]
        kept = [b for b, own in zip(batches, part, strict=True) if not own]
        x = {name: np.concatenate([b[0][name] for b in kept]) for name in kept[0][0]}
        y = np.concatenate([b[1] for b in kept])
        logits = student.predict(x, verbose=0)
        assert history["accuracy"][epoch] == pytest.approx((logits.argmax(-1) == y).mean())
        assert history["student_loss"][epoch] == pytest.approx(float(CE(y, logits)), rel=1e-5)
        of_data, own = history["distillation_loss"][epoch], history["on_policy_loss"][epoch]
        distilled = kd.losses.ReverseKL()(trainer.teacher(x), logits)
        assert of_data == pytest.approx(float(distilled), rel=1e-5)
        total = sum(part) * own + len(kept) * (history["student_loss"][epoch] + of_data)
        assert history["loss"][epoch] == pytest.approx(0.5 * total / 6, rel=1e-5)


@pytest.mark.parametrize("fraction, logged", [
    (0.0, {"loss", "student_loss", "distillation_loss", "accuracy"}),
    (1.0, {"loss", "on_policy_loss"}),
])  # fmt: skip
def test_what_no_step_measured_is_not_logged(fraction, logged):
    trainer = compiled(network(0), student_fraction=fraction)
    assert {*trainer.fit(data(), epochs=2, verbose=0).history} == logged


class Interrupted(Exception):
    pass


@pytest.mark.promise
def test_a_resumed_training_ends_as_an_uninterrupted_one(tmp_path):
    def train(*callbacks):
        trainer = compiled(network(0), student_fraction=0.6, seed=3)
        with_backup = [kd.BackupAndRestore(tmp_path, save_freq=1), *callbacks]
        trainer.fit(data(), epochs=2, verbose=0, callbacks=with_backup if callbacks else None)
        return trainer.student.get_weights()

    class Stop(keras.callbacks.Callback):
        def __init__(self, at):
            super().__init__()
            self.left = at

        def on_train_batch_end(self, batch, logs=None):
            self.left -= 1
            if self.left == 0:
                raise Interrupted

    expected = train()
    with pytest.raises(Interrupted):
        train(Stop(8))
    resumed = train(Stop(-1))
    for first, second in zip(expected, resumed, strict=True):
        np.testing.assert_array_equal(first, second)
    keras.utils.set_random_seed(99)
    for first, second in zip(expected, train(), strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.promise
def test_cached_outputs_serve_the_data_and_the_teacher_what_the_student_writes(tmp_path):
    student, teacher = network(0), network(1, scale=4.0)
    taught = kd.teachers.cache(teacher, data(), tmp_path, top_k=4, temperature=1.0, verbose=False)
    before = student.get_weights()
    trainer = compiled(student, True, teacher=teacher, loss=kd.losses.KLDivergence(1.0))
    logs = trainer.fit(taught, epochs=2, verbose=0).history
    assert min(logs["on_policy_loss"]) > 0 and min(logs["distillation_loss"]) > 0
    assert np.abs(student.get_weights()[0] - before[0]).max() > 0
    trainer = kd.OnPolicyDistiller(
        None, student, kd.losses.KLDivergence(1.0), generate=sampling(student)
    )
    trainer.compile("sgd", CE)
    with pytest.raises(ValueError, match="teacher=None"):
        trainer.fit(taught, verbose=0)


def test_is_saved_and_loaded_but_for_the_teacher(tmp_path):
    trainer = distiller(
        network(0), student_fraction=0.25, prompt_length=2, seed=7, student_loss_weight=0.0
    )
    trainer.compile("sgd")
    trainer.save(tmp_path / "trainer.keras")
    loaded = keras.models.load_model(tmp_path / "trainer.keras")
    names = ("student_fraction", "prompt_length", "stop_token_ids", "generate", "seed")
    for name in names:
        assert loaded.get_config()[name] == trainer.get_config()[name]
    assert (loaded.prompt_length, loaded.generate) == (2, counting)
    assert [loaded.writes_at(s) for s in range(50)] == [trainer.writes_at(s) for s in range(50)]
    loaded.teacher = trainer.teacher
    loaded.fit(data(8, 8), verbose=0)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"generate": None}, "generate="),
        ({"student_fraction": 1.5}, "student_fraction"),
        ({"prompt_length": 0}, "prompt_length"),
        ({"loss": kd.losses.DKD()}, "DKD"),
        ({"loss": [kd.losses.KLDivergence(class_weight={1: 2.0})]}, "class_weight"),
    ],
)
def test_refuses_at_once(arguments, match):
    with pytest.raises(ValueError, match=match):
        distiller(network(0), **arguments)


def test_what_writes_is_a_function_and_ends_texts_itself():
    with pytest.raises(TypeError, match=r"`generate` must be a function.*generate='counting'"):
        distiller(network(0), generate="counting")
    with pytest.raises(ValueError, match=r"stop_token_ids=\[10\] and generate"):
        distiller(network(0), stop_token_ids=[STOP])
    with pytest.raises(ValueError, match="stop_token_ids=None and generate"):
        distiller(network(0), stop_token_ids=None)


@pytest.mark.parametrize(
    ("written", "error", "match"),
    [
        (lambda p: p["token_ids"], TypeError, "must return a dictionary of `token_ids`"),
        (lambda p: {"token_ids": p["token_ids"]}, TypeError, r"Received: \['token_ids'\]"),
        (lambda p: {n: x[:, 1:] for n, x in p.items()}, ValueError, r"token_ids of shape .* 6\)"),
        (lambda p: {**p, "padding_mask": p["padding_mask"][:, 0]}, ValueError, "padding_mask of"),
    ],
)
def test_what_is_written_is_checked(written, error, match):
    trainer = distiller(
        network(0), generate=lambda prompt, seeds: written(prompt), student_fraction=1.0
    )
    with pytest.raises(error, match=match):
        trainer.write(*batch())
    trainer.compile("sgd", CE)
    with pytest.raises(error, match=match):
        trainer.fit(data(8, 8), verbose=0)


def test_refuses_data_before_training():
    trainer = distiller(network(0), prompt_length=LENGTH, student_loss_weight=0.0)
    trainer.compile("sgd")
    with pytest.raises(ValueError, match="prompt_length=7 for texts of 7"):
        trainer.fit(data(), verbose=0)
    plain = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    trainer = distiller(plain, teacher=keras.models.clone_model(plain), student_loss_weight=0.0)
    trainer.compile("sgd")
    with pytest.raises(ValueError, match="token_ids"):
        trainer.fit(np.zeros((4, 3), "float32"), verbose=0)


def of_keras_hub(layers, width):
    keras_hub = pytest.importorskip("keras_hub")
    backbone = keras_hub.models.GPT2Backbone(
        VOCABULARY, layers, 2, width, 2 * width, dropout=0.0, max_sequence_length=LENGTH
    )
    return keras_hub.models.GPT2CausalLM(backbone=backbone, preprocessor=None)


def test_a_model_of_keras_hub_needs_stop_tokens_and_samples_from_its_probabilities():
    student = of_keras_hub(1, 4)
    with pytest.raises(ValueError, match="stop_token_ids"):
        distiller(student, generate=None)
    kept = student.sampler
    for weight in student.trainable_weights:
        weight.assign(3.0 * weight)
    trainer = distiller(student, generate=None, stop_token_ids=[STOP], prompt_length=2)
    rows = 2000
    x = {"token_ids": np.full((rows, LENGTH), 4), "padding_mask": np.ones((rows, LENGTH))}
    texts, weights = trainer.write(x)
    assert student.sampler is kept
    tokens = texts["token_ids"].numpy()
    np.testing.assert_array_equal(tokens[:, :2], 4)
    probabilities = keras.ops.softmax(student(x)[0, 1]).numpy()
    found = np.bincount(tokens[:, 2], minlength=VOCABULARY) / rows
    np.testing.assert_allclose(found, probabilities, atol=0.04)
    for row, weight in zip(tokens, weights.numpy(), strict=True):
        end = [*np.flatnonzero(row[2:] == STOP), LENGTH][0] + 2  # of the stop token
        np.testing.assert_array_equal(weight, [0, *(i < end for i in range(1, LENGTH - 1)), 0])


def test_the_stop_tokens_are_those_of_the_preprocessor():
    keras_hub = pytest.importorskip("keras_hub")
    words = {word: i for i, word in enumerate(["a", "b", "c", "<|endoftext|>", "ab"])}
    preprocessor = keras_hub.models.GPT2CausalLMPreprocessor(
        keras_hub.tokenizers.GPT2Tokenizer(words, ["a b"]), sequence_length=LENGTH
    )
    backbone = keras_hub.models.GPT2Backbone(5, 1, 2, 4, 8, max_sequence_length=LENGTH)
    student = keras_hub.models.GPT2CausalLM(backbone=backbone, preprocessor=preprocessor)
    trainer = distiller(student, teacher=lambda x: student(x), generate=None, prompt_length=2)
    x, _, weight = preprocessor(["abc"] * 50)
    texts, weights = trainer.write(x, weight)
    ended = (texts["token_ids"][:, 2:].numpy() == 3).argmax(axis=1)
    assert ended.max() > 0
    for end, row in zip(ended, weights.numpy(), strict=True):
        if end:
            np.testing.assert_array_equal(row[1 : end + 2], 1)
            np.testing.assert_array_equal(row[end + 2 :], 0)


def divergence_on_its_samples(fraction):
    """Train, and return the divergence on what the student writes before and after."""
    teacher = network(1, scale=4.0)
    keras.utils.set_random_seed(0)
    student = of_keras_hub(1, 16)
    trainer = kd.OnPolicyDistiller(
        teacher, student, kd.losses.ReverseKL(), student_loss_weight=0.0,
        student_fraction=fraction, stop_token_ids=None, prompt_length=1,
    )  # fmt: skip
    trainer.compile(keras.optimizers.Adam(0.01))

    def divergence():
        x, weights = trainer.write(next(iter(data(512, 512)))[0])
        value = kd.losses.ReverseKL()(teacher(x), student(x), sample_weight=weights)
        return float(value / keras.ops.mean(weights))

    before = divergence()
    trainer.fit(data(512, 16), epochs=8, verbose=0)
    return before, divergence()


@pytest.mark.promise
def test_the_student_agrees_with_the_teacher_on_what_it_writes():
    """More than one that learns from the data alone, in as many steps."""
    of_data, mixed = divergence_on_its_samples(0.0), divergence_on_its_samples(0.5)
    assert mixed[1] < 0.1 * mixed[0]
    assert mixed[1] < 0.5 * of_data[1]
