"""Arguments of `TrainingArguments` that are said to work change the weights that come out."""

import pytest
from test_looking import train
from test_resume import differences

# What each changes in a training of a few steps, whose features have all their turn once.
EFFECTS = {
    "optimizer": ("--optim", "sgd"),
    "moments": ("--adam_beta1", "0.5"),
    "decay": ("--weight_decay", "0.5"),
    "clipping": ("--max_grad_norm", "0.01"),
    "schedule": ("--lr_scheduler_type", "cosine"),
    "schedule by a score": (
        *("--lr_scheduler_type", "reduce_lr_on_plateau", "--do_eval", "--eval_strategy", "steps", "--eval_steps", "1"),
        *("--metric_for_best_model", "f1", "--lr_scheduler_kwargs", '{"mode": "max", "patience": 0}'),
    ),
    "warmup": ("--warmup_ratio", "0.5"),
    "accumulation": ("--gradient_accumulation_steps", "2"),
    "order": ("--data_seed", "1"),
    "order by length": ("--group_by_length", "false"),
    "noise": ("--neftune_noise_alpha", "5"),
}

pytestmark = pytest.mark.recipe


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("effects") / "plain"
    train(folder, "--save_strategy", "no")
    return folder


@pytest.mark.parametrize("effect", EFFECTS)
def test_what_works_has_an_effect(effect, plain, tmp_path):
    train(tmp_path / "changed", "--save_strategy", "no", *EFFECTS[effect])
    assert differences(plain, tmp_path / "changed")
