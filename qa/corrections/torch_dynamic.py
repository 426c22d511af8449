"""torch 2.8.0: its dynamic int8 operators round activations to 7 bits on every processor.

The eighth bit is left out for processors without VNNI, which would clip sums of products of 8 bits. With it the logits
of minilm-squad are 6.3 % of their standard deviation from the fp32 ones, without it 11.6 %.

Can go when `torch.ao.nn.quantized.dynamic.Linear` takes 8 bits by itself where the processor has VNNI.
"""

import contextlib

from torch.ao.nn.quantized import dynamic

# Of the operator as it was, and is still loaded, when it took 8 bits.
VERSION = 3


@contextlib.contextmanager
def eight_bits(wanted):
    """Let dynamic linear operators that are made, and saved, inside this context round activations to 8 bits.

    The state of a model holds the version of its operators, so that whoever loads it has the same 8 bits.

    Args:
        wanted: change nothing unless it is true.
    """
    plain, version = dynamic.Linear.__init__, dynamic.Linear._version

    def init(operator, *args, **kwargs):
        plain(operator, *args, **kwargs)
        operator.version = VERSION

    if wanted:
        dynamic.Linear.__init__, dynamic.Linear._version = init, VERSION
    try:
        yield
    finally:
        dynamic.Linear.__init__, dynamic.Linear._version = plain, version
