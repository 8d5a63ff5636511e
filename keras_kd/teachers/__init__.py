"""What can be a teacher."""

from keras_kd.system.names import public_names as _public_names

# The public names stand in __init__.pyi; what is not used is not imported.
__getattr__, __dir__, __all__ = _public_names(__name__, __file__)
