"""The command `keras-kd`: one file per command; nothing heavy is imported before it is needed."""

from keras_kd.cli.entry import main as main
