import keras
import numpy as np
import pytest
from keras.src.backend import set_keras_mask

from keras_kd.distilling.hints import Hint
from keras_kd.losses import FSP, ICKD, VID, DistillationLoss, FitNet, SimilarityPreserving


def rng():
    return np.random.default_rng(0)


@keras.saving.register_keras_serializable(package="test_hints")
class AnyShape(DistillationLoss):
    equal_shapes = False

    def call(self, teacher, student, labels=None):
        return keras.ops.ones(keras.ops.shape(student)[0])


def test_equal_shapes_need_no_projection():
    hint = Hint("a", "b")
    hint.build([(None, 4, 4, 3)], [(None, 4, 4, 3)])
    assert hint.layers == []
    teacher, student = rng().normal(size=(2, 5, 4, 4, 3)).astype("float32")
    np.testing.assert_allclose(
        hint([teacher], [student]), np.mean((teacher - student) ** 2), rtol=1e-5
    )


def test_channels_are_projected_by_a_dense_layer_along_the_last_axis():
    hint = Hint("a", "b")
    hint.build([(None, 4, 4, 6)], [(None, 4, 4, 3)])
    (projection,) = hint.layers
    assert projection.kernel.shape == (3, 6)
    teacher = rng().normal(size=(5, 4, 4, 6)).astype("float32")
    student = rng().normal(size=(5, 4, 4, 3)).astype("float32")
    projected = student @ projection.kernel.numpy() + projection.bias.numpy()
    np.testing.assert_allclose(
        hint([teacher], [student]), np.mean((teacher - projected) ** 2), rtol=1e-5
    )


@pytest.mark.parametrize("larger", ["teacher", "student"])
def test_larger_map_is_average_pooled_to_the_smaller(larger):
    hint = Hint("a", "b")
    large = rng().normal(size=(2, 4, 4, 3)).astype("float32")
    small = rng().normal(size=(2, 2, 2, 3)).astype("float32")
    pooled = large.reshape(2, 2, 2, 2, 2, 3).mean((2, 4))
    teacher, student = (large, small) if larger == "teacher" else (small, large)
    hint.build([teacher.shape], [student.shape])
    np.testing.assert_allclose(
        hint([teacher], [student]), np.mean((pooled - small) ** 2), rtol=1e-5
    )


def test_losses_that_take_any_shape_get_no_projection():
    hint = Hint("a", "b", loss=AnyShape())
    hint.build([(None, 4, 4, 6)], [(None, 2, 2, 3)])
    assert hint.layers == []


def test_unequal_number_of_axes_is_refused():
    with pytest.raises(ValueError, match=r"number of axes.*pooling"):
        Hint("a", "b").build([(None, 4, 4, 6)], [(None, 3)])


def test_own_projection_is_used():
    projection = keras.layers.Dense(6, kernel_initializer="ones")
    hint = Hint("a", "b", projection=projection)
    hint.build([(None, 6)], [(None, 3)])
    assert hint.layers == [projection]
    np.testing.assert_allclose(
        hint([np.full((2, 6), 3.0, "float32")], [np.ones((2, 3), "float32")]), 0.0, atol=1e-6
    )


def test_without_projection_unequal_shapes_are_the_losss_to_refuse():
    hint = Hint("a", "b", projection=None)
    hint.build([(None, 6)], [(None, 3)])
    with pytest.raises(ValueError, match="shape"):
        hint([np.zeros((2, 6), "float32")], [np.zeros((2, 3), "float32")])


def test_a_projection_that_is_needed_but_not_made_is_told():
    with pytest.raises(ValueError, match=r"no projection yet.*objective\.build"):
        Hint("a", "b")([np.zeros((2, 6), "float32")], [np.zeros((2, 3), "float32")])
    same = np.zeros((2, 6), "float32")
    assert float(Hint("a", "b")([same], [same])) == 0.0


def test_names():
    assert Hint("a", "backbone/b").name == "fit_net_b"
    assert Hint("a", "feature_extractor/neck/projection_dense").name == "fit_net_projection_dense"
    assert Hint("a", ["model/b", "model/c"]).name == "fit_net_b_c"
    assert Hint("a", [f"backbone/stage_{i}_out" for i in range(4)]).name == "fit_net_stage_3_out"
    assert Hint("a", "b/" + "long_" * 8).name == "fit_net"
    assert Hint("a", "b", name="mine").name == "mine"
    assert Hint("a", "b").teacher_paths == ["a"]
    assert Hint(["a", "c"], ["b", "d"]).student_paths == ["b", "d"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"teacher_layer": 3, "student_layer": "b"}, "teacher_layer"),
        ({"teacher_layer": "a", "student_layer": []}, "student_layer"),
        ({"teacher_layer": "a", "student_layer": "b", "loss": "mse"}, "keras_kd.losses"),
        ({"teacher_layer": "a", "student_layer": "b", "projection": 4}, "projection"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(TypeError, match=message):
        Hint(**arguments)


def test_serialization_keeps_shapes_and_projection():
    hint = Hint("a", "b", loss=FitNet(), name="mine")
    hint.build([(None, 4, 4, 6)], [(None, 4, 4, 3)])
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(hint))
    assert (copy.teacher_layer, copy.student_layer, copy.name) == ("a", "b", "mine")
    assert isinstance(copy.loss, FitNet)
    assert copy.layers[0].kernel.shape == (3, 6)


