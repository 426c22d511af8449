"""The model card: metadata that the hub takes, what it says was done and lost, and no paths of this machine."""

import json
import re

import pytest
from huggingface_hub import ModelCard, ModelCardData
from stand_in_hub import metadata_errors

from qa.models.loading import called, name_on_hub
from qa.results.card import write_card
from qa.start.arguments import DataTrainingArguments
from qa.start.cpu import processor
from qa.start.engines import ENGINES

SCORED = {"eval_f1": 57.591, "eval_exact_match": 43.151, "eval_samples": 438}
ON_HUB = DataTrainingArguments(dataset_name="squad_v2", dataset_config_name="plain")
FILES = DataTrainingArguments(validation_file="/home/ada/questions/dev-v1.json", train_file="/home/ada/train.json")
STEPS = {"Static post-training quantization to int8": {"op_name_dict": {r".*\.ffn": {"weight": {"dtype": "fp32"}}}}}


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "out" / "static"


def card_of(folder, data_args, results=SCORED, config=(), kind="compressed", **kwargs):
    folder.mkdir(parents=True)
    config = {"_name_or_path": "org/base", "torch_dtype": "int8", "backend": "default", **dict(config)}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    if kind in ENGINES:
        (folder / ENGINES[kind].files[-1]).write_bytes(b"... " + ENGINES[kind].rounding)
    if results is not None:
        (folder / "all_results.json").write_text(json.dumps(results), encoding="utf-8")
    write_card(folder, data_args, STEPS, kind=kind, **kwargs)
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert metadata_errors(text) == []
    return ModelCard.load(folder / "README.md"), text


def section(text, heading):
    return re.search(rf"^## {heading}\n\n(.*?)(?=^## |\Z)", text, flags=re.DOTALL | re.MULTILINE).group(1).strip()


def test_metadata_of_a_model_scored_on_a_data_set_of_the_hub(folder):
    card, _ = card_of(folder, ON_HUB, repo_id="ada/static")
    data = card.data
    assert (data.base_model, data.datasets, data.pipeline_tag) == ("org/base", ["squad_v2"], "question-answering")
    assert (data.library_name, data.tags) == ("optimum-intel", ["neural-compressor", "int8"])
    assert data.model_name == "ada/static"
    f1, exact = data.eval_results
    assert (f1.metric_type, f1.metric_value, exact.metric_type, exact.metric_value) == (
        "f1",
        57.59,
        "exact_match",
        43.15,
    )
    assert {f1.dataset_type, f1.dataset_name, f1.dataset_config, f1.dataset_split} == {
        "squad_v2",
        "plain",
        "validation",
    }


def test_metadata_survives_a_round_trip(folder):
    card, _ = card_of(folder, ON_HUB)
    again = ModelCardData(**card.data.to_dict())
    assert again.to_dict() == card.data.to_dict()
    assert "model-index" in again.to_dict()


def test_files_are_named_without_their_folders_and_are_no_data_set_of_the_hub(folder):
    card, text = card_of(folder, FILES, config={"_name_or_path": ""})
    assert card.data.datasets is None and card.data.base_model is None
    assert {(result.dataset_name, result.dataset_type) for result in card.data.eval_results} == {
        ("dev-v1.json", "json")
    }
    for private in ("/home", "ada", str(folder.parent)):
        assert private not in text


def test_unanswerable_questions_are_scored_by_another_name(folder):
    card, _ = card_of(folder, ON_HUB, results={"eval_f1": 46.0, "eval_exact": 44.0, "eval_samples": 9})
    assert [result.metric_value for result in card.data.eval_results] == [46.0, 44.0]


@pytest.mark.parametrize(
    ("results", "original", "expected"),
    [
        (
            SCORED,
            None,
            "This model reaches F1 57.59 and exact match 43.15 on 438 questions of `dev-v1.json`. The original model "
            "was not scored in this run, so that what was lost is not known.",
        ),
        (
            SCORED,
            {"eval_f1": 58.2, "eval_exact_match": 42.92},
            "This model reaches F1 57.59 and exact match 43.15 on 438 questions of `dev-v1.json`, the original F1 "
            "58.20 and exact match 42.92. So 0.61 points of F1 were lost and 0.23 points of exact match were won.",
        ),
        (
            None,
            None,
            "This model was not scored in this run. What was lost against the original is therefore not known.",
        ),
    ],
)
def test_two_sentences_say_what_was_lost(results, original, expected, folder):
    card, text = card_of(folder, FILES, results=results, original=original)
    assert section(text, "What was lost") == expected
    assert (card.data.eval_results is None) == (results is None)


