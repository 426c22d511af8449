"""IPEX 2.8.0, as neural-compressor 3.7.1 imports it: always, where it is installed, and with torch's whole compiler.

Can go when `python -X importtime -c "import neural_compressor.training"` shows no `intel_extension_for_pytorch`.
"""

import contextlib
import sys


@contextlib.contextmanager
def without_ipex(hidden=True):
    """Import INC inside this context without IPEX, which it imports wherever it is installed.

    IPEX brings torch's compiler along: 2 s, and 1,500 modules, that nothing but a model on IPEX needs.

    Args:
        hidden: false where such a model is what is wanted; nothing happens then.
    """
    name = "intel_extension_for_pytorch"
    hidden = hidden and name not in sys.modules
    if hidden:
        sys.modules[name] = None  # Python's own way to say that there is none
    try:
        yield
    finally:
        if hidden:
            del sys.modules[name]
