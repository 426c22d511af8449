"""A language model that gets sparse: which words it has to guess, and its learning rate while sparsity grows."""

import pytest
import torch

from qa.training.language import NOT_GUESSED, mask_tokens, rewound


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
