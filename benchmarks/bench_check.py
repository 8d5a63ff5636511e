"""kd.check of MobileNetV2, with all stages and exports that it looks at by default."""

import keras
from side_by_side import within

import keras_kd as kd


def main():
    keras.utils.set_random_seed(0)
    model = keras.applications.MobileNetV2(weights=None)
    # The first round imports what the stages need, as a user's only call does.
    within("kd.check of MobileNetV2", lambda: kd.check(model, verbose=False), 10, 5)


if __name__ == "__main__":
    main()
