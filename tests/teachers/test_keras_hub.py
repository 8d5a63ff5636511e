"""Models of KerasHub as teachers; skipped where it is not installed."""

import keras
import numpy as np
import pytest

import keras_kd as kd

keras_hub = pytest.importorskip("keras_hub")

SparseCE = keras.losses.SparseCategoricalCrossentropy


def backbone(layers, width):
    return keras_hub.models.BertBackbone(
        vocabulary_size=20,
        num_layers=layers,
        num_heads=2,
        hidden_dim=width,
        intermediate_dim=2 * width,
        max_sequence_length=8,
    )


def classifier(layers, width, name):
    return keras_hub.models.BertTextClassifier(
        backbone(layers, width), num_classes=3, preprocessor=None, name=name
    )


def tokens(count=8):
    rng = np.random.default_rng(0)
    return {
        "token_ids": rng.integers(0, 20, (count, 8)).astype("int32"),
        "segment_ids": np.zeros((count, 8), "int32"),
        "padding_mask": np.ones((count, 8), "int32"),
    }


@pytest.mark.promise
def test_a_text_classifier_teaches_another_with_a_hint_inside_its_backbone():
    teacher, student = classifier(2, 8, "teacher"), classifier(1, 4, "student")
    path = f"{teacher.backbone.name}/transformer_layer_1"
    hint = kd.Hint(path, f"{student.backbone.name}/transformer_layer_0")
    distiller = kd.Distiller(teacher, student, [kd.losses.KLDivergence(2.0), hint])
    distiller.compile("adam", loss=SparseCE(from_logits=True), metrics=["accuracy"])
    before = student.get_weights()[0].copy()
    history = distiller.fit(tokens(), np.zeros(8), epochs=1, verbose=0).history
    assert distiller.teaching_layers[0].kernel.shape == (4, 8)
    assert history["distillation_loss"][0] > 0
    assert not np.array_equal(before, student.get_weights()[0])


def test_preprocessing_and_a_head_of_ones_own_make_a_teacher():
    trunk, head = backbone(1, 8), keras.layers.Dense(3)

    def teacher(x):
        return head(trunk({**x, "token_ids": x["token_ids"] % 20})["pooled_output"])

    inputs = {name: keras.Input((8,), dtype="int32", name=name) for name in tokens()}
    x = keras.layers.Embedding(20, 4)(inputs["token_ids"])
    student = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.GlobalAveragePooling1D()(x)))
    distiller = kd.Distiller(teacher, student, kd.losses.KLDivergence(), student_loss_weight=0.0)
    distiller.compile("adam")
    history = distiller.fit(tokens(), epochs=1, verbose=0).history
    assert history["distillation_loss"][0] > 0
