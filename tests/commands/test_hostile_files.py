"""Files from strangers that would leave a mark if anything in them ran: none does, and each is refused in one line."""

import io
import json
import os
import pickle
import shutil
import tarfile

import forked_main
import pytest
from conftest import SAMPLE
from test_bad_input import TEACHER, as_words, good_flags

from qa.models.compressed import check_torchscript, load_compressed, load_pickled
from qa.start.errors import UsageError

MODEL = SAMPLE / "distilbert-qa"


class Hostile:
    """Leaves the mark when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (os.mkdir, (str(self.mark),))


def hostile_module(mark):
    return f"import os\nos.mkdir({str(mark)!r})\n"


def save_pickled(path, content, old_format=False):
    import torch

    torch.save(content, path, _use_new_zipfile_serialization=not old_format)


def copy_of(source, folder):
    shutil.copytree(source, folder / source.name)
    return folder / source.name


def change_json(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}), encoding="utf-8")


def hostile_script(path, mark):
    """Save a TorchScript program that writes a file while it is loaded."""
    import torch

    program = type("Program", (torch.jit.ScriptModule,), {})()
    program.define(
        f"""
        def forward(self, x):
            return x
        def __getstate__(self):
            return 0
        def __setstate__(self, state: int):
            torch.save(torch.zeros(1), {json.dumps(str(mark))})
            self.training = False
        """
    )
    program.save(str(path))


# --- what a run is given: functions of a folder and a mark that write files and return the flags that lead to them ---


def model_with(write):
    def prepare(folder, mark):
        model = copy_of(MODEL, folder)
        write(model, mark)
        return {"--model_name_or_path": model}

    return prepare


def pickled_weights(model, mark, old_format=False):
    (model / "model.safetensors").unlink()
    save_pickled(model / "pytorch_model.bin", {"qa_outputs.bias": Hostile(mark)}, old_format)


def weights_of_an_older_torch(model, mark):
    pickled_weights(model, mark, old_format=True)


def plain_pickle(model, mark):
    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_bytes(pickle.dumps(Hostile(mark)))


def pickled_shard(model, mark):
    (model / "model.safetensors").unlink()
    save_pickled(model / "pytorch_model-00001-of-00001.bin", {"qa_outputs.bias": Hostile(mark)})
    index = {"metadata": {}, "weight_map": {"qa_outputs.bias": "pytorch_model-00001-of-00001.bin"}}
    (model / "pytorch_model.bin.index.json").write_text(json.dumps(index), encoding="utf-8")


def shard_by_another_name(model, mark):
    pickled_shard(model, mark)
    (model / "pytorch_model-00001-of-00001.bin").rename(model / "weights.pt")
    path = model / "pytorch_model.bin.index.json"
    path.write_text(path.read_text().replace("pytorch_model-00001-of-00001.bin", "weights.pt"), encoding="utf-8")


def pickle_named_safetensors(model, mark):
    save_pickled(model / "model.safetensors", {"qa_outputs.bias": Hostile(mark)})


def program_as_weights(model, mark):
    (model / "model.safetensors").unlink()
    hostile_script(model / "pytorch_model.bin", mark)
    change_json(model / "config.json", backend="ipex", torchscript=True)


def code_for(auto_class, name):
    """The names that `auto_map` gives to classes in a file beside it."""

    def write(model, mark):
        (model / f"{name}.py").write_text(hostile_module(mark) + "class Theirs: pass\n", encoding="utf-8")
        auto_map = {auto_class: f"{name}.Theirs"}
        if auto_class == "AutoTokenizer":
            auto_map = {auto_class: [f"{name}.Theirs", f"{name}.Theirs"]}
            change_json(model / "tokenizer_config.json", auto_map=auto_map, tokenizer_class="Theirs")
        else:
            change_json(model / "config.json", auto_map=auto_map, model_type="theirs")

    return write


def hostile_teacher(folder, mark):
    model = copy_of(TEACHER, folder)
    pickled_weights(model, mark)
    return {"--apply_distillation": True, "--teacher_model_name_or_path": model}


def data_script(folder, mark):
    data = folder / "data"
    data.mkdir()
    (data / "data.py").write_text(hostile_module(mark), encoding="utf-8")
    shutil.copy(SAMPLE / "dev.json", data / "validation.json")
    return {"--dataset_name": data}


def data_script_file(folder, mark):
    (folder / "data.py").write_text(hostile_module(mark), encoding="utf-8")
    return {"--dataset_name": folder / "data.py"}


def pickled_table(folder, mark):
    """One of the readers of `datasets` unpickles what lies in the working directory."""
    (folder / "workdir" / "train.pkl").write_bytes(pickle.dumps(Hostile(mark)))
    return {"--dataset_name": "pandas"}


def pickles_in_a_tar(folder, mark):
    (folder / "data").mkdir()
    with tarfile.open(folder / "data" / "validation.tar", "w") as archive:
        content = pickle.dumps(Hostile(mark))
        for name in ("0.pkl", "0.pyd", "0.pickle", "0.pth"):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return {"--dataset_name": folder / "data"}


def saved_data_set(folder, mark):
    """A saved data set whose every file was replaced or extended by a pickle, where one may be expected."""
    import datasets

    rows = datasets.Dataset.from_list([{"question": "q", "context": "c"}])
    datasets.DatasetDict(validation=rows).save_to_disk(folder / "data")
    part = folder / "data" / "validation"
    for path in part.glob("*.arrow"):
        path.write_bytes(pickle.dumps(Hostile(mark)))
    (part / "dataset.pickle").write_bytes(pickle.dumps(Hostile(mark)))
    change_json(part / "state.json", _format_type="custom", _format_kwargs={"transform": "os.mkdir"})
    return {"--dataset_name": folder / "data"}


def cached_features(folder, mark):
    """Prepared features in the cache that are none."""
    from transformers import AutoTokenizer

    from qa.questions.examples import read_examples
    from qa.questions.features import dataset_of, prepare_features
    from qa.start.arguments import DataTrainingArguments

    flags = good_flags("run_qa_post_training", folder)
    examples = dataset_of(read_examples(str(flags["--validation_file"]), "good"))
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    prepare_features(examples, tokenizer, DataTrainingArguments(), str(folder / "cache"))
    cached = [path for path in (folder / "cache").rglob("*") if path.is_file()]
    assert cached
    for path in cached:
        path.write_bytes(pickle.dumps(Hostile(mark)))
    return {"--cache_dir": folder / "cache"}


def settings_with_a_tag(folder, mark):
    (folder / "settings.yml").write_text(f"recipes: !!python/object/apply:os.mkdir [{mark}]\n", encoding="utf-8")
    return {"--apply_quantization": True, "--quantization_config": folder / "settings.yml"}


def arguments_with_a_tag(folder, mark):
    (folder / "a.yaml").write_text(f"seed: !!python/object/apply:os.mkdir [{mark}]\n", encoding="utf-8")
    return [folder / "a.yaml"]


def answers_as_code(folder, mark):
    """CSV writers leave answers as Python literals; an expression is none. (Without a bracket it is a text.)"""
    code = f"[__import__('os').mkdir({str(mark)!r})]"
    (folder / "f.csv").write_text(f'question,context,answers\nq,c,"{code}"\n', encoding="utf-8")
    return {"--validation_file": folder / "f.csv"}


# name -> (script, what writes the files, what the line must hold)
FILES = {
    "weights": ("run_qa_post_training", model_with(pickled_weights), ["pytorch_model.bin", "mkdir"]),
    "weights for training": ("run_qa", model_with(pickled_weights), ["pytorch_model.bin", "mkdir"]),
    "weights of an older torch": (
        "run_qa_post_training",
        model_with(weights_of_an_older_torch),
        ["pytorch_model.bin", "mkdir"],
    ),
    "plain pickle": ("run_qa_post_training", model_with(plain_pickle), ["pytorch_model.bin"]),
    "shard": ("run_qa_post_training", model_with(pickled_shard), ["pytorch_model-00001-of-00001.bin", "mkdir"]),
    "shard by another name": (
        "run_qa_post_training",
        model_with(shard_by_another_name),
        ["--model_name_or_path", "cannot be loaded"],
    ),
    "pickle named safetensors": (
        "run_qa_post_training",
        model_with(pickle_named_safetensors),
        ["--model_name_or_path", "cannot be loaded"],
    ),
    "TorchScript as weights": ("run_qa_post_training", model_with(program_as_weights), ["TorchScript"]),
    "code of a configuration": (
        "run_qa_post_training",
        model_with(code_for("AutoConfig", "configuration_theirs")),
        ["--model_name_or_path", "cannot be loaded"],
    ),
    "code of a model": (
        "run_qa",
        model_with(code_for("AutoModelForQuestionAnswering", "modeling_theirs")),
        ["--model_name_or_path", "cannot be loaded"],
    ),
    "code of a tokenizer": (
        "run_qa_post_training",
        model_with(code_for("AutoTokenizer", "tokenization_theirs")),
        ["--tokenizer_name", "cannot be loaded"],
    ),
    "teacher": ("run_qa", hostile_teacher, ["pytorch_model.bin", "mkdir"]),
    "data script in a folder": ("run_qa_post_training", data_script, ["--dataset_name", "script"]),
    "data script": ("run_qa_post_training", data_script_file, ["--dataset_name", "script"]),
    "pickled table": ("run_qa_post_training", pickled_table, ["--dataset_name pandas"]),
    "pickles in a tar": ("run_qa_post_training", pickles_in_a_tar, ["--dataset_name"]),
    "saved data set": ("run_qa_post_training", saved_data_set, ["--dataset_name"]),
    "cached features": ("run_qa_post_training", cached_features, ["cache", "--overwrite_cache"]),
    "settings": ("run_qa_post_training", settings_with_a_tag, ["settings.yml, line 1", "python/object"]),
    "arguments": ("run_qa_post_training", arguments_with_a_tag, ["a.yaml, line 1", "python/object"]),
    "answers in CSV": ("run_qa_post_training", answers_as_code, ["f.csv, line 2", "answers"]),
}


@pytest.mark.recipe
@pytest.mark.parametrize("name", FILES)
def test_no_file_runs_code_and_each_is_refused(name, tmp_path):
    script, prepare, expected = FILES[name]
    mark, workdir = tmp_path / "mark", tmp_path / "workdir"
    workdir.mkdir()
    flags = good_flags(script, tmp_path)
    changes = prepare(tmp_path, mark)
    assert not mark.exists()
    words = list(map(str, changes)) if isinstance(changes, list) else as_words({**flags, **changes})
    finished = forked_main.run(f"{script}.py", *words, cwd=workdir, kind="arguments", limited=True)
    assert not mark.exists(), "code from the file was run"
    assert finished.returncode == 2, finished.stderr
    assert finished.stderr.startswith("error: ")
    assert len(finished.stderr.splitlines()) == 1, finished.stderr
    for part in expected:
        assert part in finished.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_a_compressed_model_is_looked_at_before_it_is_loaded(name, tmp_path):
    mark = tmp_path / "mark"
    model = copy_of(MODEL, tmp_path)
    (model / "model.safetensors").unlink()
    for write in (
        lambda path: save_pickled(path, {"best_configure": Hostile(mark)}),
        lambda path: hostile_script(path, mark),
    ):
        for backend in ("default", "ipex"):
            change_json(model / "config.json", backend=backend)
            write(model / name)
            with pytest.raises(UsageError, match=name):
                load_compressed(model)
            assert not mark.exists()


def test_the_hostile_files_are_hostile(tmp_path):
    """Else nothing would be shown by the mark that they did not leave."""
    import torch

    mark = tmp_path / "mark"
    save_pickled(tmp_path / "a.bin", {"a": Hostile(mark)})
    torch.load(tmp_path / "a.bin", weights_only=False)
    assert mark.exists()
    hostile_script(tmp_path / "b.bin", tmp_path / "other")
    torch.jit.load(tmp_path / "b.bin")
    assert (tmp_path / "other").exists()


@pytest.mark.parametrize(
    "code",
    [
        'torch.save(x, "f")',
        'x.save("f")',
        'getattr(torch, "sa" "ve")(x, "f")',
        'torch.from_file("f", True, 4)',
        'ops.aten.save(x, "f")',
        'ops.debugprims.load_tensor("f")',
        "ops . image.write_file(x)",
        "__torch__.torch.classes.theirs.Thing()",
    ],
)
def test_a_program_that_does_more_than_compute_is_refused(code, tmp_path):
    import torch

    writer = torch._C.PyTorchFileWriter(str(tmp_path / "f.bin"))
    content = f"def f(x):\n  return {code}".encode()
    writer.write_record("code/__torch__.py", content, len(content))
    writer.write_record("constants.pkl", b".", 1)
    writer.write_end_of_file()
    with pytest.raises(UsageError, match=r"f\.bin is not loaded: its program uses"):
        check_torchscript(tmp_path / "f.bin")


def test_what_torch_saves_of_a_training_is_loaded(tmp_path):
    import torch

    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    for part in (model, optimizer, scheduler):
        torch.save(part.state_dict(), tmp_path / "state.pt")
        assert str(load_pickled(tmp_path / "state.pt")) == str(part.state_dict())


@pytest.mark.recipe
def test_checkpoints_run_no_code(tmp_path):
    flags = {
        **good_flags("run_qa", tmp_path),
        **{"--max_steps": 2, "--save_steps": 1, "--no_cuda": True, "--do_eval": None},
    }
    finished = forked_main.run("run_qa.py", *as_words(flags), cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    good = tmp_path / "out" / "checkpoint-1"
    assert good.is_dir()
    pickled = sorted(path.name for path in good.iterdir() if path.suffix in (".pt", ".pth"))
    assert {"optimizer.pt", "scheduler.pt", "progress.pt"} <= set(pickled)
    shutil.rmtree(tmp_path / "out" / "checkpoint-2")
    mark = tmp_path / "mark"
    # The last three are names under which Trainer or INC would look for more.
    for name in (
        *pickled,
        "model.safetensors",
        "trainer_state.json",
        "rng_state.pth",
        "training_args.bin",
        "scaler.pt",
    ):
        content = (good / name).read_bytes() if (good / name).exists() else None
        save_pickled(good / name, {"state": Hostile(mark)})
        # As a kill leaves it: a finished run would not look at its checkpoints again.
        made_from = json.loads((tmp_path / "out" / "run.json").read_text(encoding="utf-8"))["made_from"]
        (tmp_path / "out" / "run.json").write_text(json.dumps({"made_from": made_from}), encoding="utf-8")
        finished = forked_main.run("run_qa.py", *as_words(flags), cwd=tmp_path)
        assert not mark.exists(), name
        if content is None or name == "training_args.bin":  # which nothing reads
            assert finished.returncode == 0, finished.stderr
            shutil.rmtree(tmp_path / "out" / "checkpoint-2", ignore_errors=True)
            (good / name).unlink()
        else:
            assert finished.returncode == 2, finished.stderr
            assert "Traceback" not in finished.stderr
            assert finished.stderr.splitlines()[-1].startswith("error: ")
            assert "checkpoint-1" in finished.stderr.splitlines()[-1]
            (good / name).write_bytes(content)
