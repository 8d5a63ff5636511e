"""What `import keras_kd` costs beside `import keras`: fresh processes in turn, medians."""

import json
import statistics
import subprocess
import sys

ROUNDS = 7
CODE = "import time; start = time.perf_counter(); import {}; print(time.perf_counter() - start)"


def seconds(module):
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(module)], capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def main():
    seconds("keras")  # the first one reads the files from disk
    times = {"keras": [], "keras_kd": []}
    for _ in range(ROUNDS):
        for module, measured in times.items():
            measured.append(seconds(module))
    medians = {module: statistics.median(measured) for module, measured in times.items()}
    ratio = medians["keras_kd"] / medians["keras"]
    print(f"import keras_kd {medians['keras_kd']:.2f} s, import keras {medians['keras']:.2f} s")
    print(json.dumps({"import": {"ratio": round(ratio, 3), "bound": 1.05, "rounds": ROUNDS}}))


if __name__ == "__main__":
    main()
