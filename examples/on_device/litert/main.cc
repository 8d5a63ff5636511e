// Classifies digits with LiteRT's C API, as an app for Linux, Android or a desktop would.
//
//   LITERT=$(python -c "import ai_edge_litert as p; print(p.__path__[0])")
//   g++ -std=c++17 main.cc $LITERT/libLiteRt.so -Wl,-rpath,$LITERT -o classify
//   ./classify ../digits.tflite < ../digits.csv
//
// A line holds a label and 64 pixels from 0 to 255. Printed: the ten logits of every line.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <sstream>
#include <string>

#include "litert_c.h"

namespace {

constexpr int kPixels = 64;
constexpr int kClasses = 10;

void Check(int status, const char* what) {
  if (status == 0) return;
  std::fprintf(stderr, "%s failed: LiteRT status %d\n", what, status);
  std::exit(1);
}

// A buffer for one float input or output, as the compiled model wants it.
LiteRtTensorBuffer MakeBuffer(LiteRtEnvironment environment, LiteRtTensor tensor,
                              LiteRtTensorBufferRequirements requirements, int elements) {
  LiteRtRankedTensorType type;
  Check(LiteRtGetRankedTensorType(tensor, &type), "reading a tensor's type");
  int count = 1;
  for (unsigned int i = 0; i < type.rank; ++i) count *= type.dimensions[i];
  if (type.element_type != kLiteRtFloat32 || count != elements) {
    std::fprintf(stderr, "the file wants %d numbers of type %d, not %d floats\n", count,
                 type.element_type, elements);
    std::exit(1);
  }
  LiteRtTensorBuffer buffer = nullptr;
  Check(LiteRtCreateManagedTensorBufferFromRequirements(environment, &type, requirements, &buffer),
        "making a buffer");
  return buffer;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: %s digits.tflite < digits.csv\n", argv[0]);
    return 2;
  }
  LiteRtEnvironment environment = nullptr;
  LiteRtModel model = nullptr;
  LiteRtOptions options = nullptr;
  LiteRtCompiledModel compiled = nullptr;
  Check(LiteRtCreateEnvironment(0, nullptr, &environment), "starting LiteRT");
  Check(LiteRtCreateModelFromFile(environment, argv[1], &model), "reading the file");
  Check(LiteRtCreateOptions(&options), "making options");
  Check(LiteRtSetOptionsHardwareAccelerators(options, kLiteRtCpu), "choosing the CPU");
  Check(LiteRtCreateCompiledModel(environment, model, options, &compiled), "compiling the model");

  LiteRtSignature signature = nullptr;
  LiteRtTensor image = nullptr, logits = nullptr;
  LiteRtTensorBufferRequirements wanted_in = nullptr, wanted_out = nullptr;
  Check(LiteRtGetModelSignature(model, 0, &signature), "reading the signature");
  Check(LiteRtGetSignatureInputTensorByIndex(signature, 0, &image), "finding the input");
  Check(LiteRtGetSignatureOutputTensorByIndex(signature, 0, &logits), "finding the output");
  Check(LiteRtGetCompiledModelInputBufferRequirements(compiled, 0, 0, &wanted_in), "input");
  Check(LiteRtGetCompiledModelOutputBufferRequirements(compiled, 0, 0, &wanted_out), "output");
  LiteRtTensorBuffer input = MakeBuffer(environment, image, wanted_in, kPixels);
  LiteRtTensorBuffer output = MakeBuffer(environment, logits, wanted_out, kClasses);

  std::string line, field;
  while (std::getline(std::cin, line)) {
    float pixels[kPixels];
    std::istringstream fields(line);
    std::getline(fields, field, ',');  // the label
    for (float& pixel : pixels) {
      if (!std::getline(fields, field, ',')) {
        std::fprintf(stderr, "a line has fewer than %d pixels\n", kPixels);
        return 1;
      }
      pixel = std::strtof(field.c_str(), nullptr);
    }
    void* memory = nullptr;
    Check(LiteRtLockTensorBuffer(input, &memory, kLiteRtWrite), "writing the input");
    std::memcpy(memory, pixels, sizeof(pixels));
    Check(LiteRtUnlockTensorBuffer(input), "writing the input");

    Check(LiteRtRunCompiledModel(compiled, 0, 1, &input, 1, &output), "running the model");

    Check(LiteRtLockTensorBuffer(output, &memory, kLiteRtRead), "reading the output");
    const float* numbers = static_cast<const float*>(memory);
    for (int i = 0; i < kClasses; ++i) std::printf(i ? " %.6g" : "%.6g", numbers[i]);
    std::printf("\n");
    Check(LiteRtUnlockTensorBuffer(output), "reading the output");
  }
  LiteRtDestroyTensorBuffer(output);
  LiteRtDestroyTensorBuffer(input);
  LiteRtDestroyCompiledModel(compiled);
  LiteRtDestroyOptions(options);
  LiteRtDestroyModel(model);
  LiteRtDestroyEnvironment(environment);
  return 0;
}
