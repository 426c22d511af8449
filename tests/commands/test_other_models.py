"""Models of other layouts than the sample's, small and untrained: all that is done to one has to work."""

import json
import re

import forked_main
import numpy as np
import pytest
from conftest import SAMPLE
from small_models import bert_tokenizer, small_model

from qa.models.compressed import load_compressed
from qa.models.passes import Batches, predict_logits
from qa.questions.examples import read_examples
from qa.questions.features import dataset_of, prepare_features
from qa.start.arguments import DataTrainingArguments

pytestmark = pytest.mark.recipe

SMALL = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
LENGTHS = {"max_seq_length": 96, "doc_stride": 24}
QUESTIONS = ["--train_file", SAMPLE / "train.json", "--validation_file", SAMPLE / "dev.json", "--no_cuda", "--do_eval"]
QUESTIONS += ["--max_train_samples", 24, "--max_eval_samples", 24, "--verify_loading"]
QUESTIONS += [word for name, value in LENGTHS.items() for word in (f"--{name}", value)]
AFTER = ["run_qa_post_training.py", "--apply_quantization", "--quantization_approach"]
TRAINING = ["run_qa.py", "--do_train", "--num_train_epochs", 1, "--per_device_train_batch_size", 4]
TRAINING += ["--apply_quantization", "--apply_pruning", "--target_sparsity", 0.5]
TRAINING += ["--apply_distillation", "--generate_teacher_logits", "--teacher_model_name_or_path"]


@pytest.fixture(scope="module")
def models(tmp_path_factory, byte_tokenizer, tokenizer):
    """RoBERTa's layout has neither token types nor words of its own, DeBERTa's its own attention and dropout."""
    import torch
    from transformers import (
        DebertaV2Config,
        DebertaV2ForQuestionAnswering,
        PreTrainedTokenizerFast,
        RobertaConfig,
        RobertaForQuestionAnswering,
    )

    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    attention = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 32}
    attention |= {"share_att_key": True, "norm_rel_ebd": "layer_norm", "position_biased_input": False}
    built = {
        "roberta": RobertaForQuestionAnswering(
            RobertaConfig(vocab_size=len(byte_tokenizer), max_position_embeddings=514, type_vocab_size=1, **SMALL)
        ),
        "deberta": DebertaV2ForQuestionAnswering(
            DebertaV2Config(vocab_size=len(tokenizer), type_vocab_size=0, **attention, **SMALL)
        ),
    }
    words = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, **tokenizer.special_tokens_map)
    for (name, model), used in zip(built.items(), (byte_tokenizer, words), strict=True):
        with torch.no_grad():
            # The head of a trained model tells tokens apart.
            model.qa_outputs.weight.normal_(std=0.5)
        model.save_pretrained(folder / name)
        used.save_pretrained(folder / name)
    return folder


def verified(words, model, output_dir):
    """Run a script, which has to find its saved model equal; return what it printed."""
    words = [*words, "--model_name_or_path", model, *QUESTIONS, "--output_dir", output_dir]
    finished = forked_main.run(*words, cwd=output_dir.parent, kind="ipex" if "--use_ipex" in words else "libraries")
    assert finished.returncode == 0, finished.stderr
    assert re.search("verify_loading: .* passed", finished.stdout)
    return finished.stdout


@pytest.mark.parametrize(
    ("name", "way"),
    [
        ("roberta", "dynamic"),
        ("roberta", "static"),
        ("roberta", "static --use_ipex"),
        ("deberta", "dynamic"),
        ("deberta", "static"),
    ],
)
def test_int8_logits_are_near_the_fp32_ones(name, way, models, tmp_path):
    from transformers import AutoModelForQuestionAnswering, AutoTokenizer

    verified([*AFTER, *way.split()], models / name, tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(models / name)
    examples = dataset_of(read_examples(str(SAMPLE / "dev.json"), "dev", 24))
    features = prepare_features(examples, tokenizer, DataTrainingArguments(**LENGTHS), str(tmp_path / "cache"))
    batches = Batches(features, tokenizer, 8)
    logits = [
        np.concatenate([side[np.isfinite(side)] for side in predict_logits(model, batches)])
        for model in (
            AutoModelForQuestionAnswering.from_pretrained(models / name).eval(),
            load_compressed(tmp_path / "out"),
        )
    ]
    assert 0 < np.abs(logits[1] - logits[0]).mean() < 0.1 * logits[0].std()


@pytest.mark.parametrize("name", ["roberta", "deberta"])
def test_all_three_at_once(name, models, tmp_path):
    printed = verified([*TRAINING, models / name], models / name, tmp_path / "out")
    assert float(re.search(r"^ +sparsity += (\S+)", printed, flags=re.MULTILINE)[1]) == 0.5


@pytest.mark.parametrize(("teaches", "way"), [("distilbert", []), ("bert", ["--generate_teacher_logits"])])
def test_layouts_teach_each_other(teaches, way, tokenizer, tmp_path):
    """Each with a tokenizer that makes token types, which BERT takes and DistilBERT does not."""
    for layout in ("bert", "distilbert"):
        small_model(layout, tokenizer).save_pretrained(tmp_path / layout)
        bert_tokenizer(tokenizer).save_pretrained(tmp_path / layout)
    learns = {"bert": "distilbert", "distilbert": "bert"}[teaches]
    words = ["run_qa.py", "--do_train", "--num_train_epochs", 1, "--apply_distillation", *way]
    words += ["--apply_quantization", "--teacher_model_name_or_path", tmp_path / teaches]
    printed = verified(words, tmp_path / learns, tmp_path / "out")
    assert "eval_f1" in printed
    # The tokenizer goes on as it came.
    rules = [json.loads((tmp_path / name / "tokenizer.json").read_text(encoding="utf-8")) for name in (learns, "out")]
    assert rules[0] == rules[1]
