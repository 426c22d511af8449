"""DeBERTa in transformers 4.45: a dropout of its own, which tracing for quantization keeps active for good.

Can go when `transformers.models.deberta_v2.modeling_deberta_v2` has no `StableDropout` any more.
"""

import torch


def use_plain_dropout(model):
    """Put torch's own dropout in place of DeBERTa's, which drops out and scales in the same way.

    INC puts fake-quant into a graph that is traced in training mode. Of a dropout in Python code that would keep the
    training's branch for good; torch's own stays a module, which evaluation mode turns off.

    Args:
        model: the model to be trained, changed in place.
    """
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child).__name__ == "StableDropout":
                setattr(module, name, torch.nn.Dropout(child.drop_prob))
