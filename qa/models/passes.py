"""Features through a model: batches in, logits out.

Belongs here: forming batches of features, and the one loop of forward passes for every kind of model (fp32, FX int8,
TorchScript, those of other engines).
Does not belong here: training, and how answers follow from logits (`qa/questions/answers.py`).
"""

import numpy as np
import pyarrow.compute as pc
from tqdm.auto import tqdm

from qa.models.compressed import is_torchscript
from qa.models.engine_runs import LOGITS
from qa.start.distributed import add_up, own_share


class Batches:
    """Padded batches of model inputs, read from the features' Arrow columns as they are asked for.

    Args:
        features: `datasets.Dataset` from `prepare_features`.
        tokenizer: tells the input names and the padding ids. Padding comes behind the tokens, whatever its side: in
            front of them it would move the positions that most layouts count from the first column.
        batch_size: most features in a batch.
        width: tokens to pad every batch to; the longest of each batch if `None`; 0 to pad none, and to put features of
            one length together.
        multiple: round the longest up to a multiple of this, so that an engine meets few shapes.
        longest: but not above this.
    """

    def __init__(self, features, tokenizer, batch_size, width=None, multiple=1, longest=None):
        names = [name for name in tokenizer.model_input_names if name in features.column_names]
        self.columns = features.select_columns(names).with_format("arrow")
        self.padding = {"input_ids": tokenizer.pad_token_id, "token_type_ids": tokenizer.pad_token_type_id}
        self.lengths = pc.list_value_length(self.columns["input_ids"]).to_numpy()
        self.batch_size, self.width, self.multiple, self.longest = batch_size, width, multiple, longest

    def by_length(self):
        """Yield row numbers batch by batch, the longest features first: what is too large fails at once."""
        order = np.argsort(-self.lengths, kind="stable")
        alike = [order]
        if self.width == 0:
            alike = np.split(order, np.flatnonzero(np.diff(self.lengths[order])) + 1)
        for rows in alike:
            for begin in range(0, len(rows), self.batch_size):
                yield rows[begin : begin + self.batch_size]

    def token_mask(self, rows):
        """Return `(b, width)` bool: where the batch of `rows` holds tokens and not padding."""
        lengths = self.lengths[rows][:, None]
        width, longest = self.width, int(lengths.max())
        if width is None:
            rounded = -(-longest // self.multiple) * self.multiple
            width = max(min(rounded, self.longest or rounded), longest)
        return np.arange(width or longest) < lengths

    def inputs(self, rows):
        """Return the batch of `rows` as a dictionary of `(b, width)` int64 tensors."""
        import torch

        return {name: torch.from_numpy(array) for name, array in self.arrays(rows).items()}

    def arrays(self, rows):
        """Return the batch of `rows` as a dictionary of `(b, width)` int64 arrays."""
        mask = self.token_mask(rows)
        batch = {}
        table = self.columns[rows]
        for name in table.column_names:
            padded = np.full(mask.shape, self.padding.get(name, 0), dtype=np.int64)
            padded[mask] = pc.list_flatten(table[name]).to_numpy()
            batch[name] = padded
        return batch


def forward_passes(model, batches, device="cpu", desc="Evaluating", chosen=None):
    """Run a model over features, similar lengths together, without gradients.

    Args:
        model: callable with the tokenizer's inputs as keywords, in evaluation mode, that returns a mapping with
            `start_logits` and `end_logits`, tensors or arrays.
        batches: `Batches`.
        device: where the inputs go.
        desc: label of the progress bar.
        chosen: iterable of row numbers, batch by batch; all of `batches.by_length()` if `None`.

    Yields:
        `(rows, mask, logits)`: the b features of the batch, `(b, width)` bool where they have tokens, and a dictionary
        of `start_logits` and `end_logits`, `(b, width)` float32 arrays.
    """
    chosen = list(batches.by_length() if chosen is None else chosen)
    progress = tqdm(total=sum(map(len, chosen)), desc=desc, unit="feature", delay=2)
    takes_arrays = getattr(model, "takes_arrays", False)
    if not takes_arrays and is_torchscript(model):
        # The first call of a loaded graph runs before its int8 operators are fused, with other roundings.
        _logits_of_torch(model, batches, next(batches.by_length()), device)
    for rows in chosen:
        logits = model(**batches.arrays(rows)) if takes_arrays else _logits_of_torch(model, batches, rows, device)
        yield rows, batches.token_mask(rows), logits
        progress.update(len(rows))
    progress.close()


def _logits_of_torch(model, batches, rows, device):
    import torch

    with torch.inference_mode():
        outputs = model(**{name: values.to(device) for name, values in batches.inputs(rows).items()})
        return {name: torch.as_tensor(outputs[name]).float().cpu().numpy() for name in LOGITS}


def predict_logits(model, batches, device="cpu", desc="Evaluating"):
    """Collect the logits of all features, of which each process of a run computes its share.

    Args:
        model, batches, device, desc: as in `forward_passes`.

    Returns:
        `(start_logits, end_logits)`, each `(n, l)` float32 with `l` the longest feature, in the features' own order;
        position `i` is token `i`, and what lies behind the last token of a feature is -inf.
    """
    shape = (len(batches.lengths), int(batches.lengths.max()))
    results = {name: np.zeros(shape, dtype=np.float32) for name in LOGITS}
    tokens = np.arange(shape[1]) < batches.lengths[:, None]
    for rows, mask, logits in forward_passes(model, batches, device, desc, own_share(batches.by_length())):
        for name, result in results.items():
            aligned = np.zeros((len(rows), shape[1]), dtype=np.float32)
            aligned[tokens[rows]] = logits[name][mask]
            result[rows] = aligned
    for name, result in results.items():
        # What other processes have computed is zero here, and the other way round.
        results[name] = add_up(result)
        results[name][~tokens] = -np.inf
    return results["start_logits"], results["end_logits"]
