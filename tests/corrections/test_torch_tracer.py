"""What torch's tracer keeps of the moment in which it traces."""

import torch

from qa.corrections.torch_tracer import make_dropouts_modules


class Drops(torch.nn.Module):
    def forward(self, values):
        return torch.nn.functional.dropout(values, p=0.25, training=self.training) + 1


def test_a_traced_dropout_follows_the_mode_of_its_graph():
    model = torch.nn.Sequential(torch.fx.symbolic_trace(Drops().train())).eval()
    values = torch.ones(1000)
    assert (model(values) == 1).any()  # the correction can go when this fails
    make_dropouts_modules(model)
    assert (model.eval()(values) == 2).all()
    dropped = (model.train()(values) == 1).float().mean()
    assert 0.15 < dropped < 0.35
