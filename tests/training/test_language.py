"""A language model that gets sparse: which words it has to guess, and its learning rate while sparsity grows."""

from types import SimpleNamespace

import pytest
import torch
from transformers import TrainingArguments

from qa.training.language import NOT_GUESSED, LanguageINCTrainer, last_rise, mask_tokens, rewound


def test_words_are_hidden_and_nothing_else(tokenizer):
    torch.manual_seed(0)
    ids = torch.full((200, 100), tokenizer.vocab["the"] if "the" in tokenizer.vocab else len(tokenizer) - 1)
    ids[:, 0], ids[:, 50:] = tokenizer.cls_token_id, tokenizer.pad_token_id
    inputs = {"input_ids": ids, "attention_mask": (torch.arange(100) < 50).long().expand(200, 100)}
    masked, labels = mask_tokens(inputs, tokenizer, len(tokenizer))
    guessed = labels != NOT_GUESSED
    assert not guessed[:, 0].any() and not guessed[:, 50:].any()
    assert float(guessed[:, 1:50].float().mean()) == pytest.approx(0.15, abs=0.01)
    assert torch.equal(masked["input_ids"][~guessed], ids[~guessed]) and torch.equal(labels[guessed], ids[guessed])
    seen = masked["input_ids"][guessed]
    assert float((seen == tokenizer.mask_token_id).float().mean()) == pytest.approx(0.8, abs=0.03)
    assert float((seen == ids[0, 1]).float().mean()) == pytest.approx(0.1, abs=0.03)
    torch.manual_seed(0)
    assert torch.equal(mask_tokens(inputs, tokenizer, len(tokenizer))[0]["input_ids"], masked["input_ids"])


def test_the_schedule_is_rewound_while_sparsity_grows():
    assert [rewound(step, 2, 8, 1) for step in range(12)] == [0, 1, 2, 2, 2, 2, 2, 2, 2, 3, 4, 5]
    assert [rewound(step, 2, 8, 3) for step in range(12)] == [0, 1, 2, 3, 4, 2, 3, 4, 2, 3, 4, 5]
    assert [rewound(step, 3, 3, 1) for step in range(6)] == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(("end", "every", "last"), [(29, 10, 22), (32, 10, 32), (12, 1, 12), (11, 20, 2)])
def test_the_last_rise_is_the_last_step_that_prunes(end, every, last):
    assert last_rise({"start_step": 2, "end_step": end, "pruning_frequency": every}) == last


def test_the_warmup_ends_at_its_height_before_sparsity_grows(monkeypatch):
    """Of 50 steps with a warmup of a fifth, in whose first half sparsity grows."""
    pruner = {"pruning_type": "magnitude", "start_step": 0, "end_step": 25, "pruning_frequency": 1}
    monkeypatch.setattr(LanguageINCTrainer, "_pruners", [SimpleNamespace(config=pruner)])
    trainer = object.__new__(LanguageINCTrainer)
    trainer.args = TrainingArguments("out", warmup_ratio=0.2, learning_rate=1.0, use_cpu=True, report_to=[])
    trainer.lr_scheduler = None
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = trainer.create_scheduler(50, optimizer)
    rates = []
    for _ in range(50):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert rates[:10] == pytest.approx([step / 10 for step in range(10)])
    assert rates[10:26] == [1.0] * 16
    assert rates[26:] == pytest.approx([1 - step / 25 for step in range(1, 25)])
    assert trainer.args.warmup_steps == 0
