"""Wrong arguments and files: one line that names the flag or file and what is wrong, exit code 2, nothing written."""

import json
import re
import sys

import pytest
from conftest import SAMPLE, squad_file

import run_qa_post_training

CONTEXT = "Ann met Bob in Rome, and then they went to Athens."


def good_words(tmp_path):
    """A complete and quick run: --do_eval of one question with the sample model."""
    return {
        "--model_name_or_path": str(SAMPLE / "distilbert-qa"),
        "--validation_file": str(squad_file(tmp_path / "good.json", [(CONTEXT, [("q1", "Who?", [("Ann", 0)])])])),
        "--output_dir": str(tmp_path / "out"),
        "--do_eval": "true",
    }


def run_main(words, monkeypatch, capsys):
    """Run the script's `main` in this process; return `(exit code, standard error)`."""
    monkeypatch.setattr(sys, "argv", ["run_qa_post_training.py", *map(str, words)])
    capsys.readouterr()
    try:
        run_qa_post_training.main()
    except SystemExit as error:
        return error.code, capsys.readouterr().err
    return 0, capsys.readouterr().err


def assert_refused(code, stderr, expected, late=False):
    """`late`: progress bars may stand above the line."""
    assert code == 2, stderr
    if late:
        stderr = stderr.splitlines(keepends=True)[-1]
    assert stderr.startswith("error: ")
    assert len(stderr.splitlines()) == 1, stderr
    assert stderr.endswith("\n")
    for part in expected:
        assert part in stderr
    assert len(stderr) < 1500


