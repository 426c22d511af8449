"""The sample: it stays small, its data are what its script makes, and widening a model changes none of its answers."""

import importlib.util

import pytest
from conftest import SAMPLE

# All that is in the folder, the script included.
LARGEST_MB = 12
DATA = ["dev.json", "dev_v2.json", "train.json", "train_v2.json"]


@pytest.fixture(scope="module")
def make_sample():
    spec = importlib.util.spec_from_file_location("make_sample", SAMPLE / "make_sample.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_is_small():
    files = [path for path in SAMPLE.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert sum(path.stat().st_size for path in files) / 1e6 <= LARGEST_MB


def test_the_data_are_those_that_the_script_makes(make_sample, tmp_path):
    make_sample.write_data(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == DATA
    for name in DATA:
        assert (tmp_path / name).read_bytes() == (SAMPLE / name).read_bytes(), name


def test_the_models_read_the_same_tokens():
    folders = [path for path in SAMPLE.iterdir() if (path / "config.json").is_file()]
    assert len(folders) == 3
    assert len({(path / "tokenizer.json").read_bytes() for path in folders}) == 1


def test_a_widened_model_computes_the_same_but_for_the_noise(make_sample, monkeypatch):
    import torch
    from transformers import AutoModelForQuestionAnswering

    narrow = AutoModelForQuestionAnswering.from_pretrained(SAMPLE / "distilbert-qa").eval()
    shape = {**make_sample.WIDE, "n_layers": narrow.config.n_layers}
    inputs = torch.randint(5, make_sample.VOCABULARY, (2, 60), generator=torch.Generator().manual_seed(0))
    differences = []
    for parting in (0.0, make_sample.PARTING):
        monkeypatch.setattr(make_sample, "PARTING", parting)
        with torch.random.fork_rng(), torch.no_grad():
            wide = make_sample.widen(narrow, shape).eval()
            differences.append((wide(inputs).start_logits - narrow(inputs).start_logits).abs().max())
    assert wide.config.dim == 384 and wide.config.hidden_dim == 1024
    assert differences[0] < 1e-4 < differences[1]
