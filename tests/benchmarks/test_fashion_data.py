import numpy as np
import pytest

from keras_kd.teachers import TaughtInputs


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("benchmarks/fashion_data.py")


def images(count=20):
    rng = np.random.default_rng(0)
    return rng.integers(1, 256, (count, 6, 5, 1), dtype="uint8"), np.arange(count)


def test_augment_shifts_and_mirrors(script):
    x, _ = images(2)
    view = np.array([[0, 2, 0], [1, 1, 1]], "int32")
    padded = np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])
    result = script.augment(x, view, shift=1).numpy()
    np.testing.assert_array_equal(result[0], padded[0, 0:6, 2:7])
    np.testing.assert_array_equal(result[1], padded[1, 1:7, 1:6][:, ::-1])


def test_views_stay_in_range_and_repeat(script):
    views = script.draw_views(200, 3, shift=2, flip=True, seed=5)
    assert views.shape == (3, 200, 3)
    assert set(np.unique(views[..., :2])) == {0, 1, 2, 3, 4}
    assert set(np.unique(views[..., 2])) == {0, 1}
    np.testing.assert_array_equal(views, script.draw_views(200, 3, shift=2, flip=True, seed=5))
    assert script.draw_views(200, 3, shift=2, flip=False)[..., 2].max() == 0


def test_training_images_come_with_the_teachers_outputs_for_their_own_view(script):
    part = images()
    views = script.draw_views(20, 4, shift=1, flip=True)
    seen = np.stack(
        [np.concatenate(list(script.view_dataset(part, view, shift=1))) for view in views]
    )
    outputs = seen.reshape(4, 20, -1).sum(-1, keepdims=True)
    data = script.training_dataset(
        part, views, batch_size=6, seed=0, shift=1, flip=True, teacher_outputs=outputs
    )
    epochs = [list(data), list(data)]
    assert [len(epoch) for epoch in epochs] == [3, 3]
    for inputs, labels in epochs[0]:
        assert isinstance(inputs, TaughtInputs)
        np.testing.assert_allclose(
            inputs.outputs[:, 0], inputs.inputs.numpy().reshape(6, -1).sum(-1), rtol=1e-5
        )
        for image, label in zip(inputs.inputs.numpy(), labels.numpy(), strict=True):
            assert any(np.array_equal(image, seen[k, label]) for k in range(4))
    first, second = (np.concatenate([labels for _, labels in epoch]) for epoch in epochs)
    assert not np.array_equal(first, second)


def test_the_same_seed_gives_the_same_data(script):
    part = images()
    for views in (script.draw_views(20, 4, shift=1, flip=True), None):
        a, b = (
            list(script.training_dataset(part, views, batch_size=5, seed=3, shift=1, flip=True))
            for _ in range(2)
        )
        for (x, y), (u, v) in zip(a, b, strict=True):
            np.testing.assert_array_equal(x, u)
            np.testing.assert_array_equal(y, v)


def test_new_augmentation_differs_between_epochs(script):
    part = (images(1)[0].repeat(16, 0), np.zeros(16, "int64"))
    data = script.training_dataset(part, batch_size=16, seed=3, shift=1, flip=True)
    (x, _), (u, _) = next(iter(data)), next(iter(data))
    assert len(np.unique(x.numpy().reshape(16, -1), axis=0)) > 4
    assert not np.array_equal(x, u)


def test_evaluation_keeps_order_and_scale(script):
    x, y = images()
    ((images_, labels),) = list(script.evaluation_dataset((x, y)))
    np.testing.assert_allclose(images_, x / 255.0, rtol=1e-6)
    np.testing.assert_array_equal(labels, y)


def test_digits_are_split(script):
    data = script.load_images("digits", 200)
    assert len(data.validation[0]) == 200
    assert len(data.train[0]) + 200 == 1287
    assert data.test[0].shape == (510, 8, 8, 1)
    assert data.class_names == [str(i) for i in range(10)]


def test_unknown_data_set_is_refused(script):
    with pytest.raises(ValueError, match="digitz"):
        script.load_images("digitz", 1)
