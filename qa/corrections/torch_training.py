"""torch 2.8.0 on processors: what a training step spends on dropout and attention instead of on its matrices.

Can go when `make bench` measures the same without: when torch's dropout draws its numbers as fast as it multiplies (it
takes a random double for each element, on one core), and when its attention is no slower than its parts where it has
to be differentiated (with dropout it leaves its fused form; in bf16 the fused form's own backward pass is slow). Both
together cost 24 % of a step in fp32 and 38 % of one in bf16, for minilm-squad in batches of 8.
"""

import contextlib

import torch
from torch.nn import functional

_dropout, _attention = functional.dropout, functional.scaled_dot_product_attention
# Values of the 16 bits that decide on one element.
DRAWN = 2**16


def dropout(values, p=0.5, training=True, inplace=False):
    """Zero a share of the elements at random and scale the others, as `torch.nn.functional.dropout` does.

    Four elements are decided by one draw of 64 bits, so that `p` counts to the nearest 1/65,536. The draws come from
    torch's own generator, which checkpoints hold.

    Args:
        values: float tensor; if it is not in memory of the processor, torch's own function does the work.
        p, training, inplace: those of torch, whose function also does what is nearer to nothing or all than 1/65,536.

    Returns:
        Tensor of the same shape and dtype.
    """
    dropped = round(p * DRAWN)
    if not training or not 0 < dropped < DRAWN or inplace or values.device.type != "cpu":
        return _dropout(values, p, training, inplace)
    count = values.numel()
    drawn = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)[:count]
    kept = drawn.view(values.shape) >= dropped - DRAWN // 2
    return values * kept.to(values.dtype).mul_(1.0 / (1.0 - p))


def attention(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, **others):
    """Attend to values, as `torch.nn.functional.scaled_dot_product_attention` does, in separate steps.

    Args:
        query, key, value: `(b, heads, l, size)` float tensors; if they are not in memory of the processor, or of
            several dtypes, torch's own function does the work.
        attn_mask: `(b, 1, l, l)` float, added to the scores, or `None`.
        dropout_p, is_causal, scale, others: those of torch; it also takes over where the mask is of another kind.

    Returns:
        `(b, heads, l, size)` of the same dtype.
    """
    # Not only what is differentiated at once: gradient checkpoints compute it twice, first without gradients.
    added = attn_mask is None or attn_mask.is_floating_point()
    alike = query.dtype == key.dtype == value.dtype
    if query.device.type != "cpu" or is_causal or others or not (added and alike):
        return _attention(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, **others)
    # Autocast would convert the scores to fp32 and back, for a softmax that computes in fp32 by itself.
    with torch.autocast("cpu", enabled=False):
        scores = (query * (scale or query.shape[-1] ** -0.5)) @ key.transpose(-1, -2)
        if attn_mask is not None:
            # The smallest fp32 number is none in bf16, and a row of infinities has no softmax.
            scores = scores + attn_mask.clamp(min=torch.finfo(scores.dtype).min).to(scores.dtype)
        return dropout(scores.softmax(dim=-1), dropout_p) @ value


@contextlib.contextmanager
def fast_steps():
    """Use the two functions of this module in place of torch's, wherever a model calls them, inside this context."""
    functional.dropout, functional.scaled_dot_product_attention = dropout, attention
    try:
        yield
    finally:
        functional.dropout, functional.scaled_dot_product_attention = _dropout, _attention