def test_a_training_without_questions_to_score_has_a_card(folder):
    card, text = card_of(folder, DataTrainingArguments(train_file="train.json"), results={"train_loss": 1.0})
    assert section(text, "What was lost").startswith("This model was not scored in this run.")
    assert card.data.eval_results is None


def test_it_says_what_was_done_and_how_sparse_the_model_is(folder):
    card, text = card_of(folder, FILES, results={**SCORED, "sparsity": 0.8981})
    done = section(text, "What was done")
    assert "- Static post-training quantization to int8" in done
    assert r"  op_name_dict:" in done and r".*\.ffn" in done and "dtype: fp32" in done
    assert "- 89.8 % of the weights of the linear operators are zero." in done
    assert "pruned" in card.data.tags


@pytest.mark.parametrize(
    ("config", "library", "lines"),
    [
        ({}, "optimum-intel", ["from optimum.intel import", 'from_pretrained("ada/m")']),
        ({"backend": "ipex"}, "optimum-intel", ["import intel_extension_for_pytorch ", "from optimum.intel import"]),
        ({"torch_dtype": "float32"}, "transformers", ['pipeline("question-answering", model="ada/m")']),
    ],
)
def test_each_kind_of_model_is_loaded_its_own_way(config, library, lines, folder):
    card, text = card_of(folder, FILES, config=config, repo_id="ada/m")
    loading = section(text, "How to load it")
    assert card.data.library_name == library
    for line in lines:
        assert line in loading
    assert ("intel_extension_for_pytorch" in loading) == (config.get("backend") == "ipex")
    assert ("Made and measured on a processor with " in loading) == (library == "optimum-intel")
    assert ("optimum" in loading) == (library == "optimum-intel")


@pytest.mark.parametrize(
    ("export_format", "library", "line"),
    [
        ("onnx", "optimum", 'ORTModelForQuestionAnswering.from_pretrained("ada/m")'),
        (
            "openvino",
            "optimum-intel",
            'OVModelForQuestionAnswering.from_pretrained("ada/m", ov_config={"INFERENCE_PRECISION_HINT": "f32"})',
        ),
    ],
)
def test_exported_models_are_loaded_by_their_engine(export_format, library, line, folder):
    config = {"torch_dtype": "float32"}
    card, text = card_of(folder, FILES, config=config, repo_id="ada/m", kind=export_format)
    assert line in section(text, "How to load it")
    assert card.data.library_name == library
    assert card.data.tags == [export_format, "int8"]
    assert "neural" not in section(text, "How to load it")
    sets = ", ".join(processor()[1]) or "plain instructions"
    assert f"Made and measured on a processor with {sets}. Without VNNI" in section(text, "How to load it")


def test_the_snippet_of_an_export_cuts_windows_as_the_run_did(folder):
    arguments = {"max_seq_length": 128, "doc_stride": 32, "max_answer_length": 12, "version_2_with_negative": True}
    data_args = DataTrainingArguments(validation_file="dev.json", **arguments)
    _, text = card_of(folder, data_args, kind="onnx")
    assert 'enable_truncation(128, stride=32, strategy="only_second")' in text
    assert "np.outer(inside, inside), 11))  # at most 12 tokens" in text
    assert "It gives an answer to every question." in text


def test_an_export_in_fp32_is_not_called_int8(folder):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"torch_dtype": "float32"}', encoding="utf-8")
    (folder / "model.onnx").write_bytes(b"MatMul")
    write_card(folder, FILES, {"Export to ONNX": None}, kind="onnx")
    assert ModelCard.load(folder / "README.md").data.tags == ["onnx"]


@pytest.mark.parametrize("recorded", ["org/base", "bert-base-uncased", "/home/ada/models/base", "", None, 41])
def test_a_folder_is_not_the_model_that_it_was_made_from(recorded, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"_name_or_path": recorded}), encoding="utf-8")
    assert name_on_hub(str(tmp_path)) == ""
    assert called(str(tmp_path)) == tmp_path.name


def test_a_name_that_is_no_folder_is_the_hubs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert name_on_hub("org/base") == called("org/base") == "org/base"
    assert (name_on_hub("."), called(".")) == ("", tmp_path.name)
