"""accelerate 1.15 as transformers 4.45.2 calls it: it hears of mixed precision through an environment variable, and
puts it into the model's own forward pass, evaluation included.

Can go when a model trained with `TrainingArguments(bf16=True)` gives fp32 logits outside of the training step, and the
next training of the same process, without `bf16`, is in fp32.
"""

import contextlib
import os

VARIABLE = "ACCELERATE_MIXED_PRECISION"


@contextlib.contextmanager
def mixed_precision(value=None):
    """Set the variable to `value`, if given, inside this context, and restore it at the end."""
    before = os.environ.get(VARIABLE)
    if value is not None:
        os.environ[VARIABLE] = value
    try:
        yield
    finally:
        os.environ.pop(VARIABLE, None)
        if before is not None:
            os.environ[VARIABLE] = before
