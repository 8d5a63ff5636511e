from __future__ import annotations

import ctypes
import logging
import os
import subprocess
import sys

import pytest

from keras_kd.system.quiet import capture_output, without_noise


def test_python_and_descriptor_output_is_held_back(capfd: pytest.CaptureFixture[str]) -> None:
    with capture_output() as captured:
        print("from python")
        print("to stderr", file=sys.stderr)
        os.write(1, b"from C\n")
        os.write(2, b"from C, stderr\n")
        assert captured.text == "from python\nto stderr\nfrom C\nfrom C, stderr\n"
    print("after")
    assert capfd.readouterr() == ("after\n", "")
    assert captured.text == "from python\nto stderr\nfrom C\nfrom C, stderr\n"


def test_the_c_library_buffer_does_not_leak(capfd: pytest.CaptureFixture[str]) -> None:
    with capture_output() as captured:
        ctypes.CDLL(None).printf(b"buffered by printf\n")
    assert captured.text == "buffered by printf\n"
    assert capfd.readouterr() == ("", "")


def test_text_is_replayed_on_error(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError, match="broken"), capture_output():
        os.write(1, b"the reason\n")
        raise RuntimeError("broken")
    assert capfd.readouterr() == ("", "the reason\n")


def test_text_is_not_replayed_when_the_error_will_hold_it(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(RuntimeError), capture_output(replay_on_error=False) as captured:
        os.write(2, b"the reason\n")
        raise RuntimeError
    assert captured.text == "the reason\n"
    assert capfd.readouterr() == ("", "")


def test_nested_uses_each_keep_their_own(capfd: pytest.CaptureFixture[str]) -> None:
    with capture_output() as outer:
        print("a")
        with capture_output() as inner:
            print("b")
        print("c")
    assert (outer.text, inner.text) == ("a\nc\n", "b\n")
    assert capfd.readouterr() == ("", "")


def test_log_handlers_are_redirected_and_put_back() -> None:
    logger = logging.getLogger("tensorflow")
    handler = logging.StreamHandler(sys.stderr)
    stream = handler.stream
    logger.addHandler(handler)
    try:
        with capture_output() as captured:
            logger.error("logged")
        assert captured.text.count("logged\n") >= 1
        assert handler.stream is stream
    finally:
        logger.removeHandler(handler)


@pytest.mark.promise
def test_a_process_without_stdout_can_use_it() -> None:
    code = (
        "import os; os.close(1)\n"
        "from keras_kd.system.quiet import capture_output, without_noise\n"
        "with capture_output() as captured:\n"
        "    os.write(2, b'x')\n"
        "assert captured.text == 'x'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_log_handlers_made_meanwhile_write_on_afterwards(capfd):
    logger = logging.getLogger("absl")
    with capture_output():
        handler = logging.StreamHandler()
        logger.addHandler(handler)
    try:
        logger.error("written after the end")
    finally:
        logger.removeHandler(handler)
    captured = capfd.readouterr().err
    assert "written after the end" in captured
    assert "closed file" not in captured


NOISE = b"""WARNING: All log messages before absl::InitializeLog() is called are written to STDERR
I0000 00:00:1795905384.802425    7085 port.cc:153] oneDNN custom operations are on.
E0000 00:00:1795905429.758262   10631 cuda_platform.cc:52] failed call to cuInit: INTERNAL
W0000 00:00:1795905437.504331   11254 cache_dataset_ops.cc:912] The calling iterator did not
"""
NEWS = b"E0000 00:00:1795905437.504331   11254 xla_compiler.cc:1] Compilation failed\nmine\n"


def test_noise_is_held_back_and_nothing_else(capfd: pytest.CaptureFixture[str]) -> None:
    with without_noise():
        print("at once")
        assert capfd.readouterr().out == "at once\n"
        os.write(2, NOISE + NEWS)
    assert capfd.readouterr() == ("", NEWS.decode())


def test_noise_is_held_back_and_nothing_else_on_an_error(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError, match="broken"), without_noise():
        os.write(2, NOISE + NEWS)
        raise RuntimeError("broken")
    assert capfd.readouterr() == ("", NEWS.decode())
