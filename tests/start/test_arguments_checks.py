"""A table over every argument: it works, is refused, or has no effect and the run says so."""

import dataclasses
import os

import pytest
from conftest import SAMPLE
from transformers import TrainingArguments
from transformers.training_args import OptimizerNames

import export_qa
import prune_encoder_qa
import run_qa
import run_qa_post_training
from qa.start import arguments_checks
from qa.start.arguments import DataTrainingArguments, ModelArguments, parse_arguments
from qa.start.arguments_checks import OPTIMIZERS, check_effects, note_effects
from qa.start.errors import UsageError
from qa.start.run import Run
from qa.start.training_arguments import NO_EFFECT, OF_TRAINING, REFUSED

# fmt: off
# These do what they say in every command.
EVERYWHERE = (
    "output_dir", "overwrite_output_dir", "do_eval", "do_predict", "per_device_eval_batch_size",
    "log_level", "no_cuda", "use_cpu", "seed", "disable_tqdm", "tf32", "report_to", "push_to_hub", "hub_model_id",
    "hub_token", "hub_private_repo", "push_to_hub_model_id", "push_to_hub_organization", "push_to_hub_token",
    "use_ipex", "bf16", "ddp_backend", "ddp_timeout",
)
# fmt: on

SCRIPTS = {script.__name__: script for script in (run_qa, run_qa_post_training, export_qa, prune_encoder_qa)}
# Arguments of ours that do what they say whatever else is given, each with the file of tests that sees it.
OURS = {
    "tests/start/test_arguments.py": ("model_name_or_path", "config_name", "tokenizer_name", "cache_dir"),
    "tests/questions/test_features.py": (
        *("max_seq_length", "doc_stride", "pad_to_max_length", "overwrite_cache", "preprocessing_num_workers"),
        *("n_best_size", "max_answer_length"),
    ),
    "tests/questions/test_examples.py": ("dataset_name", "version_2_with_negative"),
    "tests/commands": (
        *("apply_quantization", "apply_pruning", "apply_distillation", "report", "export_format", "steps"),
    ),
}


@pytest.fixture
def check(tmp_path, capsys):
    """Return a function that checks the arguments of a run and returns what is said about them."""

    def run(script, *words, trains=True):
        given = ["--model_name_or_path", str(SAMPLE / "distilbert-qa"), "--output_dir", str(tmp_path / "out")]
        if script.OptimizationArguments.takes_questions:
            given += ["--validation_file", str(SAMPLE / "dev.json"), "--do_eval"]
        given += ["--no_cuda", *map(str, words)]
        if script is run_qa and trains:
            given += ["--train_file", str(SAMPLE / "train.json"), "--do_train"]
        parsed = Run(*parse_arguments(script.OptimizationArguments, given))
        capsys.readouterr()
        for each in (check_effects, note_effects):
            each(parsed, trains=script is run_qa and trains)
        return capsys.readouterr().out.splitlines()

    return run


def test_the_table_knows_every_argument_of_transformers():
    known = [*OF_TRAINING, *EVERYWHERE, *NO_EFFECT, *REFUSED]
    assert len(known) == len(set(known))
    # _n_gpu is worked out, and no flag.
    assert set(known) == {each.name for each in dataclasses.fields(TrainingArguments)} - {"_n_gpu"}
    assert sorted(name for names in OPTIMIZERS.values() for name in names) == sorted(OptimizerNames)


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_table_knows_every_argument_of_ours(script, check, monkeypatch):
    tables = []
    plain = arguments_checks._conditions_of_ours
    monkeypatch.setattr(
        arguments_checks, "_conditions_of_ours", lambda *args: tables.append(plain(*args)) or tables[-1]
    )
    check(SCRIPTS[script])
    of_compression = [name for names in arguments_checks.OF_COMPRESSION.values() for name in names]
    known = {*(name for names in OURS.values() for name in names), *tables[0], *of_compression}
    ours = (ModelArguments, DataTrainingArguments, SCRIPTS[script].OptimizationArguments)
    assert {each.name for group in ours for each in dataclasses.fields(group)} <= known


# A value for each argument without effect that is not its default.
VALUES = {"tpu_num_cores": 8, "label_names": "labels", "hub_strategy": "end", "fp16_opt_level": "O2", "local_rank": 0}
VALUES |= {"fp16_backend": "apex", "mp_parameters": "a", "past_index": 1, "length_column_name": "size"}
VALUES |= {"optim_target_modules": "q", "ray_scope": "all", "eval_accumulation_steps": 3}
VALUES |= dict.fromkeys(("save_safetensors", "remove_unused_columns", "eval_do_concat_batches"), "false")


@pytest.mark.parametrize("name", NO_EFFECT)
def test_what_has_no_effect_is_said_to_have_none(name, check):
    assert [f"note: --{name} has no effect: {NO_EFFECT[name]}"] == check(run_qa, f"--{name}", VALUES.get(name, "true"))


@pytest.mark.parametrize("script", ["run_qa", "run_qa_post_training", "export_qa"])
@pytest.mark.parametrize(
    "words", [("--learning_rate", "1e-3"), ("--warmup_steps", "5"), ("--gradient_checkpointing",)]
)
def test_what_only_a_training_looks_at_has_no_effect_without_one(script, words, check):
    expected = [f"note: {words[0]} has no effect: nothing is trained here"]
    assert check(SCRIPTS[script], *words, trains=False) == expected
    if script == "run_qa":
        assert check(run_qa, *words) == []


