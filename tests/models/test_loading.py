"""Models and tokenizers that people bring: what can be made of them is made, and the rest is said in our words."""

import json
import logging

import pytest
import torch
from conftest import SAMPLE
from safetensors.torch import load_file, save_file
from small_models import bert_tokenizer, small_model

from qa.models import loading
from qa.models.loading import load_config_and_tokenizer, load_model, load_teacher_config_and_tokenizer
from qa.questions.examples import read_examples
from qa.start.arguments import ModelArguments
from qa.start.errors import UsageError


def saved(folder, model, tokenizer):
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return ModelArguments(str(folder))


def change_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config = {name: value for name, value in {**config, **changes}.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


@pytest.mark.parametrize("layout", ["bert", "distilbert", "roberta"])
def test_a_classifier_of_three_labels_gets_a_new_head_of_two(layout, tokenizer, tmp_path, capsys):
    from transformers import AutoModelForSequenceClassification

    used = bert_tokenizer(tokenizer)
    config = small_model(layout, used).config
    config.num_labels, config.problem_type = 3, "single_label_classification"
    model_args = saved(tmp_path, AutoModelForSequenceClassification.from_config(config), used)
    config, _ = load_config_and_tokenizer(model_args)
    model = load_model(model_args, config)
    assert model.qa_outputs.out_features == model.config.num_labels == len(model.config.id2label) == 2
    assert model.config.problem_type is None
    assert "QuestionAnswering" not in str(config.architectures)
    assert capsys.readouterr().out.count("has no question-answering head") == 1
    with pytest.raises(UsageError, match=r"no question-answering head, .*ForSequenceClassification"):
        load_model(model_args, load_config_and_tokenizer(model_args)[0], needs_head=True)


def test_what_a_configuration_says_of_outputs_does_not_count(tokenizer, tmp_path):
    used = bert_tokenizer(tokenizer)
    model_args = saved(tmp_path, small_model("bert", used), used)
    outputs = {"output_hidden_states": True, "output_attentions": True, "return_dict": False, "torchscript": True}
    change_config(tmp_path, **outputs)
    config, _ = load_config_and_tokenizer(model_args)
    found = load_model(model_args, config)(torch.tensor([[1, 2, 3]]))
    assert list(found) == ["start_logits", "end_logits"]


def test_block_sparse_attention_is_computed_in_full(tokenizer, tmp_path, capsys):
    from transformers import BigBirdConfig, BigBirdForQuestionAnswering

    used = bert_tokenizer(tokenizer)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = BigBirdConfig(vocab_size=len(used), **sizes, block_size=4, num_random_blocks=1)
    config, _ = load_config_and_tokenizer(saved(tmp_path, BigBirdForQuestionAnswering(config), used))
    assert config.attention_type == "original_full"
    assert "its attention is computed in full, not in blocks" in capsys.readouterr().out


def test_a_head_of_three_outputs_is_no_head(tokenizer, tmp_path):
    used = bert_tokenizer(tokenizer)
    model_args = saved(tmp_path, small_model("bert", used), used)
    weights = load_file(tmp_path / "model.safetensors")
    for name in ("qa_outputs.weight", "qa_outputs.bias"):
        weights[name] = weights[name][[0, 1, 1]].clone()
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UsageError, match=r"qa_outputs\.\w+ has the shape \[3.*\[2"):
        load_model(model_args, needs_head=True)
    assert load_model(model_args).qa_outputs.out_features == 2


@pytest.mark.parametrize("architectures", [None, [], ["BertModel"], ["BertForQuestionAnswering"]])
def test_the_weights_say_whether_there_is_a_head(architectures, tokenizer, tmp_path):
    used = bert_tokenizer(tokenizer)
    model_args = saved(tmp_path, small_model("bert", used), used)
    change_config(tmp_path, architectures=architectures)
    config, _ = load_config_and_tokenizer(model_args)
    model = load_model(model_args, config, needs_head=True)
    assert config.architectures == ["BertForQuestionAnswering"]
    expected = load_file(tmp_path / "model.safetensors")["qa_outputs.weight"]
    assert (model.qa_outputs.weight == expected).all()


