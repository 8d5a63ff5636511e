"""Hints between transformers of Keras and KerasHub, and students made of a teacher's layers."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import keras_kd as kd
from keras_kd.distilling.transformers import mapped_layers, transformer_blocks
from keras_kd.models.features import FeatureReader

keras_hub = pytest.importorskip("keras_hub")


def backbone(layers, width, heads=2):
    return keras_hub.models.BertBackbone(
        vocabulary_size=20,
        num_layers=layers,
        num_heads=heads,
        hidden_dim=width,
        intermediate_dim=2 * width,
        max_sequence_length=8,
        dropout=0.0,
    )


def classifier(layers, width, heads=2):
    return keras_hub.models.BertTextClassifier(
        backbone(layers, width, heads), num_classes=3, preprocessor=None, dropout=0.0
    )


def tokens(filling=1, count=4):
    ids = np.random.default_rng(0).integers(2, 20, (count, 8)).astype("int32")
    mask = np.ones((count, 8), "int32")
    mask[:2, 5:] = 0
    return {
        "token_ids": np.where(mask, ids, filling).astype("int32"),
        "segment_ids": np.zeros((count, 8), "int32"),
        "padding_mask": mask,
    }


def in_graph(layers, width=8):
    x = inputs = keras.Input((8, width))
    for i in range(layers):
        x = keras.layers.MultiHeadAttention(2, 4, name=f"attention_{i}")(x, x)
    return keras.Model(inputs, keras.layers.Dense(3)(x))


@pytest.mark.parametrize(
    ("layer_map", "pairs"),
    [
        ("uniform", [(0, 2), (1, 5), (2, 8), (3, 11)]),
        ("last", [(0, 8), (1, 9), (2, 10), (3, 11)]),
        ([0, 3, 6, -1], [(0, 0), (1, 3), (2, 6), (3, 11)]),
        ({-1: -1}, [(3, 11)]),
    ],
)
def test_layer_maps(layer_map, pairs):
    assert mapped_layers(layer_map, 12, 4) == pairs


@pytest.mark.parametrize("layer_map", ["first", [0, 1], [0, 1, 2, 12], {4: 0}, {}, None, [0.0] * 4])
def test_refuses_maps_that_do_not_fit(layer_map):
    with pytest.raises(ValueError, match="`layer_map`"):
        mapped_layers(layer_map, 12, 4)
    with pytest.raises(ValueError, match="`layer_map`"):
        mapped_layers("uniform", 2, 3)


def test_finds_the_blocks_of_models_of_keras_and_keras_hub():
    model = classifier(2, 8)
    prefix = model.backbone.name
    blocks = transformer_blocks(model)
    assert [block.path for block in blocks] == [
        f"{prefix}/transformer_layer_0",
        f"{prefix}/transformer_layer_1",
    ]
    assert blocks[1].projections[0].endswith("transformer_layer_1/self_attention_layer/query_dense")
    assert [(b.attention, b.path) for b in transformer_blocks(in_graph(2))] == [
        ("attention_0", None),
        ("attention_1", None),
    ]
    with pytest.raises(ValueError, match=r"has no keras\.layers\.MultiHeadAttention"):
        transformer_blocks(keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]))


@pytest.mark.promise
def test_tiny_bert_hints_train_and_leave_padding_out():
    teacher, student = classifier(4, 16), classifier(2, 8)
    hints = kd.transformer_hints(teacher, student)
    assert [hint.name for hint in hints] == [
        "embeddings", "hidden_0", "attention_scores_0", "hidden_1", "attention_scores_1",
    ]  # fmt: skip
    assert hints[1].teacher_layer.endswith("transformer_layer_1")
    assert hints[3].teacher_layer.endswith("transformer_layer_3")
    distiller = kd.Distiller(teacher, student, hints, student_loss_weight=0.0)
    distiller.compile(keras.optimizers.SGD(0.0), evaluate_distillation=True)
    logs = [
        distiller.fit(tokens(filling), np.zeros(4), epochs=1, verbose=0).history
        for filling in (0, 19)
    ]
    for hint in hints:
        assert logs[0][hint.name][0] == pytest.approx(logs[1][hint.name][0], rel=1e-4)
    distiller.compile(keras.optimizers.SGD(0.05))
    history = distiller.fit(tokens(), np.zeros(4), epochs=4, verbose=0).history["loss"]
    assert history[-1] < history[0]


def test_values_are_those_of_the_layers_themselves():
    teacher, student = classifier(2, 8), classifier(2, 8)
    hints = kd.transformer_hints(teacher, student, {-1: -1}, embeddings=False)
    read = []
    for model, side in ((teacher, "teacher_paths"), (student, "student_paths")):
        paths = [path for hint in hints for path in getattr(hint, side)]
        features = FeatureReader(model, paths).run(model, tokens(), training=False)[1]
        read.append([features[path].numpy() for path in paths])
    kept = tokens()["padding_mask"].astype(bool)
    expected = ((read[0][0] - read[1][0])[kept] ** 2).mean()
    distiller = kd.Distiller(teacher, student, hints, student_loss_weight=0.0)
    distiller.compile(evaluate_distillation=True)
    logs = distiller.evaluate(tokens(), return_dict=True, verbose=0)
    assert logs["hidden_1"] == pytest.approx(expected, rel=1e-4)
    total = count = 0.0
    for b in range(4):
        n = kept[b].sum()
        scores = [np.einsum("ihd,jhd->hij", side[1][b, :n], side[2][b, :n]) / 2.0 for side in read]
        total += ((scores[0] - scores[1]) ** 2).mean((0, 2)).sum()
        count += n
    assert logs["attention_scores_1"] == pytest.approx(total / count, rel=1e-4)


@pytest.mark.promise
def test_mini_lm_takes_other_numbers_of_heads():
    teacher, student = classifier(3, 12, heads=3), classifier(1, 8)
    hints = kd.transformer_hints(
        teacher,
        student,
        {-1: -1},
        embeddings=False,
        hidden=False,
        attention=kd.losses.AttentionRelation(heads=4),
    )
    (hint,) = hints
    assert hint.teacher_paths[0].endswith("transformer_layer_2/self_attention_layer/query_dense")
    distiller = kd.Distiller(teacher, student, hints, student_loss_weight=0.0)
    distiller.compile(keras.optimizers.SGD(0.5))
    history = distiller.fit(tokens(), np.zeros(4), epochs=5, verbose=0).history["loss"]
    assert history[-1] < history[0]


def test_attention_in_the_graph_has_no_hidden_states():
    teacher, student = in_graph(2), in_graph(1)
    with pytest.raises(ValueError, match="hidden=False"):
        kd.transformer_hints(teacher, student, embeddings=False)
    hints = kd.transformer_hints(teacher, student, hidden=False, embeddings=False)
    distiller = kd.Distiller(teacher, student, hints, student_loss_weight=0.0)
    distiller.compile("sgd")
    history = distiller.fit(np.ones((2, 8, 8)), epochs=1, verbose=0).history
    assert history["distillation_loss"][0] > 0


def test_a_student_of_some_layers_starts_from_their_weights():
    teacher, rng = classifier(4, 8), np.random.default_rng(0)
    teacher.set_weights([w + 0.3 * rng.normal(size=w.shape) for w in teacher.get_weights()])
    student = kd.student_from_layers(teacher, [0, 2])
    assert type(student) is type(teacher)
    assert len(transformer_blocks(student)) == 2
    of_teacher, of_student = teacher.backbone, student.backbone
    for i, t in enumerate((0, 2)):
        for new, old in zip(
            of_student.get_layer(f"transformer_layer_{i}").get_weights(),
            of_teacher.get_layer(f"transformer_layer_{t}").get_weights(),
            strict=True,
        ):
            np.testing.assert_array_equal(new, old)
    whole = kd.student_from_layers(teacher, [0, 1, 2, 3])
    np.testing.assert_allclose(
        whole(tokens(), training=False), teacher(tokens(), training=False), atol=1e-5
    )
    assert np.abs(student(tokens()) - teacher(tokens())).max() > 1e-2
    half = kd.student_from_layers(of_teacher)
    assert half.num_layers == 2
    np.testing.assert_array_equal(
        half.get_layer("transformer_layer_0").get_weights()[0],
        of_teacher.get_layer("transformer_layer_1").get_weights()[0],
    )


def test_encoder_and_decoder_each_get_the_chosen_layers():
    teacher = keras_hub.models.BartBackbone(
        vocabulary_size=20,
        num_layers=4,
        num_heads=2,
        hidden_dim=8,
        intermediate_dim=8,
        max_sequence_length=8,
    )
    student = kd.student_from_layers(teacher, [0, 3])
    for stack in ("encoder", "decoder"):
        for i, t in enumerate((0, 3)):
            for new, old in zip(
                student.get_layer(f"transformer_{stack}_layer_{i}").get_weights(),
                teacher.get_layer(f"transformer_{stack}_layer_{t}").get_weights(),
                strict=True,
            ):
                np.testing.assert_array_equal(new, old)


class Mixed(keras.Model):
    """A backbone whose decoder has another number of layers than its configuration says."""

    def __init__(self, num_layers=2, name=None):
        x = inputs = keras.Input((8, 4))
        for stack, count in (("encoder", num_layers), ("decoder", 1)):
            for i in range(count):
                x = Block(name=f"{stack}_{i}")(x, attention_mask=x[..., 0] > 0)
        super().__init__(inputs, x, name=name)
        self.num_layers = num_layers

    def get_config(self):
        return {"num_layers": self.num_layers, "name": self.name}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


class Block(keras.layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.attention = keras.layers.MultiHeadAttention(1, 4)

    def build(self, hidden_states_shape, attention_mask_shape=None):
        self.attention.build(hidden_states_shape, hidden_states_shape)

    def call(self, hidden_states, attention_mask=None):
        mask = None if attention_mask is None else attention_mask[:, None, :]
        return hidden_states + self.attention(hidden_states, hidden_states, attention_mask=mask)


def test_refuses_stacks_of_other_sizes():
    with pytest.raises(ValueError, match=r"num_layers=2.*'decoder_': 1"):
        kd.student_from_layers(Mixed(), count=1)


def test_embeddings_are_what_a_block_takes_first_also_by_keyword():
    def model():
        tokens = keras.Input((8,), dtype="int32")
        x = keras.layers.Embedding(20, 4, name="embedding")(tokens)
        mask = keras.layers.Lambda(lambda t: t > 0, name="mask")(tokens)
        x = Block(name="block")(hidden_states=x, attention_mask=mask)
        return keras.Model(tokens, keras.layers.Dense(3)(x))

    hint = kd.transformer_hints(model(), model())[0]
    assert (hint.teacher_layer, hint.student_layer) == ("embedding", "embedding")


def test_refuses_teachers_without_layers_to_choose():
    with pytest.raises(ValueError, match="`num_layers`"):
        kd.student_from_layers(in_graph(2))
    with pytest.raises(ValueError, match="`layer_map`"):
        kd.student_from_layers(backbone(2, 8), [0, 5])


def bart(layers):
    return keras_hub.models.BartBackbone(
        vocabulary_size=20,
        num_layers=layers,
        num_heads=2,
        hidden_dim=8,
        intermediate_dim=8,
        max_sequence_length=8,
    )


@pytest.mark.parametrize(("layer_map", "taught_by"), [("last", (2, 3)), ("uniform", (1, 3))])
def test_a_name_maps_encoder_to_encoder_and_decoder_to_decoder(layer_map, taught_by):
    hints = kd.transformer_hints(bart(4), bart(2), layer_map, embeddings=False, attention=None)
    assert [(hint.teacher_layer, hint.student_layer) for hint in hints] == [
        (f"transformer_{stack}_layer_{t}", f"transformer_{stack}_layer_{s}")
        for stack in ("encoder", "decoder")
        for s, t in enumerate(taught_by)
    ]


def test_a_name_needs_the_same_stacks_on_both_sides():
    encoder = keras_hub.models.BertBackbone(
        vocabulary_size=20, num_layers=2, num_heads=2, hidden_dim=8, intermediate_dim=8
    )
    with pytest.raises(ValueError, match=r"layer_map='last'.*4 with cross-attention"):
        kd.transformer_hints(bart(4), encoder, "last")
    pairs = {0: 1, 1: 3}
    hints = kd.transformer_hints(bart(4), encoder, pairs, embeddings=False, attention=None)
    assert [hint.teacher_layer for hint in hints] == [
        "transformer_encoder_layer_1",
        "transformer_encoder_layer_3",
    ]