@pytest.mark.parametrize(
    ("script", "words", "expected"),
    [
        ("run_qa", ["--eval_steps", "5"], ["--eval_steps", "--eval_strategy steps"]),
        ("run_qa", ["--save_strategy", "no", "--save_steps", "5"], ["--save_steps", "--save_strategy steps"]),
        ("run_qa", ["--logging_dir", "logs"], ["--logging_dir", "--report_to tensorboard"]),
        ("run_qa", ["--dataloader_pin_memory", "false"], ["--dataloader_pin_memory", "a GPU"]),
        ("run_qa", ["--hub_model_id", "mine"], ["--hub_model_id", "--push_to_hub"]),
        ("run_qa", ["--max_steps", "5", "--num_train_epochs", "2"], ["--num_train_epochs", "--max_steps"]),
        ("run_qa", ["--adam_beta1", "0.8", "--optim", "sgd"], ["--adam_beta1", "Adam"]),
        ("run_qa", ["--warmup_steps", "5", "--lr_scheduler_type", "constant"], ["--warmup_steps", "warms up"]),
        ("run_qa", ["--warmup_ratio", "0.1", "--lr_scheduler_type", "constant"], ["--warmup_ratio", "warms up"]),
        (
            "run_qa",
            ["--lr_scheduler_type", "inverse_sqrt", "--lr_scheduler_kwargs", '{"timescale": 5}'],
            ["--lr_scheduler_kwargs", "takes arguments"],
        ),
        ("run_qa", ["--ddp_timeout", "5"], ["--ddp_timeout", "several processes"]),
        ("run_qa", ["--null_score_diff_threshold", "2"], ["--null_score_diff_threshold", "--version_2_with_negative"]),
        ("run_qa", ["--test_file", SAMPLE / "dev.json"], ["--test_file", "--do_predict"]),
        ("run_qa", ["--model_revision", "v2"], ["--model_revision", "a model on the hub"]),
        ("run_qa without training", ["--bf16"], ["--bf16", "--do_train"]),
        ("run_qa_post_training", ["--use_ipex"], ["--use_ipex", "--apply_quantization"]),
        ("run_qa_post_training", ["--bf16"], ["--bf16", "--apply_quantization"]),
        ("run_qa_post_training", ["--verify_loading"], ["--verify_loading", "a model that is saved"]),
        ("run_qa_post_training", ["--quantization_approach", "static"], ["--quantization_approach", "--apply_quant"]),
        (
            "run_qa_post_training",
            ["--apply_quantization", "--num_calibration_samples", "5"],
            ["--num_calibration_samples", "a static quantization"],
        ),
        ("export_qa", ["--num_calibration_samples", "5"], ["--num_calibration_samples", "a static quantization"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_works_with_another_argument_only_says_so(script, words, expected, check):
    name, _, without_training = script.partition(" ")
    notes = check(SCRIPTS[name], *words, trains=not without_training)
    assert len(notes) == 1
    assert notes[0].startswith(f"note: {expected[0]} has no effect without")
    assert expected[1] in notes[0]


def test_what_works_is_passed_over_in_silence(check):
    words = ["--eval_strategy", "steps", "--eval_steps", "5", "--optim", "sgd", "--neftune_noise_alpha", "5"]
    assert check(run_qa, *words, "--apply_pruning", "--target_sparsity", "0.5", "--verify_loading") == []


@pytest.mark.parametrize(
    ("words", "has_bf16", "launched", "named"),
    [
        (["--bf16"], True, None, None),
        (["--bf16"], True, "bf16", None),
        (["--bf16"], False, None, "--bf16: this processor has no bf16 instructions"),
        ([], True, "no", None),
        ([], True, "bf16", "accelerate launch --mixed_precision bf16"),
        (["--bf16"], True, "fp16", "accelerate launch --mixed_precision fp16"),
    ],
)
def test_bf16_is_for_processors_that_have_it_and_asked_for_by_its_own_flag(
    words, has_bf16, launched, named, check, monkeypatch
):
    monkeypatch.setattr(arguments_checks, "processor", lambda: ("one", ["avx512", "bf16"] if has_bf16 else ["avx512"]))
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    if launched is not None:
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", launched)
    if named is None:
        assert check(run_qa, *words) == []
    else:
        with pytest.raises(UsageError, match=named):
            check(run_qa, *words)
    # TrainingArguments would leave it there, for the next training of the process.
    assert os.environ.get("ACCELERATE_MIXED_PRECISION") == launched


@pytest.mark.parametrize("name", ["fsdp", "deepspeed", "use_liger_kernel"])
def test_defaults_are_never_refused(name, check):
    assert name in REFUSED
    assert check(run_qa) == []


def test_files_beside_a_data_set_are_named(check):
    notes = check(run_qa, "--dataset_name", SAMPLE)
    assert notes == [
        f"note: --{name} has no effect: questions are those of --dataset_name {SAMPLE}"
        for name in ("train_file", "validation_file")
    ]


def test_one_process_trains_on_one_gpu(check, monkeypatch):
    monkeypatch.setattr(TrainingArguments, "n_gpu", 2)
    assert check(run_qa, trains=False) == []
    with pytest.raises(UsageError, match="cannot train on 2 GPUs: start the same words with torchrun"):
        check(run_qa)


def test_a_plateau_of_a_score_that_rises_works(check):
    words = ["--lr_scheduler_type", "reduce_lr_on_plateau", "--eval_strategy", "epoch"]
    words += ["--metric_for_best_model", "f1", "--lr_scheduler_kwargs", '{"mode": "max"}']
    assert check(run_qa, *words) == []
    with pytest.raises(UsageError, match="--metric_for_best_model f1"):
        check(run_qa, *words[:-1], "{}")