def test_a_tokenizer_of_sentencepiece_alone_is_read(tokenizer, tmp_path, monkeypatch):
    import sentencepiece

    (tmp_path / "words").mkdir()
    texts = [each["context"] for each in read_examples(str(SAMPLE / "dev.json"), "dev", 30)]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_prefix=str(tmp_path / "words" / "spm"),
        vocab_size=300,
        pad_id=0,
        bos_id=1,
        eos_id=2,
        unk_id=3,
        control_symbols=["[CLS]", "[SEP]", "[MASK]"],
        minloglevel=2,
    )
    small_model("deberta-v2", tokenizer).save_pretrained(tmp_path / "model")
    (tmp_path / "words" / "spm.model").rename(tmp_path / "model" / "spm.model")
    settings = {"tokenizer_class": "DebertaV2Tokenizer", "vocab_type": "spm"}
    (tmp_path / "model" / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    logging.getLogger("transformers").setLevel(logging.ERROR)
    model_args = ModelArguments(str(tmp_path / "model"))
    _, read = load_config_and_tokenizer(model_args)
    text = texts[0][:40]
    assert "".join(read.tokenize(text)).replace("▁", " ").split() == text.split()
    # Where the packages are missing, the libraries speak of another one.
    monkeypatch.setattr(loading.importlib.util, "find_spec", lambda name: None)
    assert loading._what_a_tokenizer_lacks(tmp_path / "model")[0] == (
        "its spm.model needs sentencepiece and google.protobuf, not installed here"
    )


def test_a_folder_without_a_tokenizer_is_called_so(tokenizer, tmp_path):
    small_model("bert", tokenizer).save_pretrained(tmp_path)
    with pytest.raises(UsageError, match=r"the folder holds none of tokenizer\.json, vocab\.txt"):
        load_config_and_tokenizer(ModelArguments(str(tmp_path)))


def test_a_tokenizer_that_transformers_5_saved_is_read(tokenizer, tmp_path):
    used = bert_tokenizer(tokenizer)
    model_args = saved(tmp_path, small_model("bert", used), used)
    content = json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))
    content["tokenizer_class"] = "TokenizersBackend"
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(content), encoding="utf-8")
    _, read = load_config_and_tokenizer(model_args)
    assert read("Ann", "Bob")["input_ids"] == used("Ann", "Bob")["input_ids"]


def test_a_number_that_no_row_is_there_for_is_seen_though_others_are_missing(tokenizer, tmp_path):
    used = bert_tokenizer(tokenizer)
    model_args = saved(tmp_path, small_model("bert", used), used)
    content = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    last = max(content["model"]["vocab"], key=content["model"]["vocab"].get)
    content["model"]["vocab"][last] += 5
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(UsageError, match=rf"knows {len(used)} tokens, but its tokenizer has {len(used) + 5};"):
        load_config_and_tokenizer(model_args)


def test_a_pointer_beside_the_weights_that_are_read_does_no_harm(tokenizer, tmp_path):
    used = bert_tokenizer(tokenizer)
    model_args = saved(tmp_path, small_model("bert", used), used)
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"
    for name in ("pytorch_model.bin", "onnx.bin", "tf_model.h5"):
        (tmp_path / name).write_text(pointer)
    load_config_and_tokenizer(model_args)
    (tmp_path / "model.safetensors").rename(tmp_path / "other")
    with pytest.raises(UsageError, match=r"pytorch_model.bin is a Git LFS pointer"):
        load_config_and_tokenizer(model_args)


def test_a_teacher_has_revisions_of_its_own(tokenizer, monkeypatch):
    asked = {}

    class Recorder:
        @staticmethod
        def from_pretrained(name, revision, **kwargs):
            asked[name] = revision

    model_args = ModelArguments("student", model_revision="v7")
    for flag, name in (("model_name_or_path", "student"), ("teacher_model_name_or_path", "teacher")):
        loading.from_pretrained(Recorder, flag, name, model_args)
    assert asked == {"student": "v7", "teacher": "main"}


def test_a_teacher_brings_its_own_tokenizer(tokenizer, tmp_path):
    own = bert_tokenizer(tokenizer)
    model_args = saved(tmp_path, small_model("bert", own), own)
    assert "token_type_ids" not in tokenizer.model_input_names
    assert (
        "token_type_ids"
        in load_teacher_config_and_tokenizer(str(tmp_path), tokenizer, model_args)[1].model_input_names
    )
