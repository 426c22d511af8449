"""Heads and channels that are taken out: the right ones and nothing else, in a model that transformers loads."""

import copy

import pytest
import torch
import transformers
from transformers import AutoModelForQuestionAnswering

from qa.compression import slimming
from qa.compression.slimming import Cut, check_can_be_slimmed, choose, costs, cut, importance, slim
from qa.start.errors import UsageError

SMALL = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 128}
CONFIGS = {
    "bert": transformers.BertConfig,
    "roberta": transformers.RobertaConfig,
    "electra": transformers.ElectraConfig,
    "distilbert": transformers.DistilBertConfig,
    "mpnet": transformers.MPNetConfig,
    "camembert": transformers.CamembertConfig,
    "xlm-roberta": transformers.XLMRobertaConfig,
}
WITH_HEADS = [kind for kind in CONFIGS if kind != "mpnet"]


def built(kind):
    """A small model with weights large enough that each head matters."""
    sizes = SMALL
    if kind == "distilbert":
        sizes = {"dim": 64, "n_layers": 3, "n_heads": 4, "hidden_dim": 128}
    torch.manual_seed(0)
    config = CONFIGS[kind](vocab_size=100, max_position_embeddings=64, **sizes)
    model = AutoModelForQuestionAnswering.from_config(config)
    with torch.no_grad():
        for weights in model.parameters():
            weights.add_(0.1 * torch.randn_like(weights))
    return model.eval()


@pytest.fixture
def batches():
    generator = torch.Generator().manual_seed(1)

    def drawn(low, high, *shape):
        return torch.randint(low, high, shape, generator=generator)

    return [
        {
            "input_ids": drawn(5, 100, 4, 20),
            "attention_mask": torch.ones(4, 20, dtype=torch.long),
            "start_positions": drawn(0, 20, 4),
            "end_positions": drawn(0, 20, 4),
        }
        for _ in range(3)
    ]


def logits(model, batch):
    with torch.no_grad():
        outputs = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    return torch.stack((outputs["start_logits"], outputs["end_logits"]))


def with_zeros(model, chosen):
    """A copy of a whole model, in which no operator hears of the heads and channels that go."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        for layer, heads, staying in zip(slimming._layers(model), *chosen, strict=True):
            layer["joined"].weight.unflatten(1, (4, 16))[:, heads] = 0.0
            layer["second"].weight[:, [channel for channel in range(128) if channel not in staying]] = 0.0
    return model


@pytest.mark.parametrize("kind", CONFIGS)
def test_what_is_left_answers_as_the_whole_model_with_zeros(kind, batches, tmp_path):
    heads = 0.5 if kind in WITH_HEADS else 0.0
    model = built(kind)
    chosen = choose(model, heads, 0.5, importance(model, batches))
    expected = logits(with_zeros(model, chosen), batches[1])
    assert (expected - logits(model, batches[1])).abs().max() > 0.01, "what goes should matter"
    before, after = slim(model, heads, 0.5, batches)
    torch.testing.assert_close(logits(model, batches[1]), expected, atol=1e-5, rtol=0)
    assert before["heads"] == 12 and before["feed-forward channels"] == 384
    assert after["heads"] == (6 if heads else 12) and after["feed-forward channels"] == 192
    # Four square matrices of the attention and two four times as wide; the head of two rows stays.
    attention, feed_forward = 3 * 4 * 64 * 64, 3 * 2 * 64 * 128
    gone = heads * attention + 0.5 * feed_forward
    difference = before["linear operations a token, millions"] - after["linear operations a token, millions"]
    assert difference * 1e6 == pytest.approx(gone)

    model.save_pretrained(tmp_path)
    loaded = AutoModelForQuestionAnswering.from_pretrained(tmp_path).eval()
    assert torch.equal(logits(loaded, batches[1]), logits(model, batches[1]))
    assert {layer: sorted(gone) for layer, gone in loaded.config.pruned_heads.items()} == {
        layer: gone for layer, gone in enumerate(chosen.heads) if gone
    }
    assert getattr(loaded.config, "hidden_dim" if kind == "distilbert" else "intermediate_size") == 64
    # And once more, from what was loaded.
    slim(loaded, heads, 0.5, batches)
    assert costs(loaded)["heads"] == (3 if heads else 12) and costs(loaded)["feed-forward channels"] == 96
    loaded.save_pretrained(tmp_path / "twice")
    twice = AutoModelForQuestionAnswering.from_pretrained(tmp_path / "twice").eval()
    assert torch.equal(logits(twice, batches[1]), logits(loaded, batches[1]))


def test_transformers_cannot_run_mpnet_with_fewer_heads(batches):
    model = built("mpnet")
    cut(model, Cut([[0], [], []], [list(range(128))] * 3))
    with pytest.raises(RuntimeError, match="size of tensor"):
        logits(model, batches[0])


def test_importance_is_the_squared_slope_of_the_loss(batches):
    model = built("bert").double()
    of_heads, of_channels = importance(model, batches[:1])
    layer = slimming._layers(model)[1]
    step = 1e-5

    def slopes(columns):
        """Of each example's loss when the columns of an operator grow by one."""
        found = []
        for row in range(4):
            one = {name: values[row : row + 1] for name, values in batches[0].items()}
            losses = []
            for sign in (1, -1):
                columns.mul_(1 + sign * step)
                losses.append(float(model(**one)["loss"]))
                columns.div_(1 + sign * step)
            found.append((losses[0] - losses[1]) / (2 * step))
        return torch.tensor(found, dtype=torch.float64)

    with torch.no_grad():
        head = slopes(layer["joined"].weight[:, 32:48])
        channel = slopes(layer["second"].weight[:, 7:8])
    assert float(of_heads[1][2]) == pytest.approx(float(head.square().sum()), rel=1e-4)
    assert float(of_channels[1][7]) == pytest.approx(float(channel.square().sum()), rel=1e-4)


