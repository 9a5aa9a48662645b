"""Autoencoder attractors for uncertainty estimation; __init__.pyi lists the public names."""

from importlib.metadata import version

import lazy_loader

__version__ = version("attractor-ae")

# A name is imported when it is used: PyTorch takes seconds, and ``attractor-ae --help`` should not.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
