"""A language model learns every token from a teacher's top-k logits, but the padding."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd as kd

VOCABULARY, LENGTH, TEXTS = 300, 12, 24


def plain(layers, name):
    """A causal transformer of Keras layers."""
    inputs = {
        "token_ids": keras.Input((LENGTH,), dtype="int32", name="token_ids"),
        "padding_mask": keras.Input((LENGTH,), dtype="int32", name="padding_mask"),
    }
    x = keras.layers.Embedding(VOCABULARY, 16)(inputs["token_ids"])
    for _ in range(layers):
        attention = keras.layers.MultiHeadAttention(2, 8)
        x = keras.layers.LayerNormalization()(x + attention(x, x, use_causal_mask=True))
        hidden = keras.layers.Dense(32, activation="gelu")(x)
        x = keras.layers.LayerNormalization()(x + keras.layers.Dense(16)(hidden))
    return keras.Model(inputs, keras.layers.Dense(VOCABULARY)(x), name=name)


def of_keras_hub(layers, name):
    keras_hub = pytest.importorskip("keras_hub")
    backbone = keras_hub.models.GPT2Backbone(
        vocabulary_size=VOCABULARY,
        num_layers=layers,
        num_heads=2,
        hidden_dim=16,
        intermediate_dim=32,
        max_sequence_length=LENGTH,
        dropout=0.0,
    )
    return keras_hub.models.GPT2CausalLM(backbone=backbone, preprocessor=None, name=name)


def texts():
    random = np.random.default_rng(0)
    tokens = random.integers(1, VOCABULARY, (TEXTS, LENGTH + 1))
    lengths = random.integers(3, LENGTH + 1, TEXTS)
    mask = (np.arange(LENGTH) < lengths[:, None]).astype("int32")
    inputs = {"token_ids": (tokens[:, :-1] * mask).astype("int32"), "padding_mask": mask}
    return inputs, tokens[:, 1:] * mask, mask.astype("float32")


def sharpened(teacher):
    """An untrained model hardly prefers a token; this one does."""
    for weight in teacher.trainable_weights:
        deviation = float(keras.ops.std(weight))
        if len(weight.shape) == 2 and deviation > 0:
            weight.assign(weight / deviation)
    return teacher


@pytest.mark.parametrize("network", [plain, of_keras_hub])
@pytest.mark.promise
def test_learns_from_top_k_logits_and_not_from_the_padding(network, tmp_path):
    keras.utils.set_random_seed(0)
    teacher, student = sharpened(network(2, "teacher")), network(1, "student")
    inputs, labels, mask = texts()
    data = tf.data.Dataset.from_tensor_slices((inputs, labels, mask)).batch(8)
    temperature = 2.0
    taught = kd.teachers.cache(
        teacher, data, tmp_path, top_k=32, temperature=temperature, verbose=False
    )
    start = student.get_weights()

    def nonsense_in_the_padding(x, y, weight):
        kept = x.outputs
        padding = 1.0 - weight
        kept = kept._replace(
            values=kept.values + 50.0 * padding[..., None], rest=kept.rest - 7.0 * padding
        )
        return x._replace(outputs=kept), y, weight

    def divergence():
        logits = [teacher.predict(inputs, verbose=0), student.predict(inputs, verbose=0)]
        loss = kd.losses.KLDivergence(temperature)
        return float(loss(*logits, sample_weight=mask) / mask.mean())

    before, trained = divergence(), []
    for dataset in (taught, taught.map(nonsense_in_the_padding)):
        student.set_weights(start)
        distiller = kd.Distiller(
            None,
            student,
            kd.losses.KLDivergence(temperature, chunk_size=10),
            student_loss_weight=0.0,
        )
        distiller.compile(keras.optimizers.Adam(0.02))
        distiller.fit(dataset, epochs=15, verbose=0)
        trained.append(student.get_weights())
    assert divergence() < 0.5 * before
    for first, second in zip(*trained, strict=True):
        np.testing.assert_allclose(first, second, atol=1e-5)


@pytest.mark.parametrize("network", [plain, of_keras_hub])
@pytest.mark.promise
def test_is_pruned_while_the_teacher_teaches(network):
    keras.utils.set_random_seed(0)
    teacher, student = sharpened(network(2, "teacher")), network(1, "student")
    inputs, labels, mask = texts()
    data = tf.data.Dataset.from_tensor_slices((inputs, labels, mask)).batch(8)
    distiller = kd.Distiller(teacher, student, kd.losses.KLDivergence(2.0))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile("adam", loss=loss)
    pruned = kd.compress(distiller, data, stages=[kd.Prune(0.5, epochs=1)], verbose=0)
    treated = [layer for layer in pruned.layers if layer.sparsity]
    assert treated
    for layer in treated:
        assert layer.sparsity == pytest.approx(0.5, abs=0.05)
    logits = pruned.predict(inputs)
    assert logits.shape == (*labels.shape, VOCABULARY) and np.isfinite(logits).all()
