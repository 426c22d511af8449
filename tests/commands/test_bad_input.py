"""A table of bad input: each row ends early with exit code 2 and one line that names the flag or file.

Each row runs the script's `main` in a process of its own, forked from one that has imported what a run imports before
it has looked at its input; so nothing that an earlier row left behind can help, and what a row imports is seen.
"""

import json
import os
import re
import shutil
import subprocess
import sys

import forked_main
import pytest
import yaml
from conftest import ROOT, SAMPLE, squad_file

CONTEXT = "Ann met Bob in Rome, and then they went to Athens."
MODEL = SAMPLE / "distilbert-qa"
TEACHER = SAMPLE / "distilbert-qa-teacher"


def contents(folder):
    """Return {path: bytes} of all that lies in a folder."""
    return {path: path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


def as_words(flags):
    """Turn {flag: value} into command-line words: `None` leaves the flag out, `True` stands for a bare one."""
    words = []
    for flag, value in flags.items():
        if value is not None:
            words.append(flag if value is True else f"{flag}={value}")
    return words


def good_flags(script, folder):
    """Return the flags of a run that is right, with the question file that it names."""
    questions = squad_file(folder / "good.json", [(CONTEXT, [("q1", "Who?", [("Ann", 0)])])])
    flags = {
        "--model_name_or_path": MODEL,
        "--validation_file": questions,
        "--output_dir": folder / "out",
        "--do_eval": True,
    }
    return {**flags, "--train_file": questions, "--do_train": True} if script == "run_qa" else flags


# --- what may be wrong: functions that write a bad file into a folder and return the flags that lead to it ---


def file(name, content, flag="--validation_file"):
    """A question file; `content` is bytes, text, or rows to be written as JSON."""

    def prepare(folder):
        written = content if isinstance(content, (bytes, str)) else json.dumps({"data": content})
        (folder / name).write_bytes(written.encode("utf-8", "surrogatepass") if isinstance(written, str) else written)
        return {flag: folder / name}

    return prepare


def model(damage, flag="--model_name_or_path", source=MODEL):
    """A damaged copy of a sample model."""

    def prepare(folder):
        shutil.copytree(source, folder / "model")
        damage(folder / "model")
        return {flag: folder / "model"}

    return prepare


def teacher(damage):
    """A damaged copy of the sample teacher."""

    def prepare(folder):
        return {**DISTIL, **model(damage, "--teacher_model_name_or_path", TEACHER)(folder)}

    return prepare


def settings(content, what):
    """A configuration file in YAML, with the flag that applies it."""

    def prepare(folder):
        (folder / "settings.yml").write_text(content, encoding="utf-8")
        applied = DISTIL if what == "distillation" else {f"--apply_{what}": True}
        return {**applied, f"--{what}_config": folder / "settings.yml"}

    return prepare


def arguments(name, content):
    """An argument file; `content` is bytes, or text added to good arguments if it begins with "+"."""

    def prepare(folder):
        written = content
        if isinstance(content, str):
            good = {flag[2:]: str(value) for flag, value in good_flags("run_qa_post_training", folder).items()}
            good.pop(content[1:].partition(":")[0], None)
            written = (yaml.safe_dump(good) + content[1:] if content.startswith("+") else content).encode()
        if content is not None:
            (folder / name).write_bytes(written)
        return [folder / name]

    return prepare


def row(**changes):
    """A question in flat JSON."""
    answers = {"text": ["Ann"], "answer_start": [0]}
    made = {"id": "q7", "context": CONTEXT, "question": "Who?", "answers": answers, **changes}
    return {name: value for name, value in made.items() if value is not None}


def change_json(name, **changes):
    """Damage: change or remove (`None`) keys of a JSON file in the model's folder."""

    def damage(folder):
        content = {**json.loads((folder / name).read_text(encoding="utf-8")), **changes}
        kept = {key: value for key, value in content.items() if value is not None}
        (folder / name).write_text(json.dumps(kept), encoding="utf-8")

    return damage


def write(name, content):
    """Damage: replace a file; a function makes the new content from the old one."""

    def damage(folder):
        path = folder / name
        path.write_bytes(content(path.read_bytes()) if callable(content) else content)

    return damage


def remove(*names):
    def damage(folder):
        for name in names:
            (folder / name).unlink()

    return damage


def change_weights(change):
    """Damage: `change` gets the dictionary of tensors and returns the one to be saved."""

    def damage(folder):
        from safetensors.torch import load_file, save_file

        weights = change(load_file(folder / "model.safetensors"))
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    return damage


def without_head(architectures):
    """Damage: no head in the weights, and this in the configuration."""

    def damage(folder):
        change_json("config.json", architectures=architectures)(folder)
        change_weights(lambda weights: {name: value for name, value in weights.items() if "qa_outputs" not in name})(
            folder
        )

    return damage


def with_three_labels(weights):
    import torch

    heads = {name: torch.cat((value, value[:1])) for name, value in weights.items() if "qa_outputs" in name}
    return {**weights, **heads}


def with_positions(count):
    """Damage: a model with so many positions."""

    def damage(folder):
        change_json("config.json", max_position_embeddings=count)(folder)
        change_weights(
            lambda weights: {
                name: value[:count].clone() if "position_embeddings" in name else value
                for name, value in weights.items()
            }
        )(folder)

    return damage


def save_as_bin(folder):
    import torch
    from safetensors.torch import load_file

    torch.save({**load_file(folder / "model.safetensors"), "best_configure": {}}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def only_python_tokenizer(folder):
    """CANINE works on characters and has no fast tokenizer."""
    remove(*(path.name for path in folder.glob("*token*")), "vocab.txt")(folder)
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "CanineTokenizer"}', encoding="utf-8")


def tokenizer_without_special_tokens(folder):
    remove("special_tokens_map.json")(folder)
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}', encoding="utf-8")


def with_other_word(folder):
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    words = content["model"]["vocab"]
    words["another"] = words.pop(next(word for word in words if word.isalpha() and len(word) > 3))
    path.write_text(json.dumps(content), encoding="utf-8")


