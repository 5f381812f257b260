"""excise: find the direction a behaviour takes inside a language model, and remove it from the weights.

The command line is `excise`; as a library, start from `excise.app`. Importing this package is light:
PyTorch and transformers are imported by the modules that need them.
"""

__version__ = "0.1.0"
