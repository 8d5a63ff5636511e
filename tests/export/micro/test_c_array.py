"""The C++ files say what the TFLite file says, to a C++ compiler too."""

import errno
import hashlib
import json
import pathlib
import re
import shutil
import subprocess
import zlib

import numpy as np
import pytest

from keras_kd.export.micro.c_array import export_c_array
from keras_kd.export.micro.operators import CUSTOM_METHODS, METHODS
from keras_kd.export.micro.source import float_literal, literal

REFERENCE = pathlib.Path(__file__).parents[3] / "exports" / "reference" / "seed0" / "int8.tflite"


@pytest.fixture
def model(tmp_path):
    return pathlib.Path(shutil.copy(REFERENCE, tmp_path / "student.tflite"))


def write_json(model, **facts):
    model.with_name(model.name + ".json").write_text(json.dumps(facts))


PROGRAM = """
#include <cmath>
#include <cstdio>
#include <cstring>
#include <type_traits>
#include "student.h"

// What TensorFlow Lite for Microcontrollers offers, without its kernels.
enum TfLiteStatus {{ kTfLiteOk = 0, kTfLiteError = 1 }};
template <unsigned int N>
struct MicroMutableOpResolver {{
  unsigned int count = 0;
  const char* names[N];
  TfLiteStatus Add(const char* name) {{
    if (count >= N) return kTfLiteError;
    names[count++] = name;
    return kTfLiteOk;
  }}
  {methods}
}};

int main() {{
  static_assert(std::is_same<student::Input0Type, float>::value, "type");
  static_assert(student::kInputCount == 1 && student::kOutputCount == 1, "counts");
  static_assert(student::kInput0Elements == 28 * 28, "elements");
  static_assert(student::kOutput0Rank == 2 && student::kOutput0Shape[1] == 10, "shape");
  alignas(16) static unsigned char arena[student::kArenaSize];
  std::memset(arena, 0, sizeof(arena));
  if (reinterpret_cast<std::size_t>(student::kModel) % 16 + arena[0] != 0) return 1;
  MicroMutableOpResolver<student::kOperatorCount> resolver;
  if (!student::RegisterOperators(resolver)) return 2;
  if (resolver.count != student::kOperatorCount) return 3;
  MicroMutableOpResolver<student::kOperatorCount - 1> small;
  if (student::RegisterOperators(small)) return 4;
  for (unsigned int i = 0; i < resolver.count; ++i) std::printf("%s ", resolver.names[i]);
  std::printf("\\n%zu %u %zu\\n", student::kModelSize, student::kModelCrc32, student::kArenaSize);
  for (int i = 0; i < student::kClassCount; ++i) std::printf("%s|", student::kClassNames[i]);
  std::printf("\\n");
  std::fwrite(student::kModel, 1, student::kModelSize, stdout);
  return 0;
}}
"""


def compile_and_run(folder, program):
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("there is no C++ compiler")
    (folder / "main.cc").write_text(program)
    flags = ["-std=c++11", "-Wall", "-Wextra", "-Werror", "-pedantic", "-O0"]
    subprocess.run(
        [compiler, *flags, "main.cc", "student.cc", "-o", "main"],
        cwd=folder, check=True, timeout=300,
    )  # fmt: skip
    return subprocess.run([folder / "main"], capture_output=True, check=True, timeout=60).stdout


def test_a_program_reads_back_the_file(model, tmp_path):
    names = ["T-shirt/top", 'a "quoted" \\ name', "Ärmel??/", "7", "line\nbreak", *"abcde"]
    content = model.read_bytes()
    write_json(model, class_names=names, sha256=hashlib.sha256(content).hexdigest())
    written = export_c_array(model, trial=False)
    methods = "\n  ".join(
        f'TfLiteStatus {name}() {{ return Add("{name}"); }}'
        for name in (*METHODS.values(), *CUSTOM_METHODS.values())
    )
    printed = compile_and_run(tmp_path, PROGRAM.format(methods=methods))
    head, array = printed[: -len(content)].decode(), printed[-len(content) :]
    operators, sizes, classes = head.split("\n", 2)
    assert array == content
    assert operators.split() == list(written.operators)
    assert written.operators == (
        "AddAdd", "AddConv2D", "AddDequantize", "AddFullyConnected", "AddMean", "AddQuantize",
    )  # fmt: skip
    assert sizes.split() == [
        str(len(content)), str(zlib.crc32(content)), str(written.arena_size),
    ]  # fmt: skip
    assert classes.rstrip("\n").split("|")[:-1] == names


def test_a_header_of_another_file_does_not_compile(model, tmp_path):
    export_c_array(model, trial=False)
    header = tmp_path / "student.h"
    header.write_text(re.sub(r"kModelCrc32 = \w+;", "kModelCrc32 = 1u;", header.read_text()))
    with pytest.raises(subprocess.CalledProcessError):
        compile_and_run(tmp_path, '#include "student.h"\nint main() {}')


