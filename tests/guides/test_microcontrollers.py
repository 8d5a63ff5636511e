"""The code of the guide to microcontrollers runs, and its C++ compiles."""

import pathlib
import re
import shutil
import subprocess

import pytest

GUIDE = pathlib.Path(__file__).parents[2] / "docs" / "guides" / "microcontrollers.md"


@pytest.mark.promise
def test_code(run_guide, tmp_path, capsys, write_micro_stubs):
    names = run_guide("microcontrollers.md")
    written = names["written"]
    assert written.arena_size == 12 * 1024
    assert names["cost"].npu_operators == names["cost"].operators > 3
    assert capsys.readouterr().out.count("AddFullyConnected") == 1
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("there is no C++ compiler")
    (code,) = re.findall(r"^```cpp\n(.*?)^```", GUIDE.read_text(), re.S | re.M)
    write_micro_stubs(tmp_path, code, written.operators)
    # An image whose largest pixel among the first ten is the seventh one.
    main = (
        "#include <cstdio>\nint main() { float image[64] = {0}; image[6] = 1.0f; "
        'std::printf("%d %s", Classify(image), model::kClassNames[6]); }\n'
    )
    (tmp_path / "firmware" / "main.cc").write_text(code + main)
    subprocess.run(
        [compiler, "-std=c++17", "-Wall", "-Wextra", "-Werror", f"-I{tmp_path}", "-o", "main",
         "main.cc", "student_model.cc"],
        cwd=tmp_path / "firmware", check=True, timeout=300,
    )  # fmt: skip
    printed = subprocess.run(
        [tmp_path / "firmware" / "main"], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    assert printed == "6 6"
