"""Run a TFLite file in TensorFlow Lite for Microcontrollers; run as a script.

It is a process of its own because that interpreter ends the process on an arena which is too small
for its own records. It imports nothing of keras_kd, so that it starts in a fraction of a second.

    python probe.py model.tflite arena_bytes inputs.npz input_count outputs.npz output_count

`inputs.npz` holds the inputs of one sample after the other. `outputs.npz` gets the outputs, and the
median time of a sample as `milliseconds`.
"""

from __future__ import annotations

import sys
import time

import numpy as np

if __name__ == "__main__":
    from tflite_micro import runtime

    path, arena_size, inputs_path, input_count, outputs_path, output_count = sys.argv[1:]
    try:
        interpreter = runtime.Interpreter.from_file(path, arena_size=int(arena_size))
        outputs, seconds = [], []
        with np.load(inputs_path) as inputs:
            for number in range(len(inputs.files)):
                position = number % int(input_count)
                if number and not position:
                    interpreter.reset()  # what operators keep of the sample before
                interpreter.set_input(inputs[f"arr_{number}"], position)
                if position == int(input_count) - 1:
                    start = time.perf_counter()
                    interpreter.invoke()
                    seconds.append(time.perf_counter() - start)
                    outputs += [interpreter.get_output(i) for i in range(int(output_count))]
    except (RuntimeError, ValueError, TypeError) as error:
        print(error, file=sys.stderr)
        sys.exit(3)
    np.savez(outputs_path, *outputs, milliseconds=1000.0 * np.median(seconds))
    interpreter.print_allocations()