# name -> (flags that differ from a good run, None to leave one out; what the line must hold)
ARGUMENTS = {
    "unknown flag": ({"--no_such_flag": "1"}, ["--no_such_flag"]),
    "misspelt flag": ({"--apply_quantisation": ""}, ["--apply_quantisation"]),
    "abbreviated flag": ({"--doc_str": "5"}, ["--doc_str"]),
    "stray word": ({"stray": ""}, ["stray"]),
    "no model": ({"--model_name_or_path": None}, ["--model_name_or_path"]),
    "no output folder": ({"--output_dir": None}, ["--output_dir"]),
    "unknown approach": ({"--quantization_approach": "aware"}, ["--quantization_approach", "aware", "static"]),
    "word for a number": ({"--max_seq_length": "long"}, ["--max_seq_length", "long"]),
    "fraction for a whole number": ({"--doc_stride": "1.5"}, ["--doc_stride", "1.5"]),
    "word for true or false": ({"--version_2_with_negative": "maybe"}, ["--version_2_with_negative", "maybe"]),
    "flag without its value": ({"--max_seq_length": ""}, ["--max_seq_length"]),
    "unknown log level": ({"--log_level": "loud"}, ["--log_level", "loud"]),
    "IPEX with dynamic": (
        {"--apply_quantization": "", "--use_ipex": ""},
        ["--use_ipex", "--quantization_approach static"],
    ),
    "bf16 with dynamic": ({"--apply_quantization": "", "--bf16": "", "--no_cuda": ""}, ["--bf16", "--use_ipex"]),
    "bf16 without IPEX": (
        {"--apply_quantization": "", "--quantization_approach": "static", "--bf16": "", "--no_cuda": ""},
        ["--bf16", "--use_ipex"],
    ),
    "static without training questions": (
        {"--apply_quantization": "", "--quantization_approach": "static"},
        ["--quantization_approach static", "--train_file"],
    ),
    "zero length": ({"--max_seq_length": "0", "--doc_stride": "0"}, ["--max_seq_length is 0"]),
    "negative length": ({"--max_seq_length": "-384"}, ["--max_seq_length is -384"]),
    "length above the model's": ({"--max_seq_length": "513"}, ["--max_seq_length is 513", "512"]),
    "huge length": ({"--max_seq_length": str(10**30)}, ["--max_seq_length"]),
    "negative stride": ({"--doc_stride": "-1"}, ["--doc_stride is -1"]),
    "stride as long as the window": ({"--doc_stride": "384"}, ["--doc_stride is 384", "--max_seq_length (384)"]),
    "stride above a short window": ({"--max_seq_length": "100"}, ["--doc_stride is 128", "--max_seq_length (100)"]),
    "huge stride": ({"--doc_stride": str(10**30)}, ["--doc_stride"]),
    "stride that leaves no room": ({"--max_seq_length": "132"}, ["question q1", "--doc_stride 128"]),
    "zero n-best": ({"--n_best_size": "0"}, ["--n_best_size is 0"]),
    "negative n-best": ({"--n_best_size": "-20"}, ["--n_best_size is -20"]),
    "zero answer length": ({"--max_answer_length": "0"}, ["--max_answer_length is 0"]),
    "zero workers": ({"--preprocessing_num_workers": "0"}, ["--preprocessing_num_workers is 0"]),
    "negative samples": ({"--max_eval_samples": "-1"}, ["--max_eval_samples is -1"]),
    "zero training samples": ({"--max_train_samples": "0"}, ["--max_train_samples is 0"]),
    "zero test samples": ({"--max_predict_samples": "0"}, ["--max_predict_samples is 0"]),
    "zero calibration samples": ({"--num_calibration_samples": "0"}, ["--num_calibration_samples is 0"]),
    "negative calibration samples": ({"--num_calibration_samples": "-5"}, ["--num_calibration_samples is -5"]),
    "zero batch size": ({"--per_device_eval_batch_size": "0"}, ["--per_device_eval_batch_size"]),
    "negative batch size": ({"--per_device_eval_batch_size": "-8"}, ["--per_device_eval_batch_size"]),
    "negative seed": (
        {"--apply_quantization": "", "--quantization_approach": "static", "--train_file": "GOOD", "--seed": "-1"},
        ["--seed"],
    ),
    "threshold that is no number": ({"--null_score_diff_threshold": "nan"}, ["--null_score_diff_threshold"]),
    "no questions": ({"--validation_file": None, "--do_eval": None}, ["--dataset_name", "--validation_file"]),
    "nothing to evaluate": ({"--validation_file": None, "--train_file": "GOOD"}, ["--do_eval", "--validation_file"]),
    "nothing to predict": ({"--do_predict": ""}, ["--do_predict", "--test_file"]),
    "missing file": ({"--validation_file": "no/such.json"}, ["--validation_file no/such.json", "no such file"]),
    "missing file that is not used": ({"--train_file": "no/such.json"}, ["--train_file no/such.json"]),
    "folder as file": ({"--validation_file": str(SAMPLE)}, [f"--validation_file {SAMPLE}"]),
    "wrong suffix": ({"--validation_file": str(SAMPLE / "make_sample.py")}, ["make_sample.py", ".json", ".parquet"]),
    "empty file name": ({"--validation_file": ""}, ["--validation_file"]),
    "file name that no system takes": ({"--validation_file": "x" * 1000 + ".json"}, ["--validation_file xxx"]),
    "model name that no system takes": ({"--model_name_or_path": "x" * 1000}, ["--model_name_or_path xxx"]),
    "output name that no system takes": ({"--output_dir": "x" * 1000}, ["--output_dir xxx"]),
    "missing model folder": ({"--model_name_or_path": "./no-such-model"}, ["--model_name_or_path", "no-such-model"]),
    "model that is not on the hub": (
        {"--model_name_or_path": "nobody/no-such-model"},
        ["--model_name_or_path nobody/no-such-model", "local folder"],
    ),
    "name that cannot be a model's": ({"--model_name_or_path": "a b?*"}, ["--model_name_or_path a b?*"]),
    "file as model": ({"--model_name_or_path": str(SAMPLE / "dev.json")}, ["--model_name_or_path", "dev.json"]),
    "folder without a model": ({"--model_name_or_path": str(SAMPLE)}, ["--model_name_or_path", "config.json"]),
    "missing tokenizer": ({"--tokenizer_name": "./no-such-tokenizer"}, ["--tokenizer_name", "no-such-tokenizer"]),
    "missing configuration": ({"--config_name": "./no-such-config"}, ["--config_name", "no-such-config"]),
    "missing data set": ({"--dataset_name": "./no-such-data"}, ["--dataset_name", "no-such-data"]),
    "data set that is no folder": ({"--dataset_name": str(SAMPLE / "make_sample.py")}, ["--dataset_name"]),
    "cache folder that is a file": ({"--cache_dir": str(SAMPLE / "make_sample.py")}, ["--cache_dir"]),
    "missing accelerator file": ({"--accelerator_config": "no-such.json"}, ["no-such.json"]),
    "missing deepspeed": ({"--deepspeed": "no-such.json"}, ["deepspeed"]),
    "verification of nothing": (
        {"--apply_quantization": "", "--verify_loading": "", "--do_eval": None},
        ["--verify_loading", "--do_eval"],
    ),
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_wrong_arguments_are_refused_in_one_line(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    changes, expected = ARGUMENTS[name]
    flags = good_words(tmp_path)
    if changes.get("--train_file") == "GOOD":
        changes = {**changes, "--train_file": flags["--validation_file"]}
    flags.update(changes)
    empty = {"--validation_file"} & changes.keys()
    words = [
        word
        for flag, value in flags.items()
        if value is not None
        for word in ([flag, value] if value or flag in empty else [flag])
    ]
    before = sorted(tmp_path.rglob("*"))
    late = name == "stride that leaves no room"  # known only once the questions are tokenized
    assert_refused(*run_main(words, monkeypatch, capsys), expected, late)
    if not late:
        assert sorted(tmp_path.rglob("*")) == before


# name -> (file name, content, what the line must hold)
FILES = {
    "empty": ("f.json", b"", ["not valid JSON"]),
    "empty CSV": ("f.csv", b"", ["no question"]),
    "truncated": ("f.json", b'{"data": [{"title": ', ["not valid JSON"]),
    "not text": ("f.json", b"\xff\xfe\x00", ["not UTF-8"]),
    "not Parquet": ("f.parquet", b"data", ["Parquet"]),
    "no answers": ("f.jsonl", b'{"id": "q7", "context": "c", "question": "q"}\n', ["question q7", "--do_predict"]),
    "broken row": ("f.jsonl", b'{"id": "q7", "context": "c"}\n', ["line 1", "question"]),
    "unanswerable": (
        "f.jsonl",
        b'{"id": "q7", "context": "c", "question": "q", "answers": {"text": [], "answer_start": []}}\n',
        ["q7", "--version_2_with_negative"],
    ),
    "duplicate ids": (
        "f.jsonl",
        b'{"id": "q7", "context": "c", "question": "q", "answers": {"text": ["c"], "answer_start": [0]}}\n' * 2,
        ["'q7'", "unique"],
    ),
    "question as long as the window": (
        "f.json",
        json.dumps(
            {
                "data": [
                    {
                        "id": "q7",
                        "context": CONTEXT * 20,
                        "question": "who " * 500,
                        "answers": {"text": ["Ann"], "answer_start": [0]},
                    }
                ]
            }
        ).encode(),
        ["question q7 has 500 tokens", "--max_seq_length 384"],
    ),
    "answer start beyond 32 bits": (
        "f.jsonl",
        b'{"id": "q7", "context": "c", "question": "q", "answers": {"text": ["c"], "answer_start": [99999999999]}}\n',
        ["line 1", "99999999999"],
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_broken_files_are_refused_in_one_line(name, tmp_path, monkeypatch, capsys):
    file_name, content, expected = FILES[name]
    (tmp_path / file_name).write_bytes(content)
    flags = {**good_words(tmp_path), "--validation_file": str(tmp_path / file_name)}
    words = [word for pair in flags.items() for word in pair]
    late = name == "question as long as the window"
    code, stderr = run_main(words, monkeypatch, capsys)
    assert_refused(code, stderr, expected if late else [f"--validation_file {tmp_path / file_name}", *expected], late)
    assert late or not (tmp_path / "out").exists()


# name -> (file name, content, what the line must hold); a line that starts with + is added to good arguments
ARGUMENT_FILES = {
    "broken YAML": ("a.yaml", "seed: [1", ["a.yaml", "line 1"]),
    "broken JSON": ("a.json", '{"seed": 1', ["a.json", "line 1"]),
    "empty YAML": ("a.yaml", "", ["a.yaml", "mapping"]),
    "empty JSON": ("a.json", "", ["a.json"]),
    "a list": ("a.yml", "- seed\n- 1\n", ["a.yml", "list", "mapping"]),
    "a text": ("a.json", '"seed"', ["a.json", "mapping"]),
    "required arguments left out": ("a.yaml", "seed: 1", ["--model_name_or_path", "--output_dir"]),
    "code": ("a.yaml", "+seed: !!python/object/apply:os.getcwd []", ["a.yaml", "python/object"]),
    "a Python name": ("a.yaml", "+seed: !!python/name:os.system", ["a.yaml", "python/name"]),
    "unknown key": ("a.yaml", "+no_such_key: 1", ["no_such_key"]),
    "unknown key with a list": ("a.yaml", "+no_such_key: [1, 2]", ["no_such_key"]),
    "key that is a number": ("a.yaml", "+41: 2", ["41"]),
    "list for a number": ("a.yaml", "+max_seq_length: [1, 2]", ["max_seq_length"]),
    "mapping for a number": ("a.yaml", "+max_seq_length: {a: 1}", ["max_seq_length"]),
    "text for a number": ("a.yaml", "+max_seq_length: long", ["max_seq_length", "long"]),
    "wrong truth value": ("a.yaml", "+seed: !!bool maybe", ["a.yaml", "maybe"]),
    "wrong time": ("a.yaml", "+seed: !!timestamp soon", ["a.yaml"]),
    "number without digits": ("a.yaml", "+seed: !!int ''", ["a.yaml"]),
    "mapping that holds itself": ("a.yaml", "+lr_scheduler_kwargs: &x {a: *x}", ["a.yaml", "line 5"]),
    "date in a mapping": ("a.yaml", "+lr_scheduler_kwargs: {a: 2020-01-01}", ["a.yaml", "lr_scheduler_kwargs"]),
    "number with too many digits": ("a.yaml", "+seed: 0x" + "f" * 4000, ["a.yaml"]),
    "deep nesting": ("a.json", "[" * 100_000, ["a.json"]),
    "deep nesting in YAML": ("a.yaml", "[" * 1000, ["a.yaml"]),
    "control character": ("a.yaml", "+seed: \x01", ["a.yaml"]),
    "Latin-1": ("a.yaml", "run_name: für".encode("latin-1"), ["a.yaml"]),
    "missing": ("a.yaml", None, ["a.yaml"]),
}


@pytest.mark.parametrize("name", ARGUMENT_FILES)
def test_broken_argument_files_are_refused_in_one_line(name, tmp_path, monkeypatch, capsys):
    file_name, content, expected = ARGUMENT_FILES[name]
    path = tmp_path / file_name
    if isinstance(content, str):
        if content.startswith("+"):
            good = "".join(f"{flag[2:]}: {json.dumps(value)}\n" for flag, value in good_words(tmp_path).items())
            content = good + content[1:]
        content = content.encode()
    if content is not None:
        path.write_bytes(content)
    assert_refused(*run_main([path], monkeypatch, capsys), expected)
    assert not (tmp_path / "out").exists()


# --- models ---


def change_config(folder, **changes):
    path = folder / "config.json"
    config = {**json.loads(path.read_text(encoding="utf-8")), **changes}
    path.write_text(json.dumps({name: value for name, value in config.items() if value is not None}), encoding="utf-8")


def remove(folder, *names):
    for name in names:
        (folder / name).unlink()


def only_python_tokenizer(folder):
    """CANINE works on characters and has no fast tokenizer."""
    for path in folder.glob("*token*"):
        path.unlink()
    (folder / "vocab.txt").unlink()
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "CanineTokenizer"}', encoding="utf-8")


def tokenizer_without_special_tokens(folder):
    (folder / "special_tokens_map.json").unlink()
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}', encoding="utf-8")


# name -> (damage, what the line must hold)
MODELS = {
    "no configuration": (lambda folder: remove(folder, "config.json"), ["config.json"]),
    "no weights": (lambda folder: remove(folder, "model.safetensors"), ["model.safetensors", "pytorch_model.bin"]),
    "truncated weights": (
        lambda folder: (folder / "model.safetensors").write_bytes((SAMPLE / "dev.json").read_bytes()[:1000]),
        ["cannot be loaded"],
    ),
    "weights of another shape": (lambda folder: change_config(folder, dim=64), ["cannot be loaded"]),
    "broken configuration": (
        lambda folder: (folder / "config.json").write_text("{", encoding="utf-8"),
        ["cannot be loaded"],
    ),
    "configuration that is a list": (
        lambda folder: (folder / "config.json").write_text("[1]", encoding="utf-8"),
        ["cannot be loaded"],
    ),
    "configuration of no known model": (lambda folder: change_config(folder, model_type="x"), ["cannot be loaded"]),
    "no question-answering head": (
        lambda folder: change_config(folder, architectures=["DistilBertForMaskedLM"]),
        ["question-answering head", "DistilBertForMaskedLM"],
    ),
    "no architecture": (lambda folder: change_config(folder, architectures=None), ["question-answering head"]),
    "architecture that is a number": (lambda folder: change_config(folder, architectures=[5]), ["model"]),
    "quantized": (lambda folder: change_config(folder, torch_dtype="int8"), ["quantized already", "fp32"]),
    "shorter than the window": (
        lambda folder: change_config(folder, max_position_embeddings=256),
        ["--max_seq_length is 384", "256"],
    ),
    "no tokenizer": (
        lambda folder: remove(folder, "tokenizer.json", "vocab.txt", "tokenizer_config.json"),
        ["--tokenizer_name", "cannot be loaded"],
    ),
    "broken tokenizer": (
        lambda folder: (folder / "tokenizer.json").write_text("{}", encoding="utf-8"),
        ["--tokenizer_name", "cannot be loaded"],
    ),
    "tokenizer without character positions": (only_python_tokenizer, ["CanineTokenizer", "tokenizer.json"]),
    "tokenizer without special tokens": (tokenizer_without_special_tokens, ["--tokenizer_name", "CLS"]),
}


@pytest.mark.parametrize("name", MODELS)
def test_models_that_cannot_be_used_are_refused_in_one_line(name, model, tmp_path, monkeypatch, capsys):
    damage, expected = MODELS[name]
    damage(model)
    flags = {**good_words(tmp_path), "--model_name_or_path": str(model)}
    code, stderr = run_main([word for pair in flags.items() for word in pair], monkeypatch, capsys)
    assert_refused(code, stderr, [str(model), *expected] if "window" not in name else expected)
    if name not in ("truncated weights", "weights of another shape"):  # known only once they are loaded
        assert not (tmp_path / "out").exists()


# --- output folders ---


def test_an_output_folder_that_is_a_file_is_refused(tmp_path, monkeypatch, capsys):
    (tmp_path / "out").write_text("mine", encoding="utf-8")
    words = [word for pair in good_words(tmp_path).items() for word in pair]
    assert_refused(*run_main(words, monkeypatch, capsys), [f"--output_dir {tmp_path / 'out'}"])
    assert (tmp_path / "out").read_text(encoding="utf-8") == "mine"


def test_an_output_folder_inside_a_file_is_refused(tmp_path, monkeypatch, capsys):
    flags = good_words(tmp_path)
    flags["--output_dir"] = f"{flags['--validation_file']}/out"
    words = [word for pair in flags.items() for word in pair]
    assert_refused(*run_main(words, monkeypatch, capsys), [f"--output_dir {flags['--output_dir']}"])


# --- the same as a process ---

HEAVY = re.compile(r"^import time:.*\| +(intel_extension_for_pytorch|neural_compressor|optimum)$", re.MULTILINE)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"--use_ipex": "true", "--apply_quantization": "true"}, "--quantization_approach static"),
        ({"--validation_file": "BROKEN"}, "not valid JSON"),
        ({"--max_seq_length": "1000"}, "512"),
    ],
    ids=["arguments", "file", "model"],
)
def test_a_refusal_is_all_that_a_process_does(changes, expected, tmp_path, run_script):
    (tmp_path / "broken.json").write_text("{", encoding="utf-8")
    flags = {**good_words(tmp_path), **changes}
    if flags["--validation_file"] == "BROKEN":
        flags["--validation_file"] = str(tmp_path / "broken.json")
    finished = run_script(*[word for pair in flags.items() for word in pair], python_flags=["-X", "importtime"])
    imports = [line for line in finished.stderr.splitlines() if line.startswith("import time:")]
    others = [line for line in finished.stderr.splitlines() if not line.startswith("import time:")]
    assert finished.returncode == 2
    assert len(others) == 1
    assert others[0].startswith("error: ")
    assert expected in others[0]
    assert finished.stdout == ""
    assert imports
    assert not HEAVY.search(finished.stderr), "heavy libraries were imported to say this"
    assert not (tmp_path / "out").exists()
    assert not list((tmp_path / "workdir").iterdir())


def test_the_good_run_that_all_this_is_measured_against(tmp_path, monkeypatch, capsys):
    words = [word for pair in good_words(tmp_path).items() for word in pair]
    code, stderr = run_main(words, monkeypatch, capsys)
    assert code == 0, stderr
    assert (tmp_path / "out" / "eval_results.json").is_file()
