import keras
import pytest

from keras_kd.distilling.epochs import EpochBegin, check_epoch, with_epoch_begin


class Recorder:
    def __init__(self):
        self.epochs = []

    def begin_epoch(self, epoch):
        self.epochs.append(epoch)


def test_epochs_are_passed_on():
    recorder = Recorder()
    EpochBegin(recorder).on_epoch_begin(3)
    assert recorder.epochs == [3]


@pytest.mark.parametrize("kind", ["none", "one", "list", "positional"])
def test_the_callback_is_added_before_those_given(kind):
    own = keras.callbacks.Callback()
    arguments = {
        "none": ((), {}),
        "one": ((), {"callbacks": own}),
        "list": ((), {"callbacks": [own], "epochs": 3}),
        "positional": ((32, 3, 0, [own]), {}),
    }[kind]
    bound = with_epoch_begin(Recorder(), "x", "y", *arguments[0], **arguments[1])
    assert isinstance(bound["callbacks"][0], EpochBegin)
    assert bound["callbacks"][1:] == ([] if kind == "none" else [own])
    assert (bound["x"], bound["y"]) == ("x", "y")
    assert bound.get("epochs", 3) == 3


def test_a_list_that_was_given_is_not_changed():
    given = [keras.callbacks.Callback()]
    with_epoch_begin(Recorder(), "x", callbacks=given)
    assert len(given) == 1


def test_a_callback_list_is_taken_over():
    callbacks, recorder = keras.callbacks.CallbackList([]), Recorder()
    for _ in range(2):
        bound = with_epoch_begin(recorder, "x", callbacks=callbacks)
        assert bound["callbacks"] is callbacks
    callbacks.on_epoch_begin(4)
    assert recorder.epochs == [4]


def test_epochs_to_stop_at():
    assert check_epoch(None) is None
    assert check_epoch(0) == 0
    with pytest.raises(ValueError, match="whole number"):
        check_epoch(-2)
