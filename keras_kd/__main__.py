"""`python -m keras_kd` is the command `keras-kd`."""

import sys

from keras_kd.cli import main

sys.exit(main())
