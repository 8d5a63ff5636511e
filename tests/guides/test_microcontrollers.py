"""The code of the guide to microcontrollers runs, and its C++ compiles."""

import pathlib
import re
import shutil
import subprocess

import pytest

GUIDE = pathlib.Path(__file__).parents[2] / "docs" / "guides" / "microcontrollers.md"

# The part of TensorFlow Lite for Microcontrollers which the guide uses: its model answers with
# what it is given, so that the numbers can be followed.
STUB = """
#pragma once
#include <cstddef>
#include <cstdint>
enum TfLiteStatus {{ kTfLiteOk = 0, kTfLiteError = 1 }};
namespace tflite {{
struct Model {{ const void* content; }};
inline const Model* GetModel(const void* content) {{
  static Model model{{content}};
  return &model;
}}
template <unsigned int N>
struct MicroMutableOpResolver {{
  unsigned int count = 0;
  TfLiteStatus Add() {{ return ++count <= N ? kTfLiteOk : kTfLiteError; }}
  {methods}
}};
struct MicroInterpreter {{
  std::uint8_t* arena;
  template <typename Resolver>
  MicroInterpreter(const Model*, const Resolver&, std::uint8_t* memory, std::size_t)
      : arena(memory) {{}}
  TfLiteStatus AllocateTensors() {{ return kTfLiteOk; }}
  TfLiteStatus Invoke() {{ return kTfLiteOk; }}
  template <typename T> T* typed_input_tensor(int) {{ return reinterpret_cast<T*>(arena); }}
  template <typename T> T* typed_output_tensor(int) {{ return reinterpret_cast<T*>(arena); }}
}};
}}
"""


def test_code(run_guide, tmp_path, capsys):
    names = run_guide("microcontrollers.md")
    written = names["written"]
    assert written.arena_size == 12 * 1024
    assert capsys.readouterr().out.count("AddFullyConnected") == 1
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("there is no C++ compiler")
    (code,) = re.findall(r"^```cpp\n(.*?)^```", GUIDE.read_text(), re.S | re.M)
    methods = "\n  ".join(
        f"TfLiteStatus {name}() {{ return Add(); }}" for name in written.operators
    )
    for name in re.findall(r'#include "(tensorflow.*)"', code):
        stub = tmp_path / name
        stub.parent.mkdir(parents=True, exist_ok=True)
        stub.write_text("#pragma once\n#include <stub.h>\n")
    (tmp_path / "stub.h").write_text(STUB.format(methods=methods))
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
