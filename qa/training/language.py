"""Training of a language model that gets sparse, with its dense self as teacher.

Belongs here: the loss of such a step, and the learning rate while sparsity grows.
Does not belong here: what is around a step (`trainer.py`), and the losses between layers (`intermediate.py`).
"""

import torch

from qa.compression.intermediate import intermediate_loss, relation_loss, watch_values
from qa.compression.schedule import is_locked
from qa.training.trainer import CompressingTrainer

# Share of the tokens that a language model has to guess, and what is seen in their places (Devlin et al. 2018).
GUESSED, HIDDEN, RANDOM = 0.15, 0.8, 0.1
# Marks a token that is not to be guessed, for the models' own loss.
NOT_GUESSED = -100


def mask_tokens(inputs, tokenizer, size):
    """Hide some tokens of a batch, by the random generator of its device, which checkpoints hold.

    Args:
        inputs: dictionary of `(b, l)` int64 tensors with `input_ids` and `attention_mask`.
        tokenizer: tells the mask token, and those that are never hidden.
        size: words that the model knows.

    Returns:
        `(inputs, labels)`: new `input_ids` among them, and `(b, l)` int64, the tokens to be guessed.
    """
    ids = inputs["input_ids"]
    special = torch.isin(ids, torch.tensor(tokenizer.all_special_ids, device=ids.device))
    guessed = (torch.rand(ids.shape, device=ids.device) < GUESSED) & ~special & (inputs["attention_mask"] == 1)
    drawn, words = torch.rand(ids.shape, device=ids.device), torch.randint_like(ids, size)
    seen = torch.where(guessed & (drawn < HIDDEN), tokenizer.mask_token_id, ids)
    seen = torch.where(guessed & (drawn >= 1 - RANDOM), words, seen)
    return {**inputs, "input_ids": seen}, ids.masked_fill(~guessed, NOT_GUESSED)


def last_rise(pruner):
    """Return the step at which the sparsity of a pruner rises for the last time; `pruner` is its configuration."""
    start, every = pruner["start_step"], pruner["pruning_frequency"]
    return start + (pruner["end_step"] - start) // every * every


def rewound(step, held, end, every):
    """Return the step of a schedule of the learning rate that a step of the training takes.

    While sparsity grows the schedule comes no further: with each rise it is rewound to where it was before the first
    (Renda et al. 2020, arXiv:2003.02389). What is behind the last rise gets all the rest of it.

    Args:
        step: of the training.
        held: where the schedule was before the first rise.
        end: the step of the last rise, at least `held`.
        every: steps between two rises.
    """
    if step < held:
        return step
    return held + (step - held) % every if step < end else step - (end - held)


class LanguageINCTrainer(CompressingTrainer):
    """Prune a language model step by step (Zafrir et al. 2021, arXiv:2111.05754, section 3).

    The loss is the sum of three, each about 1 for a model that has learned nothing but is near its teacher: that of
    guessing hidden words, where there is a head for it; the difference of the hidden states of all layers, as a share
    of their variance; and the divergence of the relations of values.

    Args:
        teacher: the dense model, of the same layout.
        guesses: whether the model has a head that guesses words.
        args, kwargs: those of `CompressingTrainer`.
    """

    def __init__(self, *args, teacher, guesses, **kwargs):
        super().__init__(*args, **kwargs)
        # Without its head: what it would guess is not asked.
        self.teacher = teacher.base_model.requires_grad_(False).eval().to(self.args.device)
        self.guesses = guesses
        widths = (getattr(module, "attention_head_size", None) for module in self.model.modules())
        config = self.model.config
        self._head_width = next(filter(None, widths), config.hidden_size // config.num_attention_heads)
        self._values, self._taught_values = watch_values(self.model), watch_values(self.teacher)
        known = {"loss_hidden": True, "loss_relations": self._values is not None, "loss_language": guesses}
        self.LOSS_PARTS = tuple(name for name, computed in known.items() if computed)

    def create_scheduler(self, num_training_steps, optimizer=None):
        """Rewind the schedule while sparsity grows, as `rewound` says; a warmup comes to its end before."""
        growing = [pruner.config for pruner in self._pruners if not is_locked(pruner.config)]
        asked, warmup = self.args.warmup_steps, self.args.get_warmup_steps(num_training_steps)
        held = max([warmup, *(each["start_step"] for each in growing)])
        every = max([1, *(each["pruning_frequency"] for each in growing)])
        end = max([held, *map(last_rise, growing)])
        self.args.warmup_steps = warmup  # a share of it would be one of the steps that are left
        scheduler = super().create_scheduler(num_training_steps - (end - held), optimizer)
        self.args.warmup_steps = asked
        if hasattr(scheduler, "lr_lambdas"):
            scheduler.lr_lambdas = [
                lambda step, plain=plain: plain(rewound(step, held, end, every)) for plain in scheduler.lr_lambdas
            ]
        return scheduler

    def _loss_of(self, model, inputs):
        """Return the loss, see the class; no neuron is dropped out, since the teacher's are not either."""
        labels = None
        if self.guesses:
            inputs, labels = mask_tokens(inputs, self.tokenizer, self.model.config.vocab_size)
        model.eval()
        outputs = model(**inputs, **({"labels": labels} if self.guesses else {}), output_hidden_states=True)
        with torch.no_grad():
            taught = self.teacher(**inputs, output_hidden_states=True)
        hidden, theirs = outputs["hidden_states"], taught["hidden_states"]
        mask = inputs["attention_mask"]
        pairs = [(layer, layer) for layer in range(1, len(hidden))]
        parts = [intermediate_loss(hidden, theirs, mask, pairs, relative=True)]
        if self._values is not None:
            alike = [(layer, layer) for layer in range(len(self._values))]
            parts.append(relation_loss(self._values, self._taught_values, mask, alike, width=self._head_width))
        if self.guesses:
            # A batch may have no word to be guessed; its mean is not a number then.
            parts.append(torch.nan_to_num(outputs["loss"].float()))
        return sum(parts), parts, outputs