def test_the_least_go_and_each_layer_keeps_a_head():
    model = built("bert")
    of_heads = [torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([9.0, 5.0, 9.0, 9.0]), torch.full((4,), 20.0)]
    of_channels = [torch.arange(128.0), -torch.arange(128.0), torch.arange(128.0)]
    chosen = choose(model, 5 / 12, 0.75, (of_heads, of_channels))
    assert chosen.heads == [[0, 1, 2], [0, 1], []]
    assert chosen.channels == [list(range(96, 128)), list(range(32)), list(range(96, 128))]
    chosen = choose(model, 0.99, 0.99, (of_heads, of_channels))
    assert [len(gone) for gone in chosen.heads] == [3, 3, 3]
    assert [len(staying) for staying in chosen.channels] == [32, 32, 32]


def test_the_cut_of_a_checkpoint_is_taken_over(batches, tmp_path):
    model = built("electra")
    slim(model, 0.5, 0.25, batches)
    model.config.save_pretrained(tmp_path)
    again = built("electra")
    slim(again, 0.5, 0.25, batches[::-1][:1], checkpoint=tmp_path)
    assert again.config.pruned_heads == model.config.pruned_heads
    # The weights come from the checkpoint; they have to fit.
    again.load_state_dict(model.state_dict())
    assert torch.equal(logits(again, batches[0]), logits(model, batches[0]))
    with pytest.raises(UsageError, match="another cut"):
        slim(built("electra"), 0.5, 0.5, batches, checkpoint=tmp_path)
    with pytest.raises(UsageError, match="no config"):
        slim(built("electra"), 0.5, 0.5, batches, checkpoint=tmp_path / "none")


def test_a_layer_that_was_not_cut_is_named(batches, monkeypatch):
    whole = slimming.prune_linear_layer

    def forgetful(operator, index, dim):
        return operator if dim == 1 else whole(operator, index, dim)

    monkeypatch.setattr(slimming, "prune_linear_layer", forgetful)
    with pytest.raises(UsageError, match=r"bert\.encoder\.layer\.0\.output\.dense .* 128 channels and not 64"):
        slim(built("bert"), 0.0, 0.5, batches)


def test_a_cut_that_changes_anything_else_is_refused(batches, monkeypatch):
    whole = slimming.prune_linear_layer

    def shuffled(operator, index, dim):
        return whole(operator, index.flip(0) if dim == 1 else index, dim)

    monkeypatch.setattr(slimming, "prune_linear_layer", shuffled)
    with pytest.raises(UsageError, match="other logits"):
        slim(built("bert"), 0.0, 0.5, batches)


@pytest.mark.parametrize(
    ("config", "heads", "named"),
    [
        (transformers.AlbertConfig(), 0.0, ["albert", "--prune_ffn"]),
        (transformers.DebertaConfig(), 0.5, ["deberta", "--prune_heads"]),
        (transformers.DebertaV2Config(), 0.5, ["deberta-v2", "bert, "]),
        (transformers.MPNetConfig(), 0.5, ["mpnet", "--prune_heads", "--prune_ffn works"]),
    ],
)
def test_what_cannot_be_cut_is_refused(config, heads, named):
    with pytest.raises(UsageError) as refused:
        check_can_be_slimmed(config, heads, "some/model")
    assert all(word in str(refused.value) for word in ["some/model", *named])


def test_mpnet_keeps_its_heads_and_loses_channels():
    assert check_can_be_slimmed(transformers.MPNetConfig(), 0.0, "some/model") is None
