"""Training features to batches: padding, order, and how many steps they make.

Belongs here: what decides which features are in which step of a training, on one process or several.
Does not belong here: batches for a pass without labels (`qa/models/passes.py`).
"""

import math

import torch
from torch.nn.functional import pad
from transformers.data.data_collator import pad_without_fast_tokenizer_warning
from transformers.trainer_pt_utils import get_length_grouped_indices

from qa.models.inputs import LABELS, TEACHER_TYPES
from qa.models.passes import Batches
from qa.start.errors import UsageError

# Stands for "no probability" in masked logits. Minus infinity would turn 0 * -inf into NaN in the loss.
MASKED_LOGIT = -1e9
# Training features that activation ranges are taken from.
CALIBRATION_FEATURES = 64


class FeatureCollator:
    """Pad training features, and what a teacher needs with them, to the longest of the batch or to a fixed width.

    Args:
        tokenizer: tells the input names and the padding ids; padding comes behind the tokens, as in `Batches`.
        width: tokens to pad to; the longest feature of the batch if `None`.
    """

    def __init__(self, tokenizer, width=None):
        self.tokenizer, self.width = tokenizer, width

    def __call__(self, features):
        """Return a dictionary of tensors: `(b, l)` inputs, `(b,)` labels, `(b, 2, l)` float32 `teacher_logits`."""
        names = [name for name in self.tokenizer.model_input_names if name in features[0]]
        batch = pad_without_fast_tokenizer_warning(
            self.tokenizer,
            [{name: feature[name] for name in names} for feature in features],
            padding="max_length" if self.width else "longest",
            max_length=self.width,
            padding_side="right",
            return_tensors="pt",
        )
        width = batch["input_ids"].shape[1]
        for name in filter(features[0].__contains__, LABELS):
            batch[name] = torch.tensor([feature[name] for feature in features])
        for name, filling in (("teacher_logits", MASKED_LOGIT), (TEACHER_TYPES, 0)):
            if name in features[0]:
                rows = [torch.tensor(feature[name]) for feature in features]
                batch[name] = torch.stack([pad(row, (0, width - row.shape[-1]), value=filling) for row in rows])
        return dict(batch)

    def resized(self, batch, width):
        """Return a batch with padding added, or taken away, up to `width` tokens, at least those of its longest."""
        padding = {
            "input_ids": self.tokenizer.pad_token_id,
            "token_type_ids": self.tokenizer.pad_token_type_id,
            "teacher_logits": MASKED_LOGIT,
        }
        more = width - batch["input_ids"].shape[1]
        return {
            name: values if name in LABELS else pad(values, (0, more), value=padding.get(name, 0))
            for name, values in batch.items()
        }


def calibration_batches(features, tokenizer, seed, width=None):
    """Draw the training features that activation ranges are taken from, as `Batches`.

    Args:
        features: `datasets.Dataset` of all training features.
        tokenizer, width: as in `Batches`.
        seed: of the draw.
    """
    drawn = features.shuffle(seed=seed).select(range(min(len(features), CALIBRATION_FEATURES)))
    # One batch: the observers' moving average would hardly look at the second one.
    return Batches(drawn, tokenizer, CALIBRATION_FEATURES, width)


def labels_of(features):
    """Return `(start_positions, end_positions)` of features, `(n,)` int64 arrays, or `None` where they have none."""
    if not set(LABELS) <= set(features.column_names):
        return None
    return tuple(features.with_format("numpy")[name] for name in LABELS)


def features_per_epoch(args, count):
    """Return how many of `count` training features an epoch takes.

    Args:
        args: `TrainingArguments`.
        count: all there are.
    """
    batch = args.train_batch_size * args.world_size
    step = batch * args.gradient_accumulation_steps
    if batch < step < count:
        # The loop counts whole optimizer steps in an epoch, and would carry the rest over into the next.
        return count - count % step
    return count - count % batch if args.dataloader_drop_last else count


def settle_batches(args, count):
    """Let optimizer steps take no more batches than an epoch has, with a note; parameters as in `features_per_epoch`.

    Raises:
        UsageError: it has none, since all features are dropped.
    """
    size = args.train_batch_size * args.world_size
    batches = math.ceil(features_per_epoch(args, count) / size)
    if not batches:
        raise UsageError(f"--dataloader_drop_last leaves nothing: {count} features make no batch of {size}; drop it")
    if args.gradient_accumulation_steps > batches:
        # The loop would carry the rest of a step over into the next epoch, and not into what goes on after a kill.
        steps, args.gradient_accumulation_steps = args.gradient_accumulation_steps, batches
        print(f"note: --gradient_accumulation_steps is {steps}, and an epoch has {batches} batches; {batches} is used")


def steps_per_epoch(args, count):
    """Return the optimizer steps of an epoch, as `INCTrainer` counts them; parameters as in `features_per_epoch`."""
    batches = math.ceil(features_per_epoch(args, count) / (args.train_batch_size * args.world_size))
    return max(batches // args.gradient_accumulation_steps, 1)


def steps_of_training(args, count):
    """Return `(steps_per_epoch, last_step)`, optimizer steps; parameters as in `features_per_epoch`."""
    epoch_steps = steps_per_epoch(args, count)
    last_step = args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * epoch_steps)
    return epoch_steps, last_step


def share_of_last_batch(args, count):
    """Tell which rows of its last batch in an epoch are a process's own, and what they weigh.

    Where the features do not go round, accelerate fills the batches of the last step up with features that had their
    turn before. Left out, and with the right weights, the mean of all processes' losses is that of the features left.

    Args:
        args: `TrainingArguments`.
        count: features that an epoch takes.

    Returns:
        `(rows, weight)`: the first `rows` of the batch count, and the loss of their mean with `weight`. A process with
        none to count takes one with weight 0, since all have to exchange gradients.
    """
    size, processes = args.train_batch_size, args.world_size
    left = count % (size * processes) or size * processes
    rows = min(max(left - size * args.process_index, 0), size)
    return max(rows, 1), rows * processes / left


class TrainingOrder(torch.utils.data.Sampler):
    """An order that follows from the seed and the epoch alone; where it knows lengths, similar ones are side by side.

    Args:
        args: `TrainingArguments`.
        count: features.
        lengths: tokens of each, if they are to be grouped.
    """

    def __init__(self, args, count, lengths=None):
        self.count, self.lengths, self.generator = count, lengths, torch.Generator()
        # All that goes into one optimizer step is of one length.
        self.together = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        self.seed = args.seed if args.data_seed is None else args.data_seed
        self.used = features_per_epoch(args, count)
        self.set_epoch(0)

    def __len__(self):
        return self.used

    def __iter__(self):
        if self.lengths is None:
            order = torch.randperm(self.count, generator=self.generator).tolist()
        else:
            order = get_length_grouped_indices(self.lengths, self.together, generator=self.generator)
        return iter(order[: self.used])

    def set_epoch(self, epoch):
        """Called by accelerate's data loader."""
        self.generator.manual_seed(self.seed + epoch)
