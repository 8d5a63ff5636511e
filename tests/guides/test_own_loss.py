"""The loss of the guide runs, is saved with its arguments, and gives the Huber loss."""

import keras
import numpy as np


def test_code(run_guide):
    names = run_guide("own_loss.md")
    loss = names["loss"]
    assert np.isclose(float(loss(np.float32([[3.0, 0.0]]), np.float32([[0.0, 0.0]]))), 2.0)
    config = keras.saving.serialize_keras_object(loss)
    assert keras.saving.deserialize_keras_object(config).delta == 2.0
    assert names["history"].history["huber_logits"][0] > 0
