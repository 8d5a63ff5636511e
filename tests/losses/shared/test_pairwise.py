from __future__ import annotations

import numpy as np

from keras_kd.losses.shared.pairwise import angles, distances, huber


def test_distances(check):
    # Far from the origin, where the products are large and the distances small.
    x = 1000.0 + check.normal(5, 3)
    expected = np.sqrt(((x[:, None] - x) ** 2).sum(-1))
    np.testing.assert_allclose(distances(x), expected, rtol=1e-9, atol=1e-12)


def test_equal_vectors_are_a_millionth_apart():
    np.testing.assert_allclose(
        distances(np.ones((3, 2))), 1e-6 * (1 - np.eye(3)), rtol=1e-9, atol=1e-15
    )


def test_angles_at_every_vertex(check):
    x = check.normal(4, 3)
    cosines = angles(x).numpy()
    for k in range(4):
        for i in range(4):
            for j in range(4):
                if k in (i, j):
                    expected = 0.0
                else:
                    a, b = x[i] - x[k], x[j] - x[k]
                    expected = a @ b / np.sqrt((a @ a) * (b @ b))
                np.testing.assert_allclose(cosines[k, i, j], expected, atol=1e-12)


def test_huber():
    np.testing.assert_allclose(huber(np.array([-3.0, -0.5, 0.0, 1.0])), [2.5, 0.125, 0.0, 0.5])
