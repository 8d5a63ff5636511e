"""What `import keras_kd` costs beside `import keras`: fresh processes in turn."""

import subprocess
import sys

from side_by_side import compare

CODE = "import time; start = time.perf_counter(); import {}; print(time.perf_counter() - start)"


def import_seconds(module):
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(module)], capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def main():
    import_seconds("keras")  # the first one reads the files from disk
    compare(
        "`import keras_kd`",
        "`import keras`",
        lambda: import_seconds("keras_kd"),
        lambda: import_seconds("keras"),
        1.05,
        11,
    )


if __name__ == "__main__":
    main()