def occupied(folder):
    (folder / "out").write_text("mine", encoding="utf-8")
    return {}


def full(folder):
    (folder / "out").mkdir()
    (folder / "out" / "thesis.tex").write_text("mine", encoding="utf-8")
    return {}


def inside_a_file(folder):
    return {"--output_dir": folder / "good.json" / "out"}


LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 60))
LATIN = '{"data": [{"question": "Où?", "context": "Là."}]}'.encode("latin-1")
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 45678\n"
# Questions of a data set, not of a file.
HUB = {"--validation_file": None}
STATIC = {"--apply_quantization": True, "--quantization_approach": "static"}
DISTIL = {"--apply_distillation": True, "--teacher_model_name_or_path": TEACHER}

# name -> (what differs from good flags, or a function of a folder that returns that; what the line must hold)
POST_TRAINING = {
    # arguments
    "unknown flag": ({"--no_such_flag": 1}, ["--no_such_flag"]),
    "misspelt flag": ({"--apply_quantisation": True}, ["--apply_quantisation"]),
    "flag cut too short": ({"--do_": True}, ["--do_ could match", "--do_train", "--do_eval"]),
    "stray word": ({"stray": True}, ["stray"]),
    "no model": ({"--model_name_or_path": None}, ["--model_name_or_path"]),
    "no output folder": ({"--output_dir": None}, ["--output_dir"]),
    "unknown approach": ({"--quantization_approach": "aware"}, ["--quantization_approach", "aware", "static"]),
    "word for a number": ({"--max_seq_length": "long"}, ["--max_seq_length", "long"]),
    "fraction for a whole number": ({"--doc_stride": 1.5}, ["--doc_stride", "1.5"]),
    "word for true or false": ({"--version_2_with_negative": "maybe"}, ["--version_2_with_negative", "maybe"]),
    "flag without its value": ({"--max_seq_length": True}, ["--max_seq_length"]),
    "unknown log level": ({"--log_level": "loud"}, ["--log_level", "loud"]),
    "IPEX with dynamic": (
        {"--apply_quantization": True, "--use_ipex": True},
        ["--use_ipex", "--quantization_approach static"],
    ),
    "IPEX with DeBERTa": (
        lambda folder: {
            **STATIC,
            "--use_ipex": True,
            "--train_file": SAMPLE / "train.json",
            **model(change_json("config.json", model_type="deberta-v2"))(folder),
        },
        ["--use_ipex", "deberta-v2 model", "leave the flag out"],
    ),
    "bf16 with dynamic": ({"--apply_quantization": True, "--bf16": True, "--no_cuda": True}, ["--bf16", "--use_ipex"]),
    "bf16 without IPEX": ({**STATIC, "--bf16": True, "--no_cuda": True}, ["--bf16", "--use_ipex"]),
    "static without training questions": (STATIC, ["--quantization_approach static", "--train_file"]),
    "settings that nothing reads": (
        {"--quantization_config": "quantization.yml"},
        ["--quantization_config quantization.yml", "--apply_quantization"],
    ),
    "zero length": ({"--max_seq_length": 0, "--doc_stride": 0}, ["--max_seq_length is 0"]),
    "negative length": ({"--max_seq_length": -384}, ["--max_seq_length is -384"]),
    "stride that a lowered length leaves no room for": (
        {"--max_seq_length": 10**6, "--doc_stride": 512},
        ["--max_seq_length is 1000000", "at most 512 tokens", "--doc_stride is 512", "lower both"],
    ),
    "huge length": ({"--max_seq_length": 10**30}, [f"--max_seq_length is {10**30}", "2147483647"]),
    "more digits than Python reads": ({"--max_seq_length": "9" * 5000}, ["--max_seq_length"]),
    "negative stride": ({"--doc_stride": -1}, ["--doc_stride is -1"]),
    "stride as long as the window": ({"--doc_stride": 384}, ["--doc_stride is 384", "--max_seq_length (384)"]),
    "stride above a short window": ({"--max_seq_length": 100}, ["--doc_stride is 128", "--max_seq_length (100)"]),
    "huge stride": ({"--doc_stride": 10**30}, ["--doc_stride"]),
    "stride that leaves no room": ({"--max_seq_length": 132}, ["question q1", "--doc_stride 128"]),
    "zero n-best": ({"--n_best_size": 0}, ["--n_best_size is 0"]),
    "negative n-best": ({"--n_best_size": -20}, ["--n_best_size is -20"]),
    "huge n-best": ({"--n_best_size": 10**12}, [f"--n_best_size is {10**12}", "2147483647"]),
    "zero answer length": ({"--max_answer_length": 0}, ["--max_answer_length is 0"]),
    "negative answer length": ({"--max_answer_length": -30}, ["--max_answer_length is -30"]),
    "huge answer length": ({"--max_answer_length": 10**20}, ["--max_answer_length", "2147483647"]),
    "zero workers": ({"--preprocessing_num_workers": 0}, ["--preprocessing_num_workers is 0"]),
    "huge number of workers": ({"--preprocessing_num_workers": 10**6}, ["--preprocessing_num_workers is 1000000"]),
    "negative samples": ({"--max_eval_samples": -1}, ["--max_eval_samples is -1"]),
    "huge number of samples": ({"--max_eval_samples": 2**63}, [f"--max_eval_samples is {2**63}"]),
    "zero training samples": ({"--max_train_samples": 0}, ["--max_train_samples is 0"]),
    "zero test samples": ({"--max_predict_samples": 0}, ["--max_predict_samples is 0"]),
    "zero calibration samples": ({"--num_calibration_samples": 0}, ["--num_calibration_samples is 0"]),
    "negative calibration samples": ({"--num_calibration_samples": -5}, ["--num_calibration_samples is -5"]),
    "huge number of calibration samples": ({"--num_calibration_samples": 2**31}, ["--num_calibration_samples"]),
    "zero batch size": ({"--per_device_eval_batch_size": 0}, ["--per_device_eval_batch_size"]),
    "negative batch size": ({"--per_device_eval_batch_size": -8}, ["--per_device_eval_batch_size"]),
    "huge batch size": ({"--per_device_eval_batch_size": 2**64}, ["--per_device_eval_batch_size"]),
    "negative seed": ({"--seed": -1}, ["--seed is -1"]),
    "seed beyond 32 bits": ({"--seed": 2**40}, [f"--seed is {2**40}"]),
    "threshold that is no number": ({"--null_score_diff_threshold": "nan"}, ["--null_score_diff_threshold is nan"]),
    "infinite threshold": ({"--null_score_diff_threshold": "inf"}, ["--null_score_diff_threshold is inf"]),
    "no questions": ({"--validation_file": None}, ["--do_eval", "--dataset_name", "--validation_file"]),
    "nothing to do": ({"--do_eval": None}, ["--do_eval"]),
    "nothing to predict": ({"--do_predict": True}, ["--do_predict", "--test_file"]),
    "verification of nothing": (
        {"--apply_quantization": True, "--verify_loading": True, "--do_eval": None},
        ["--verify_loading", "--do_eval"],
    ),
    "fp16 without a training": ({"--fp16": True, "--no_cuda": True}, ["--fp16", "nothing is trained"]),
    "missing accelerator file": ({"--accelerator_config": "no-such.json"}, ["no-such.json"]),
    "missing deepspeed": ({"--deepspeed": "no-such.json"}, ["deepspeed"]),
    # argument files
    "broken YAML": (arguments("a.yaml", "seed: [1"), ["a.yaml", "line 1"]),
    "broken JSON": (arguments("a.json", '{"seed": 1'), ["a.json", "line 1"]),
    "empty YAML": (arguments("a.yaml", ""), ["a.yaml", "mapping"]),
    "empty JSON": (arguments("a.json", ""), ["a.json"]),
    "list as arguments": (arguments("a.yml", "- seed\n- 1\n"), ["a.yml", "list", "mapping"]),
    "text as arguments": (arguments("a.json", '"seed"'), ["a.json", "mapping"]),
    "required arguments left out": (arguments("a.yaml", "seed: 1"), ["--model_name_or_path", "--output_dir"]),
    "code in arguments": (arguments("a.yaml", "+seed: !!python/object/apply:os.getcwd []"), ["a.yaml", "python/obj"]),
    "Python name in arguments": (arguments("a.yaml", "+seed: !!python/name:os.system"), ["a.yaml", "python/name"]),
    "unknown key": (arguments("a.yaml", "+no_such_key: 1"), ["no_such_key"]),
    "unknown key with a list": (arguments("a.yaml", "+no_such_key: [1, 2]"), ["no_such_key"]),
    "key twice": (arguments("a.yaml", "+seed: 1\nseed: 2"), ["a.yaml, line", "'seed'", "twice"]),
    "key that is a number": (arguments("a.yaml", "+41: 2"), ["41"]),
    "list for a number": (arguments("a.yaml", "+max_seq_length: [1, 2]"), ["max_seq_length"]),
    "mapping for a number": (arguments("a.yaml", "+max_seq_length: {a: 1}"), ["max_seq_length"]),
    "text for a number": (arguments("a.yaml", "+max_seq_length: long"), ["max_seq_length", "long"]),
    "wrong truth value": (arguments("a.yaml", "+seed: !!bool maybe"), ["a.yaml", "maybe"]),
    "wrong time": (arguments("a.yaml", "+seed: !!timestamp soon"), ["a.yaml"]),
    "number without digits": (arguments("a.yaml", "+seed: !!int ''"), ["a.yaml"]),
    "mapping that holds itself": (arguments("a.yaml", "+lr_scheduler_kwargs: &x {a: *x}"), ["a.yaml", "unfolds"]),
    "date in a mapping": (arguments("a.yaml", "+lr_scheduler_kwargs: {a: 2020-01-01}"), ["a.yaml", "lr_scheduler"]),
    "number with too many digits": (arguments("a.yaml", "+seed: 0x" + "f" * 4000), ["a.yaml"]),
    "deep nesting": (arguments("a.json", "[" * 100_000), ["a.json"]),
    "deep nesting in YAML": (arguments("a.yaml", "[" * 1000), ["a.yaml"]),
    "control character": (arguments("a.yaml", "+seed: \x01"), ["a.yaml"]),
    "arguments in Latin-1": (arguments("a.yaml", "run_name: für".encode("latin-1")), ["a.yaml", "utf-8"]),
    "missing argument file": (arguments("a.yaml", None), ["a.yaml"]),
    "bomb of aliases in arguments": (arguments("a.yaml", f"+{LAUGHS}"), ["a.yaml", "unfolds"]),
    # question files
    "missing file": ({"--validation_file": "no/such.json"}, ["--validation_file no/such.json", "no such file"]),
    "missing file that is not used": ({"--train_file": "no/such.json"}, ["--train_file no/such.json"]),
    "folder as file": ({"--validation_file": SAMPLE}, [f"--validation_file {SAMPLE}"]),
    "wrong suffix": ({"--validation_file": SAMPLE / "make_sample.py"}, ["make_sample.py", ".json", ".parquet"]),
    "file name that is no text": ({"--validation_file": "\udcff.json"}, ["--validation_file", "no such file"]),
    "empty file name": ({"--validation_file": ""}, ["--validation_file"]),
    "file name that no system takes": ({"--validation_file": "x" * 1000 + ".json"}, ["--validation_file xxx"]),
    "empty file": (file("f.json", b""), ["f.json", "not valid JSON"]),
    "empty lines": (file("f.jsonl", b"\n\n"), ["f.jsonl", "no question"]),
    "empty CSV": (file("f.csv", b""), ["f.csv", "no question"]),
    "empty Parquet": (file("f.parquet", b""), ["f.parquet", "Parquet"]),
    "truncated JSON": (file("f.json", b'{"data": [{"title": '), ["f.json", "not valid JSON", "line 1"]),
    "truncated lines": (file("f.jsonl", json.dumps(row()) + '\n{"id"'), ["f.jsonl", "line 2", "not valid JSON"]),
    "UTF-16": (file("f.json", json.dumps([row()]).encode("utf-16")), ["f.json", "not UTF-8"]),
    "Latin-1": (file("f.json", LATIN), ["f.json", "not UTF-8 text (byte"]),
    "Latin-1 in CSV": (file("f.csv", "question,context\nOù?,Là.".encode("latin-1")), ["f.csv", "not UTF-8"]),
    "not Parquet": (file("f.parquet", b"data" * 9), ["f.parquet", "Parquet"]),
    "deeply nested questions": (file("f.json", b"[" * 100_000), ["f.json", "not valid JSON"]),
    "no answers": (file("f.json", [row(answers=None)]), ["f.json", "question q7", "--do_predict"]),
    "missing column": (file("f.jsonl", b'{"id": "q7", "context": "c"}\n'), ["f.jsonl", "line 1", "question"]),
    "missing column in CSV": (file("f.csv", b"id,context\nq7,c\n"), ["f.csv", "line 2", "question"]),
    "field that CSV has no name for": (file("f.csv", b"question,context\na,b,c\n"), ["f.csv", "line 2", "fields"]),
    "context that is a number": (file("f.json", [row(context=5)]), ["f.json", "row 1", "'context' is a number (5)"]),
    "v2 file without the flag": (
        file("f.json", [row(), row(id="q8", answers={"text": [], "answer_start": []})]),
        ["f.json", "q8", "--version_2_with_negative"],
    ),
    "ids that command a terminal": (file("f.json", [row(id="q\x1b[2J"), row(id="q\x1b[2J")]), ["f.json", "unique"]),
    "column with a long name": (file("f.json", [{"x" * 5000: 1}]), ["f.json", "row 1", "'context' column"]),
    "duplicate ids": (file("f.json", [row(), row()]), ["f.json", "'q7'", "unique"]),
    "answer start beyond 32 bits": (
        file("f.json", [row(answers={"text": ["Ann"], "answer_start": [10**11]})]),
        ["f.json", "row 1", "100000000000"],
    ),
    "answers of two lengths": (
        file("f.json", [row(answers={"text": ["Ann"], "answer_start": []})]),
        ["f.json", "row 1", "as many 'text' as 'answer_start'"],
    ),
    "lone surrogate": (file("f.json", [row(context="Ann \ud800")]), ["f.json", "row 1", "surrogate", "position 4"]),
    "bytes of a lone surrogate": (file("f.jsonl", '{"question": "\ud800"}'), ["f.jsonl", "not UTF-8"]),
    "zero-width question": (file("f.json", [row(question="\u200b\u200d\ufeff")]), ["f.json", "q7", "its question"]),
    "zero-width context": (file("f.json", [row(context="\u2060 \u200b")]), ["f.json", "q7", "its context"]),
    "question as long as the window": (
        file("f.json", [row(context=CONTEXT * 20, question="who " * 500)]),
        ["question q7 has 500 tokens", "--max_seq_length 384"],
    ),
    # data sets
    "missing data set": ({**HUB, "--dataset_name": "./no-such-data"}, ["./no-such-data", "local folder"]),
    "data set that is no folder": ({**HUB, "--dataset_name": SAMPLE / "make_sample.py"}, ["--dataset_name"]),
    "file format as data set": ({**HUB, "--dataset_name": "pandas"}, ["--dataset_name pandas", "--train_file"]),
    "data set that is not cached": (
        {**HUB, "--dataset_name": "nobody/no-such-data"},
        ["--dataset_name nobody/no-such-data", "offline", "local folder"],
    ),
    # models
    "missing model folder": ({"--model_name_or_path": "./no-such-model"}, ["--model_name_or_path", "no-such-model"]),
    "model that is not cached": (
        {"--model_name_or_path": "nobody/no-such-model"},
        ["--model_name_or_path nobody/no-such-model", "offline", "local folder"],
    ),
    "name that cannot be a model's": ({"--model_name_or_path": "a b?*"}, ["--model_name_or_path a b?*"]),
    "model name that no system takes": ({"--model_name_or_path": "x" * 1000}, ["--model_name_or_path xxx"]),
    "file as model": ({"--model_name_or_path": SAMPLE / "dev.json"}, ["--model_name_or_path", "dev.json"]),
    "folder without a model": ({"--model_name_or_path": SAMPLE}, ["--model_name_or_path", "config.json"]),
    "missing tokenizer": ({"--tokenizer_name": "./no-such-tokenizer"}, ["--tokenizer_name", "no-such-tokenizer"]),
    "missing configuration": ({"--config_name": "./no-such-config"}, ["--config_name", "no-such-config"]),
    "cache folder that is a file": ({"--cache_dir": SAMPLE / "make_sample.py"}, ["--cache_dir"]),
    "cache folder where none can be": ({"--cache_dir": "/proc/cache"}, ["--cache_dir", "/proc/cache"]),
    "no configuration": (model(remove("config.json")), ["config.json"]),
    "no weights": (model(remove("model.safetensors")), ["model.safetensors", "pytorch_model.bin"]),
    "truncated weights": (model(write("model.safetensors", lambda old: old[: len(old) // 2])), ["cannot be loaded"]),
    "weights without a header": (model(write("model.safetensors", b"\xff" * 100)), ["cannot be loaded"]),
    "empty weights": (model(write("model.safetensors", b"")), ["cannot be loaded"]),
    "weights of another model": (
        model(change_weights(lambda weights: {f"x.{name}": value for name, value in weights.items()})),
        ["the weights lack", "embeddings"],
    ),
    "weights without a head": (
        model(change_weights(lambda weights: {n: value for n, value in weights.items() if "qa_outputs" not in n})),
        ["lack 2", "qa_outputs"],
    ),
    "weights that are no numbers": (
        model(change_weights(lambda weights: {name: value * float("nan") for name, value in weights.items()})),
        ["not finite"],
    ),
    "weights of another shape": (model(change_json("config.json", dim=64)), ["cannot be loaded"]),
    "int8 weights": (model(save_as_bin), ["pytorch_model.bin holds no fp32 weights"]),
    "quantized model": (model(change_json("config.json", torch_dtype="int8")), ["quantized already", "fp32"]),
    "broken configuration": (model(write("config.json", b"{")), ["cannot be loaded"]),
    "configuration in UTF-16": (model(write("config.json", "{}".encode("utf-16"))), ["cannot be loaded"]),
    "configuration that is a list": (model(write("config.json", b"[1]")), ["cannot be loaded"]),
    "configuration of no known model": (model(change_json("config.json", model_type="x")), ["cannot be loaded"]),
    "word for a number in the configuration": (
        model(change_json("config.json", max_position_embeddings="many")),
        ["max_position_embeddings is 'many'"],
    ),
    "negative size in the configuration": (model(change_json("config.json", dim=-5)), ["cannot be loaded"]),
    "no question-answering head": (
        model(without_head(["DistilBertForMaskedLM"])),
        ["question-answering head", "DistilBertForMaskedLM"],
    ),
    "no architecture": (model(without_head(None)), ["question-answering head"]),
    "architecture that is a number": (model(without_head([5])), ["question-answering head"]),
    "head of three labels": (
        model(change_weights(with_three_labels)),
        ["qa_outputs", "[3]", "[2]", "name a saved model"],
    ),
    "fewer positions than the weights have": (
        model(change_json("config.json", max_position_embeddings=256)),
        ["position_embeddings", "[512, 128]", "[256, 128]", "config.json"],
    ),
    "pointers in place of weights": (
        model(write("model.safetensors", POINTER)),
        ["model.safetensors", "git lfs pull"],
    ),
    "pointers in place of a tokenizer": (model(write("tokenizer.json", POINTER)), ["tokenizer.json", "git lfs pull"]),
    "a pointer in place of questions": (file("f.json", POINTER), ["f.json", "git lfs pull"]),
    "fewer words than the tokenizer has": (model(change_json("config.json", vocab_size=9)), ["9", "tokenizer has"]),
    "no tokenizer": (model(remove("tokenizer.json", "vocab.txt", "tokenizer_config.json")), ["--tokenizer_name"]),
    "empty tokenizer": (model(write("tokenizer.json", b"{}")), ["--tokenizer_name", "cannot be loaded"]),
    "truncated tokenizer": (
        model(write("tokenizer.json", lambda old: old[: len(old) // 2])),
        ["--tokenizer_name", "cannot be loaded"],
    ),
    "broken tokenizer settings": (model(write("tokenizer_config.json", b"[")), ["--tokenizer_name"]),
    "slow tokenizer": (model(only_python_tokenizer), ["CanineTokenizer", "tokenizer.json"]),
    "tokenizer without special tokens": (model(tokenizer_without_special_tokens), ["--tokenizer_name", "CLS"]),
    # settings in YAML
    "missing settings": (
        {"--apply_quantization": True, "--quantization_config": "no-such.yml"},
        ["--quantization_config no-such.yml"],
    ),
    "bomb of aliases": (settings(LAUGHS, "quantization"), ["settings.yml", "unfolds"]),
    "Python tag": (settings("op_type_dict: !!python/object/apply:os.getcwd []", "quantization"), ["line 1", "tag"]),
    "settings that are a list": (settings("- 1", "quantization"), ["settings.yml, line 1", "mapping"]),
    "unknown setting": (settings("approach: x\nno_such: 1", "quantization"), ["settings.yml, line", "unknown key"]),
    "setting of a wrong type": (
        settings("recipes: {weight_correction: often}", "quantization"),
        ["settings.yml, line 1", "weight_correction", "'often'", "boolean"],
    ),
    "setting out of range": (
        settings("openvino:\n  smooth_quant_alpha: 7", "quantization"),
        ["settings.yml, line 2", "smooth_quant_alpha is 7", "less than or equal to 1"],
    ),
    # output folders
    "output folder that is a file": (occupied, ["--output_dir", "is a file"]),
    "output folder with other things": (full, ["--output_dir", "thesis.tex", "--overwrite_output_dir"]),
    "output folder inside a file": (inside_a_file, ["--output_dir", "good.json is a file"]),
    "output folder where none can be": ({"--output_dir": "/proc/out"}, ["--output_dir /proc/out"]),
    "output name that no system takes": ({"--output_dir": "x" * 1000}, ["--output_dir xxx"]),
    "output folder without a name": (arguments("a.yaml", '+output_dir: "a\\0b"'), ["--output_dir"]),
}

TRAINING = {
    # arguments
    "unknown pruning": (
        {"--apply_pruning": True, "--pruning_approach": "scissors"},
        ["--pruning_approach", "scissors", "snip_momentum"],
    ),
    "sparsity of one": ({"--target_sparsity": 1}, ["--target_sparsity is 1"]),
    "negative sparsity": ({"--target_sparsity": -0.1}, ["--target_sparsity is -0.1"]),
    "sparsity that is no number": ({"--target_sparsity": "nan"}, ["--target_sparsity is nan"]),
    "negative start": ({"--apply_pruning": True, "--start_step": -1}, ["--start_step is -1"]),
    "end before start": (
        {"--apply_pruning": True, "--start_step": 9, "--end_step": 3},
        ["--end_step is 3", "--start_step, which is 9"],
    ),
    "huge end": ({"--apply_pruning": True, "--end_step": 2**70}, [f"--end_step is {2**70}"]),
    "heads without pruning": ({"--prune_heads": 0.5}, ["--prune_heads", "--apply_pruning"]),
    "all heads": ({"--apply_pruning": True, "--prune_heads": 1}, ["--prune_heads is 1.0", "below 1"]),
    "channels that are no number": ({"--apply_pruning": True, "--prune_ffn": "nan"}, ["--prune_ffn is nan"]),
    "model that shares its layers": (
        lambda folder: {
            **model(change_json("config.json", model_type="albert"))(folder),
            **{"--apply_pruning": True, "--prune_ffn": 0.5},
        },
        ["type albert", "--prune_ffn", "distilbert"],
    ),
    "hidden states of stored logits": (
        lambda folder: {**settings("intermediate: {}", "distillation")(folder), "--generate_teacher_logits": True},
        ["--generate_teacher_logits", "intermediate"],
    ),
    "negative learning rate": ({"--learning_rate": -1e-5}, ["--learning_rate is -1e-05"]),
    "learning rate that is no number": ({"--learning_rate": "nan"}, ["--learning_rate is nan"]),
    "infinite learning rate": ({"--learning_rate": "inf"}, ["--learning_rate is inf"]),
    "zero epochs": ({"--num_train_epochs": 0}, ["--num_train_epochs is 0"]),
    "negative epochs": ({"--num_train_epochs": -2}, ["--num_train_epochs is -2"]),
    "infinitely many epochs": ({"--num_train_epochs": "inf"}, ["--num_train_epochs is inf"]),
    "huge number of epochs": ({"--num_train_epochs": 1e30}, ["--num_train_epochs is 1e+30"]),
    "zero steps": ({"--max_steps": 0}, ["--max_steps is 0"]),
    "negative steps": ({"--max_steps": -7}, ["--max_steps is -7"]),
    "huge number of steps": ({"--max_steps": 10**12}, [f"--max_steps is {10**12}"]),
    "warmup above the whole": ({"--warmup_ratio": 1.5}, ["warmup_ratio"]),
    "warmup that is no number": ({"--warmup_ratio": "nan"}, ["--warmup_ratio is nan"]),
    "negative warmup": ({"--warmup_steps": -3}, ["warmup_steps", "0 or"]),
    "no accumulation": ({"--gradient_accumulation_steps": 0}, ["--gradient_accumulation_steps is 0"]),
    "negative accumulation": ({"--gradient_accumulation_steps": -1}, ["--gradient_accumulation_steps is -1"]),
    "zero training batch": ({"--per_device_train_batch_size": 0}, ["--per_device_train_batch_size is 0"]),
    "huge training batch": ({"--per_device_train_batch_size": 10**12}, ["--per_device_train_batch_size"]),
    "negative weight decay": ({"--weight_decay": -0.1}, ["--weight_decay is -0.1"]),
    "beta of one": ({"--adam_beta1": 1}, ["--adam_beta1 is 1"]),
    "negative gradient norm": ({"--max_grad_norm": -1}, ["--max_grad_norm is -1"]),
    "zero steps to a checkpoint": ({"--save_steps": 0}, ["--save_steps is 0"]),
    "negative data seed": ({"--data_seed": -1}, ["--data_seed is -1"]),
    "negative number of loaders": ({"--dataloader_num_workers": -1}, ["--dataloader_num_workers is -1"]),
    "huge number of loaders": ({"--dataloader_num_workers": 10**9}, ["--dataloader_num_workers"]),
    "unknown schedule": ({"--lr_scheduler_type": "steep"}, ["--lr_scheduler_type", "steep"]),
    "training without questions": ({"--train_file": None}, ["--do_train", "--train_file"]),
    "compression without training": (
        {"--do_train": None, "--apply_quantization": True},
        ["--apply_quantization", "--do_train"],
    ),
    "tracker without a training": (
        {"--do_train": None, "--train_file": None, "--report_to": "tensorboard"},
        ["--report_to", "nothing is trained"],
    ),
    "nothing to do at all": ({"--do_train": None, "--do_eval": None}, ["--do_train", "--do_predict"]),
    "IPEX in training": ({"--use_ipex": True}, ["--use_ipex", "run_qa_post_training.py"]),
    "int8 in fp16": ({"--apply_quantization": True, "--fp16": True, "--no_cuda": True}, ["--fp16", "fake-quant"]),
    "int8 in bf16": ({"--apply_quantization": True, "--bf16": True, "--no_cuda": True}, ["--bf16", "fake-quant"]),
    "distillation without a teacher": ({"--apply_distillation": True}, ["--teacher_model_name_or_path"]),
    "logits without distillation": ({"--generate_teacher_logits": True}, ["--apply_distillation"]),
    # arguments of transformers that do not work, or not alone
    "mixed precision of GPUs on a CPU": ({"--fp16": True, "--no_cuda": True}, ["--fp16"]),
    "smoothed labels": ({"--label_smoothing_factor": 0.1}, ["--label_smoothing_factor", "no smoothing"]),
    "batch size for each GPU": ({"--per_gpu_train_batch_size": 4}, ["--per_device_train_batch_size"]),
    "shards": ({"--fsdp_min_num_params": 5}, ["--fsdp_min_num_params", "whole models"]),
    "batch size that is found": ({"--auto_find_batch_size": True}, ["--auto_find_batch_size"]),
    "kernels for decoders": ({"--use_liger_kernel": True}, ["--use_liger_kernel"]),
    "evaluation in fp16": ({"--fp16_full_eval": True, "--no_cuda": True}, ["--fp16_full_eval"]),
    "optimizer of a missing package": ({"--optim": "lomo"}, ["--optim lomo", "lomo_optim", "adamw_torch"]),
    "8-bit optimizer": ({"--optim": "adamw_8bit"}, ["--optim adamw_8bit", "bitsandbytes"]),
    "plateau without a score": (
        {"--lr_scheduler_type": "reduce_lr_on_plateau", "--eval_strategy": "epoch"},
        ["reduce_lr_on_plateau", "--metric_for_best_model f1", "--lr_scheduler_kwargs"],
    ),
    "plateau of a score to be lowered": (
        {"--lr_scheduler_type": "reduce_lr_on_plateau", "--eval_strategy": "epoch", "--metric_for_best_model": "f1"},
        ["reduce_lr_on_plateau", "max"],
    ),
    "schedule without what it takes": (
        {"--lr_scheduler_type": "warmup_stable_decay"},
        ["--lr_scheduler_type warmup_stable_decay", "--lr_scheduler_kwargs {}", "num_stable_steps"],
    ),
    "schedule with what it does not take": (
        {"--lr_scheduler_type": "cosine_with_restarts", "--lr_scheduler_kwargs": '{"foo": 1}'},
        ["--lr_scheduler_type cosine_with_restarts", '--lr_scheduler_kwargs {"foo": 1}', "'foo'"],
    ),
    "schedule that would rise": (
        {"--lr_scheduler_type": "polynomial", "--lr_scheduler_kwargs": '{"lr_end": 1.0}'},
        ["--lr_scheduler_type polynomial", "lr_end (1.0)"],
    ),
    "arguments of an optimizer without names": ({"--optim_args": "fast"}, ["--optim_args", "'fast'", "NAME=VALUE"]),
    "plateau without evaluation": ({"--lr_scheduler_type": "reduce_lr_on_plateau"}, ["eval strategy"]),
    "compiled and pruned": (
        {"--torch_compile": True, "--apply_pruning": True},
        ["--torch_compile", "without pruning"],
    ),
    "layers that look twice": (
        {"--gradient_checkpointing": True, "--gradient_checkpointing_kwargs": '{"use_reentrant": true}'},
        ["--gradient_checkpointing_kwargs", "use_reentrant"],
    ),
    "all features dropped": ({"--dataloader_drop_last": True}, ["--dataloader_drop_last", "1 features", "of 8"]),
    "schedule longer than the training": (
        {"--apply_pruning": True, "--start_step": 30},
        ["from step 30", "does not fit into 3 training steps", "--start_step"],
    ),
    # arguments of a compression that is not asked for
    "sparsity without pruning": ({"--target_sparsity": 0.5}, ["--target_sparsity 0.5", "--apply_pruning"]),
    "start without pruning": ({"--start_step": 5}, ["--start_step 5", "--apply_pruning"]),
    "approach without pruning": (
        {"--pruning_approach": "magnitude"},
        ["--pruning_approach magnitude", "--apply_pruning"],
    ),
    "teacher without distillation": (
        {"--teacher_model_name_or_path": TEACHER},
        ["--teacher_model_name_or_path", "--apply_distillation"],
    ),
    # question files
    "answers at places that cannot be told": (
        file("f.json", [row(answers={"text": ["nowhere"], "answer_start": [0]})], "--train_file"),
        ["--train_file", "question q7", "answer_start"],
    ),
    "training questions of v2 without the flag": (
        file("f.json", [row(answers={"text": [], "answer_start": []})], "--train_file"),
        ["--train_file", "q7", "--version_2_with_negative"],
    ),
    "test questions twice": (
        lambda folder: {**file("f.json", [row(), row()], "--test_file")(folder), "--do_predict": True},
        ["--test_file", "'q7'"],
    ),
    "missing checkpoint": (
        {"--resume_from_checkpoint": "out/checkpoint-9"},
        ["--resume_from_checkpoint out/checkpoint-9", "no such folder"],
    ),
    # models
    "quantized model as base": (model(change_json("config.json", torch_dtype="int8")), ["quantized already"]),
    "int8 weights as base": (model(save_as_bin), ["pytorch_model.bin holds no fp32 weights"]),
    "base weights of another model": (
        model(change_weights(lambda weights: {f"x.{name}": value for name, value in weights.items()})),
        ["the weights lack", "embeddings"],
    ),
    "missing teacher": (
        {**DISTIL, "--teacher_model_name_or_path": "./no-such"},
        ["--teacher_model_name_or_path ./no-such", "local folder"],
    ),
    "teacher that is not cached": (
        {**DISTIL, "--teacher_model_name_or_path": "nobody/no-such"},
        ["--teacher_model_name_or_path nobody/no-such", "offline", "local folder"],
    ),
    "teacher of another vocabulary": (
        teacher(with_other_word),
        ["--teacher_model_name_or_path", "another vocabulary"],
    ),
    "teacher without weights": (
        teacher(remove("model.safetensors")),
        ["--teacher_model_name_or_path", "model.safetensors"],
    ),
    "truncated teacher": (
        teacher(write("model.safetensors", lambda old: old[:999])),
        ["--teacher_model_name_or_path", "cannot be loaded"],
    ),
    "teacher without a head": (
        teacher(without_head(["BertModel"])),
        ["--teacher_model_name_or_path", "question-answering head"],
    ),
    "teacher that is too short": (
        teacher(with_positions(128)),
        ["--max_seq_length is 384", "128", "--teacher_model_name_or_path"],
    ),
    # settings in YAML
    "bomb of aliases in pruning": (settings(LAUGHS, "pruning"), ["settings.yml", "unfolds"]),
    "Python tag in pruning": (settings("pattern: !!python/name:os.system", "pruning"), ["line 1", "python/name"]),
    "unknown key in pruning": (settings("target_sparsty: 0.5", "pruning"), ["line 1", "target_sparsty"]),
    "wrong type in pruning": (settings("pattern: [4, 1]", "pruning"), ["line 1", "pattern is a list of 2"]),
    "out of range in pruning": (settings("target_sparsity: 1.5", "pruning"), ["line 1", "target_sparsity is 1.5"]),
    "unknown key in distillation": (settings("temprature: 2", "distillation"), ["line 1", "temprature"]),
    "wrong type in distillation": (settings("temperature: hot", "distillation"), ["line 1", "'hot'", "number"]),
    "out of range in distillation": (
        settings("loss_weights: [0.5, 2]", "distillation"),
        ["line 1", "less than or equal to 1"],
    ),
    "wrong sum in distillation": (settings("loss_weights: [0.5, 0.6]", "distillation"), ["line 1", "sum to 1"]),
    "settings without their flag": ({"--pruning_config": "prune.yml"}, ["--pruning_config prune.yml", "--apply_prun"]),
    # output folders
    "output folder that is the model's": (
        lambda folder: {**model(remove())(folder), "--output_dir": folder / "model"},
        ["--output_dir", "model's own folder"],
    ),
    "output of a training that is a file": (occupied, ["--output_dir", "is a file"]),
}

EXPORT = {
    # arguments
    "unknown format": ({"--export_format": "tflite"}, ["--export_format", "tflite", "openvino"]),
    "quantization without training questions": (
        {"--apply_quantization": True},
        ["--apply_quantization", "--train_file"],
    ),
    "approach that exports do not have": ({"--quantization_approach": "aware"}, ["--quantization_approach", "aware"]),
    "IPEX in an export": ({"--use_ipex": True}, ["--use_ipex", "run_qa_post_training.py"]),
    "bf16 in an export": ({"--bf16": True, "--no_cuda": True}, ["--bf16", "run_qa_post_training.py"]),
    "tracker of an export": ({"--report_to": "tensorboard"}, ["--report_to"]),
    "no calibration": ({"--num_calibration_samples": 0}, ["--num_calibration_samples is 0"]),
    "verification of an export of nothing": (
        {"--verify_loading": True, "--do_eval": None},
        ["--verify_loading", "--do_eval"],
    ),
    "report of nothing": ({"--report": True, "--do_eval": None}, ["--report", "--do_eval"]),
    "export to a hub that is not there": ({"--push_to_hub": True}, ["--push_to_hub", "HF_HUB_OFFLINE"]),
    # question files
    "calibration questions that are none": (
        lambda folder: {**file("f.json", b"{", "--train_file")(folder), "--apply_quantization": True},
        ["f.json", "not valid JSON"],
    ),
    # models
    "quantized export of a quantized model": (
        lambda folder: {
            **model(change_json("config.json", torch_dtype="int8"))(folder),
            **{"--apply_quantization": True, "--train_file": folder / "good.json"},
        },
        ["quantized already"],
    ),
    "export of int8 weights": (model(save_as_bin), ["pytorch_model.bin holds no fp32 weights"]),
    "export of an export": (
        model(lambda folder: (folder / "model.safetensors").rename(folder / "model.onnx")),
        ["--model_name_or_path", "holds none of model.safetensors"],
    ),
    "export without a head": (
        model(without_head(["DistilBertForMaskedLM"])),
        ["question-answering head"],
    ),
    # output folders
    "export into the model's folder": (
        lambda folder: {**model(remove())(folder), "--output_dir": folder / "model"},
        ["--output_dir", "model's own folder"],
    ),
    "export to other things": (full, ["--output_dir", "thesis.tex", "--overwrite_output_dir"]),
}

TABLE = [
    pytest.param(script, *entry, id=name)
    for script, rows in (("run_qa_post_training", POST_TRAINING), ("run_qa", TRAINING), ("export_qa", EXPORT))
    for name, entry in rows.items()
]


@pytest.mark.recipe
@pytest.mark.parametrize(("script", "changes", "expected"), TABLE)
def test_bad_input_is_refused_in_one_line(script, changes, expected, tmp_path):
    flags = good_flags(script, tmp_path)
    if callable(changes):
        changes = changes(tmp_path)
    words = list(map(str, changes)) if isinstance(changes, list) else as_words({**flags, **changes})
    workdir = tmp_path / "workdir"
    workdir.mkdir()
    before = contents(tmp_path)
    finished = forked_main.run(f"{script}.py", *words, cwd=workdir, kind="arguments", limited=True)
    assert finished.returncode == 2, finished.stderr
    assert finished.stderr.startswith("error: ")
    assert len(finished.stderr.splitlines()) == 1, finished.stderr
    assert finished.stderr[:-1].isprintable()
    assert len(finished.stderr) < 1000
    for part in expected:
        assert part in finished.stderr
    assert finished.stdout == ""
    assert finished.heavy == [], "imported before the input was refused"
    assert contents(tmp_path) == before


@pytest.mark.parametrize("script", ["run_qa_post_training", "run_qa", "export_qa"])
def test_the_flags_that_the_table_changes_are_good(script, tmp_path, monkeypatch):
    """Else every row would be refused for what they have in common."""
    import importlib

    monkeypatch.chdir(tmp_path)
    flags = {**good_flags(script, tmp_path), "--do_train": None}
    monkeypatch.setattr(sys, "argv", [f"{script}.py", *as_words(flags)])
    importlib.import_module(script).main()
    assert (tmp_path / "out" / "eval_results.json").is_file()


# --- the same as a process ---

IMPORTED = re.compile(rf"^import time:.*\| +({'|'.join(forked_main.HEAVY)})$", re.MULTILINE)


@pytest.mark.recipe
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"--use_ipex": True, "--apply_quantization": True}, "--quantization_approach static"),
        (file("broken.json", b"{"), "not valid JSON"),
        ({"--max_seq_length": 1000, "--doc_stride": 600}, "512"),
        ({"--model_name_or_path": "nobody/no-such-model"}, "cannot be reached (offline)"),
    ],
    ids=["arguments", "file", "model", "hub"],
)
def test_a_refusal_is_all_that_a_process_does(changes, expected, tmp_path):
    flags = good_flags("run_qa_post_training", tmp_path)
    flags.update(changes(tmp_path) if callable(changes) else changes)
    workdir = tmp_path / "workdir"
    workdir.mkdir()
    # A hub that nobody answers for, found out by the script itself.
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    environment["HF_ENDPOINT"] = "http://127.0.0.1:9"
    finished = subprocess.run(
        [sys.executable, "-X", "importtime", str(ROOT / "run_qa_post_training.py"), *as_words(flags)],
        cwd=workdir,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    imports = [line for line in finished.stderr.splitlines() if line.startswith("import time:")]
    others = [line for line in finished.stderr.splitlines() if not line.startswith("import time:")]
    assert finished.returncode == 2
    assert len(others) == 1
    assert others[0].startswith("error: ")
    assert expected in others[0]
    assert finished.stdout == ""
    assert imports
    assert not IMPORTED.search(finished.stderr), "heavy libraries were imported to say this"
    assert not (tmp_path / "out").exists()
    assert not list(workdir.iterdir())
