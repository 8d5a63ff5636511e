// The part of TensorFlow Lite for Microcontrollers which our C++ uses; its sources are on no package
// registry. The model answers with what it is given, from the first output on, so that the numbers can
// be followed.
#pragma once
#include <cstddef>
#include <cstdint>

enum TfLiteStatus { kTfLiteOk = 0, kTfLiteError = 1 };

namespace tflite {

struct Model {
  const void* content;
};

inline const Model* GetModel(const void* content) {
  static Model model{content};
  return &model;
}

template <unsigned int N>
struct MicroMutableOpResolver {
  unsigned int count = 0;
  TfLiteStatus Add() { return ++count <= N ? kTfLiteOk : kTfLiteError; }
  METHODS
};

struct MicroInterpreter {
  std::uint8_t* arena;
  template <typename Resolver>
  MicroInterpreter(const Model*, const Resolver&, std::uint8_t* memory, std::size_t)
      : arena(memory) {}
  TfLiteStatus AllocateTensors() { return kTfLiteOk; }
  TfLiteStatus Invoke() { return kTfLiteOk; }
  template <typename T>
  T* typed_input_tensor(int) {
    return reinterpret_cast<T*>(arena);
  }
  template <typename T>
  T* typed_output_tensor(int) {
    return reinterpret_cast<T*>(arena) + FIRST_OUTPUT;
  }
};

}  // namespace tflite
