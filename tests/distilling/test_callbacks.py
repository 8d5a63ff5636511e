import keras
import pytest

from keras_kd.distilling.callbacks import EpochBegin, with_epoch_begin


class Recorder:
    def __init__(self):
        self.epochs = []

    def begin_epoch(self, epoch):
        self.epochs.append(epoch)


def test_epochs_are_passed_on():
    recorder = Recorder()
    EpochBegin(recorder).on_epoch_begin(3)
    assert recorder.epochs == [3]


@pytest.mark.parametrize("kind", ["none", "one", "list"])
def test_the_callback_is_added_before_those_given(kind):
    own = keras.callbacks.Callback()
    given = {"none": None, "one": own, "list": [own]}[kind]
    callbacks = with_epoch_begin(Recorder(), given)
    assert isinstance(callbacks[0], EpochBegin)
    assert callbacks[1:] == ([] if kind == "none" else [own])


def test_a_list_that_was_given_is_not_changed():
    given = [keras.callbacks.Callback()]
    with_epoch_begin(Recorder(), given)
    assert len(given) == 1


def test_a_callback_list_is_taken_over():
    callbacks, recorder = keras.callbacks.CallbackList([]), Recorder()
    for _ in range(2):
        assert with_epoch_begin(recorder, callbacks) is callbacks
    callbacks.on_epoch_begin(4)
    assert recorder.epochs == [4]
