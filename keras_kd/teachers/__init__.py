"""What may stand as the teacher."""

import lazy_loader as _lazy_loader

# The public names stand in __init__.pyi; what is not used is not imported.
__getattr__, __dir__, __all__ = _lazy_loader.attach_stub(__name__, __file__)
