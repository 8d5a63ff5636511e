// Classifies a digit with TensorFlow Lite for Microcontrollers, from the C array which
// make_file.py writes (digits.h and digits.cc). Build it with the sources of
// https://github.com/tensorflow/tflite-micro for your board.
#include <cstdint>
#include <cstdio>

#include "digits.h"
#include "tensorflow/lite/micro/micro_interpreter.h"
#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"
#include "tensorflow/lite/schema/schema_generated.h"

namespace {

alignas(16) std::uint8_t arena[digits::kArenaSize];
tflite::MicroMutableOpResolver<digits::kOperatorCount> resolver;

// Returns the digit in 64 pixels, from 0 for paper to 255 for ink, or -1 if the model cannot run.
int Classify(const std::uint8_t* pixels) {
  static const bool registered = digits::RegisterOperators(resolver);
  static tflite::MicroInterpreter interpreter(tflite::GetModel(digits::kModel), resolver, arena,
                                              digits::kArenaSize);
  static const bool ready = registered && interpreter.AllocateTensors() == kTfLiteOk;
  if (!ready) return -1;

  auto* image = interpreter.typed_input_tensor<digits::Input0Type>(0);
  for (std::size_t i = 0; i < digits::kInput0Elements; ++i) image[i] = pixels[i];
  if (interpreter.Invoke() != kTfLiteOk) return -1;

  const auto* logits = interpreter.typed_output_tensor<digits::Output0Type>(0);
  int best = 0;
  for (int i = 1; i < digits::kClassCount; ++i) {
    if (logits[i] > logits[best]) best = i;
  }
  return best;
}

// Where a camera or a touch panel would be: a seven, as 8x8 pixels.
constexpr std::uint8_t kSeven[64] = {
    0, 0,   0,   0,   0,   0,   0,   0,  //
    0, 0, 200, 255, 255, 255, 120,   0,  //
    0, 0,  60,  60,  80, 255,  80,   0,  //
    0, 0,   0,   0, 160, 220,   0,   0,  //
    0, 0, 140, 255, 255, 255, 120,   0,  //
    0, 0,   0, 220, 160,   0,   0,   0,  //
    0, 0,  60, 255,  60,   0,   0,   0,  //
    0, 0,  80, 255,   0,   0,   0,   0,
};

}  // namespace

int main() {
  const int digit = Classify(kSeven);
  if (digit < 0) {
    std::printf("the model cannot run here\n");
    return 1;
  }
  std::printf("%s\n", digits::kClassNames[digit]);
  return 0;
}
