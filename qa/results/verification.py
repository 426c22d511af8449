"""Whether a saved model answers like the one in memory: `--verify_loading`.

Belongs here: comparing the logits of two models.
Does not belong here: loading them (`qa/models/`).
"""

import sys

from qa.models.compressed import is_torchscript
from qa.models.engine_runs import LOGITS


def verify(model, loaded, inputs, tolerance, names=LOGITS):
    """Print whether a loaded model gives the logits of the one in memory, and end the process with 1 if it does not.

    Args:
        model, loaded: callables as in `passes.predict_logits`.
        inputs: dictionary of `(b, l)` int64 tensors.
        tolerance: largest absolute difference of start and end logits that passes.
        names: of other outputs, to be compared in place of the logits.
    """
    import torch

    with torch.inference_mode():
        if is_torchscript(loaded):
            # It fuses its int8 operators after the first call, which runs without them.
            model(**inputs), loaded(**inputs)
        outputs, others = model(**inputs), loaded(**inputs)
    difference = max(
        float((torch.as_tensor(outputs[name]).float() - torch.as_tensor(others[name]).float()).abs().max())
        for name in names
    )
    what = "logit " if names == LOGITS else ""
    _conclude(f"largest {what}difference {difference:.3g}, tolerance {tolerance:.3g}", difference <= tolerance)


def verify_error(model, loaded, batches, share, name="fp32"):
    """Print how far the logits of an int8 model are from those of another, and end with 1 if it is too far.

    Args:
        model, loaded: what it was made from and the int8 model, callables as in `passes.predict_logits`.
        batches: list of dictionaries of `(b, l)` int64 tensors, padding, where a mask tells it, does not count.
        share: largest mean of the absolute differences that passes, as a share of the standard deviation of the
            logits of `model`.
        name: of `model`, for the line.
    """
    import numpy as np
    import torch

    def logits(run):
        parts = []
        for inputs in batches:
            outputs = run(**inputs)
            tokens = inputs["attention_mask"] == 1 if "attention_mask" in inputs else ...  # all of them
            parts += [np.asarray(outputs[name])[tokens] for name in LOGITS]
        return np.concatenate(parts)

    with torch.inference_mode():
        expected, found = logits(model), logits(loaded)
    error = np.abs(found - expected).mean()
    relative = error / expected.std()
    _conclude(
        f"mean logit difference to {name} {error:.3g}, {100 * relative:.2g} % of their standard deviation, tolerance "
        f"{100 * share:.2g} %",
        relative <= share,
    )


def _conclude(text, passed):
    print(f"verify_loading: {text}: {'passed' if passed else 'FAILED'}")
    if not passed:
        sys.exit(1)
