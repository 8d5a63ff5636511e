"""One file on Python, C++, microcontrollers and in a browser: the outputs are those of Python."""

import hashlib
import importlib.util
import json
import math
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

import keras_kd as kd

FOLDER = pathlib.Path(__file__).parents[2] / "examples" / "on_device"
FILE = FOLDER / "digits.tflite"
SAMPLES = FOLDER / "digits.csv"


def numbers(text):
    return np.array([line.split() for line in text.splitlines()], np.float64)


def step():
    """The size of one step of the file's int8 logits."""
    from ai_edge_litert.interpreter import Interpreter

    details = Interpreter(model_path=str(FILE)).get_tensor_details()
    scales = [t["quantization"][0] for t in details if tuple(t["shape"]) == (1, 10)]
    return max(scales)


def run_python(lines):
    done = subprocess.run(
        [sys.executable, str(FOLDER / "classify.py"), str(FILE)],
        input=lines, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return numbers(done.stdout)


@pytest.fixture(scope="module")
def expected():
    return run_python(SAMPLES.read_text())


def compiler():
    found = shutil.which("g++") or shutil.which("clang++")
    if found is None:
        pytest.skip("there is no C++ compiler")
    return found


def test_the_file_is_the_one_described_and_knows_the_digits(expected):
    facts = json.loads((FOLDER / "digits.tflite.json").read_text())
    assert facts["sha256"] == hashlib.sha256(FILE.read_bytes()).hexdigest()
    assert facts["bytes"] == FILE.stat().st_size < 20_000
    assert facts["quantization"] == "int8" and facts["class_names"] == list("0123456789")
    labels = [int(line.split(",")[0]) for line in SAMPLES.read_text().splitlines()]
    assert expected.shape == (len(labels), 10) == (20, 10)
    assert (expected.argmax(axis=1) == labels).mean() >= 0.9


def test_cpp_with_litert(tmp_path, expected):
    package = pathlib.Path(importlib.util.find_spec("ai_edge_litert").origin).parent
    library = package / "libLiteRt.so"
    if not library.is_file():
        pytest.skip("this ai_edge_litert has no libLiteRt.so")
    program = tmp_path / "classify"
    subprocess.run(
        [compiler(), "-std=c++17", "-Wall", "-Wextra", "-Werror", str(FOLDER / "litert/main.cc"),
         str(library), f"-Wl,-rpath,{package}", "-o", str(program)],
        check=True, timeout=300,
    )  # fmt: skip
    done = subprocess.run(
        [program, FILE], input=SAMPLES.read_text(), capture_output=True, text=True, check=True
    )
    np.testing.assert_array_equal(numbers(done.stdout), expected)
    missing = subprocess.run([program, "none.tflite"], capture_output=True, text=True)
    assert missing.returncode == 1 and "reading the file failed" in missing.stderr


def test_cpp_for_microcontrollers_compiles(tmp_path, write_micro_stubs):
    written = kd.export_c_array(FILE, tmp_path / "digits", trial=False)
    source = (FOLDER / "micro" / "main.cc").read_text()
    # The logits are the second row of pixels.
    write_micro_stubs(tmp_path, source, written.operators, first_output=8)
    subprocess.run(
        [compiler(), "-std=c++17", "-Wall", "-Wextra", "-Werror", f"-I{tmp_path}",
         str(FOLDER / "micro/main.cc"), str(written.source), "-o", str(tmp_path / "micro")],
        check=True, timeout=300,
    )  # fmt: skip
    printed = subprocess.run([tmp_path / "micro"], capture_output=True, check=True, text=True)
    assert printed.stdout.strip() == "3"  # the first of that row's largest pixels


MICRO = """
import sys
import numpy as np
from tflite_micro import runtime
interpreter = runtime.Interpreter.from_file(sys.argv[1])
for line in sys.stdin:
    interpreter.set_input(np.array(line.split(",")[1:], np.float32).reshape(1, 8, 8, 1), 0)
    interpreter.invoke()
    print(*(f"{logit:.6g}" for logit in interpreter.get_output(0)[0]))
"""


def test_the_interpreter_for_microcontrollers(expected):
    pytest.importorskip("tflite_micro", reason="the package tflite-micro is not installed")
    done = subprocess.run(
        [sys.executable, "-c", MICRO, str(FILE)],
        input=SAMPLES.read_text(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    given = numbers(done.stdout)
    assert (given.argmax(axis=1) == expected.argmax(axis=1)).all()
    assert np.abs(given - expected).max() <= 2.01 * step()


def circle(points=24):
    turns = [2 * math.pi * i / points for i in range(points + 1)]
    return [(0.5 + 0.22 * math.sin(t), 0.5 - 0.35 * math.cos(t)) for t in turns]


SEVEN = [(0.25, 0.15), (0.5, 0.15), (0.75, 0.15), (0.6, 0.5), (0.45, 0.9)]


@pytest.mark.slow
def test_web_page(tmp_path, expected, load_script):
    chromium = load_script("tests/examples/chromium.py")
    if chromium.find() is None:
        pytest.skip("there is no Chromium")
    if shutil.which("npm") is None:
        pytest.skip("there is no npm")
    site = shutil.copytree(
        FOLDER, tmp_path / "site", ignore=shutil.ignore_patterns("node_modules", "__pycache__")
    )
    install = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts"]
    done = subprocess.run(install, cwd=site / "web", capture_output=True, text=True, timeout=600)
    if done.returncode:
        pytest.skip(f"npm does not reach its registry: {done.stderr.strip()[-300:]}")
    with chromium.served(site) as address, chromium.Page(tmp_path / "profile") as page:
        page.send("Page.navigate", url=f"{address}/web/index.html")
        status = "document.querySelector('#status')?.textContent"
        page.wait_for(f"/^Draw|does not/.test({status})")
        assert page.evaluate(status) == "Draw a digit."

        items = "[...document.querySelectorAll('#samples li')].map((item) => item.dataset.logits)"
        given = numbers("\n".join(page.evaluate(items)))
        np.testing.assert_allclose(given, expected, rtol=1e-5)

        for stroke, digit in ((circle(), 0), (SEVEN, 7)):
            page.draw("#paper", stroke)
            page.wait_for(f"{status} === 'This is a {digit}.'")
            pixels = page.evaluate("document.querySelector('#seen').dataset.pixels").split()
            logits = page.evaluate("document.querySelector('#classes').dataset.logits")
            python = run_python(",".join(["0", *pixels]))
            np.testing.assert_allclose(numbers(logits), python, rtol=1e-5)
            page.screenshot(tmp_path / f"drawn_{digit}.png")
            page.evaluate("document.querySelector('#clear').click()")