def test_names_and_places(model, tmp_path):
    written = export_c_array(model, trial=False)
    assert (written.header, written.source) == (tmp_path / "student.h", tmp_path / "student.cc")
    assert (written.name, written.bytes) == ("student", model.stat().st_size)
    written = export_c_array(model, tmp_path / "firmware" / "2-Wörter net.cpp", trial=False)
    assert written.source == tmp_path / "firmware" / "2-Wörter net.cpp"
    assert written.header == tmp_path / "firmware" / "2-Wörter net.h"
    assert written.name == "model_2_w_rter_net"
    assert f"namespace {written.name} {{" in written.header.read_text()
    assert '#include "2-Wörter net.h"' in written.source.read_text()
    assert export_c_array(model, tmp_path / "int", trial=False).name == "model_int"
    assert export_c_array(model, tmp_path / "b.h", name="Net1", trial=False).name == "Net1"


@pytest.mark.parametrize("name", ["", "1a", "a b", "a-b", "ä", "namespace", "a__b", "tflite", 3])
def test_a_name_must_be_a_namespace(model, name):
    with pytest.raises(ValueError, match="`name`"):
        export_c_array(model, name=name, trial=False)


@pytest.mark.parametrize("size", [0, -1, 1.5, True, "1k"])
def test_an_arena_size_must_be_a_number_of_bytes(model, size):
    with pytest.raises(ValueError, match=r"`arena_size`.*Received"):
        export_c_array(model, arena_size=size, trial=False)


def test_a_given_arena_size_is_kept(model):
    written = export_c_array(model, arena_size=51234, trial=False)
    assert written.arena_size == 51234
    assert "kArenaSize = 51234;" in written.header.read_text()


def test_without_a_trial_the_arena_is_called_an_estimate(model):
    written = export_c_array(model, trial=False)
    assert written.arena_bytes is None
    assert written.max_difference is written.largest_difference is None
    assert "ESTIMATE" in written.header.read_text()
    assert 44416 <= written.arena_size <= 1.3 * 44416  # 44,416 is what the library asked for


def test_other_files_are_left_alone(model, tmp_path):
    mine = tmp_path / "student.cc"
    mine.write_text("int main() {}")
    with pytest.raises(FileExistsError, match="was not written by export_c_array"):
        export_c_array(model, trial=False)
    assert mine.read_text() == "int main() {}"
    assert not (tmp_path / "student.h").exists()
    mine.unlink()
    first = export_c_array(model, trial=False)
    again = export_c_array(model, arena_size=60000, trial=False)
    assert first.header == again.header and "60000" in again.header.read_text()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["student.cc", "student.h", model.name]


def test_where_it_cannot_write(model, tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError, match=r"`out_path` .* is a folder"):
        export_c_array(model, tmp_path / "folder", trial=False)
    with pytest.raises(ValueError, match=r"`out_path` must end in \.h, \.cc or \.cpp"):
        export_c_array(model, tmp_path / "model.txt", trial=False)
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="is a file, and a folder was expected"):
        export_c_array(model, tmp_path / "file" / "model", trial=False)
    with pytest.raises(FileNotFoundError, match="There is no file"):
        export_c_array(tmp_path / "none.tflite", trial=False)


def test_on_a_full_disk_nothing_is_changed(model, tmp_path, monkeypatch):
    written = export_c_array(model, trial=False)
    before = written.header.read_text(), written.source.read_text()
    write_text = pathlib.Path.write_text

    def full(self, text, *arguments, **named):
        if self.suffix == ".cc":
            write_text(self, text[:100])
            raise OSError(errno.ENOSPC, "No space left on device")
        return write_text(self, text, *arguments, **named)

    monkeypatch.setattr(pathlib.Path, "write_text", full)
    with pytest.raises(OSError, match=r"^Cannot write '\S*student\.cc': [^']*'\S*' \("):
        export_c_array(model, arena_size=70000, trial=False)
    assert (written.header.read_text(), written.source.read_text()) == before
    assert len(list(tmp_path.iterdir())) == 3


def test_class_names_of_another_file_are_not_used(model):
    write_json(model, class_names=["a", "b"], sha256="0" * 64)
    with pytest.warns(UserWarning, match="describes another file"):
        written = export_c_array(model, trial=False)
    assert "kClassNames" not in written.header.read_text()
    write_json(model, class_names=["a", "b"])
    with pytest.warns(UserWarning, match=r"2 class names, .* 10 classes"):
        written = export_c_array(model, trial=False)
    assert "kClassNames" not in written.header.read_text()


def test_given_class_names_are_taken(model):
    written = export_c_array(model, class_names=[f"class {i}" for i in range(10)], trial=False)
    assert "constexpr int kClassCount = 10;" in written.header.read_text()
    assert '"class 9",' in written.source.read_text()
    with pytest.raises(ValueError, match="`class_names` must be a list of strings"):
        export_c_array(model, class_names=[1, 2], trial=False)
    with pytest.raises(ValueError, match="`class_names` must be a list of strings"):
        export_c_array(model, class_names="cat", trial=False)
    with pytest.raises(ValueError, match=r"2 class names, .* 10 classes"):
        export_c_array(model, class_names=["a", "b"], trial=False)


def test_literals():
    assert literal('a"\\?\n é') == '"a\\"\\\\\\?\\012 \\303\\251"'
    for number in (0.1, 1 / 255, 3e-38, 1.0, 123456789.0):
        text = float_literal(number)
        assert text.endswith("f") and np.float32(text[:-1]) == np.float32(number)