def test_masked_positions_do_not_count_behind_a_projection():
    hint = Hint("a", "b", projection=keras.layers.Dense(2, kernel_initializer="zeros"))
    hint.build([(None, 4, 2)], [(None, 4, 3)])
    teacher = np.ones((1, 4, 2), "float32")
    teacher[:, 2:] = 100.0
    student = keras.ops.convert_to_tensor(np.ones((1, 4, 3), "float32"))
    set_keras_mask(student, keras.ops.convert_to_tensor([[True, True, False, False]]))
    np.testing.assert_allclose(hint([teacher], [student]), 1.0, rtol=1e-6)


def masked(values, mask):
    values = keras.ops.convert_to_tensor(np.asarray(values, "float32"))
    set_keras_mask(values, keras.ops.convert_to_tensor(mask))
    return values


@pytest.mark.parametrize("larger", ["teacher", "student"])
def test_masked_positions_do_not_count_where_features_are_pooled(larger):
    hint = Hint("a", "b")
    hint.build([(None, 2, 3)], [(None, 4, 3)])
    large, small = rng().normal(size=(2, 4, 3)), rng().normal(size=(2, 2, 3)).astype("float32")
    mask = np.array([[True, True, True, False], [True, False, False, False]])
    pooled = np.stack([large[0, :2].mean(0), large[0, 2], large[1, 0]])
    expected = ((pooled - np.stack([small[0, 0], small[0, 1], small[1, 0]])) ** 2).mean()
    for junk in (0.0, 100.0):
        features = [masked(np.where(mask[..., None], large, junk), mask), small]
        teacher, student = features if larger == "teacher" else features[::-1]
        np.testing.assert_allclose(hint([teacher], [student]), expected, rtol=1e-5)


def test_a_layer_given_as_projection_is_applied_for_any_loss():
    projection = keras.layers.Dense(2)
    hint = Hint("a", "b", loss=SimilarityPreserving(), projection=projection)
    hint.build([(None, 6)], [(None, 3)])
    assert hint.layers == [projection]
    teacher, student = (rng().normal(size=(4, n)).astype("float32") for n in (6, 3))
    np.testing.assert_allclose(
        hint([teacher], [student]), SimilarityPreserving()(teacher, projection(student)), rtol=1e-6
    )
    hint = Hint("a", "b", loss=VID(), projection=keras.layers.Dense(5))
    hint.build([(None, 4, 4, 6)], [(None, 4, 4, 3)])
    assert hint.loss.parameters.convolutions[0].kernel.shape == (5, 6)
    assert np.isfinite(hint([np.ones((2, 4, 4, 6))], [np.ones((2, 4, 4, 3))]))


def test_a_layer_given_as_projection_is_never_left_out():
    same = np.zeros((2, 6), "float32")
    with pytest.raises(ValueError, match="no projection yet"):
        Hint("a", "b", projection=keras.layers.Dense(6))([same], [same])


def test_a_layer_given_as_projection_may_change_the_number_of_axes():
    pool = keras.layers.GlobalAveragePooling2D()
    hint = Hint("a", "b", projection=keras.Sequential([pool, keras.layers.Dense(6)]))
    hint.build([(None, 6)], [(None, 4, 4, 3)])
    assert np.isfinite(hint([np.ones((2, 6), "float32")], [np.ones((2, 4, 4, 3), "float32")]))


def test_a_layer_given_as_projection_runs_in_training_mode():
    norm = keras.layers.BatchNormalization(momentum=0.0)
    hint = Hint("a", "b", projection=keras.Sequential([norm, keras.layers.Dropout(0.9)]))
    hint.build([(None, 3)], [(None, 3)])
    teacher, student = np.zeros((8, 3), "float32"), rng().normal(size=(8, 3)).astype("float32")
    for training in (None, False):
        hint([teacher], [student], training=training)
        np.testing.assert_array_equal(norm.moving_mean, np.zeros(3))
    hint([teacher], [student], training=True)
    np.testing.assert_allclose(norm.moving_mean, student.mean(0), rtol=1e-4)


@pytest.mark.parametrize("loss", [FSP(), ICKD()])
def test_maps_of_losses_between_channels_are_not_pooled(loss):
    count = 2 if loss.several_layers else 1
    teacher = [rng().normal(size=(2, 8, 8, 3)).astype("float32") for _ in range(count)]
    student = [rng().normal(size=(2, 4, 4, 3)).astype("float32") for _ in range(count)]
    names = ["a", "b"] if loss.several_layers else "a"
    hint = Hint(names, names, loss=loss)
    hint.build([x.shape for x in teacher], [x.shape for x in student])
    assert hint.layers == []
    given = (teacher, student) if loss.several_layers else (teacher[0], student[0])
    np.testing.assert_allclose(hint(teacher, student), loss(*given), rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_features_in_half_precision_are_pooled_in_float32(dtype):
    teacher = keras.ops.cast(50 + rng().normal(size=(4, 28, 28, 8)), dtype)
    student = keras.ops.cast(50 + rng().normal(size=(4, 4, 4, 8)), dtype)
    hint = Hint("a", "b")
    hint.build([teacher.shape], [student.shape])
    t, s = (np.asarray(keras.ops.cast(x, "float64")) for x in (teacher, student))
    pooled = t.reshape(4, 4, 7, 4, 7, 8).mean(axis=(2, 4))
    np.testing.assert_allclose(hint([teacher], [student]), np.mean((pooled - s) ** 2), rtol=1e-5)
