"""export_qa.py: each format and precision against PyTorch, in the engines themselves and with the clients' classes."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from types import SimpleNamespace

import forked_main
import numpy as np
import pytest
from conftest import ROOT, SAMPLE, squad_file

import export_qa
from qa.models.export import LARGEST_FILE, exporter_of, load_exported
from qa.results.verification import verify_error
from qa.start.engines import ENGINES
from qa.start.errors import UsageError
from qa.start.stack import check_extra

QUESTIONS = ["--train_file", SAMPLE / "train.json", "--validation_file", SAMPLE / "dev.json", "--no_cuda"]
EVALUATED = [*QUESTIONS, "--max_eval_samples", 100, "--do_eval", "--verify_loading"]
INT8 = ["--apply_quantization", "--num_calibration_samples", 30]
KINDS = {
    "onnx": ["--export_format", "onnx"],
    "onnx-int8": ["--export_format", "onnx", *INT8],
    "openvino": ["--export_format", "openvino"],
    "openvino-int8": ["--export_format", "openvino", *INT8],
}
REPORTED = ["onnx-int8", "openvino-int8"]
MODEL_FILES = {name: engine.files for name, engine in ENGINES.items()}


def run(script, flags, folder, forked=True):
    """Run a script with an output folder, in an empty working directory that it must leave empty."""
    workdir = folder.parent / f"cwd-{folder.name}"
    workdir.mkdir(parents=True)
    words = [*flags, "--output_dir", folder]
    if forked:
        finished = forked_main.run(script, *words, cwd=workdir)
    else:
        words = [sys.executable, ROOT / script, *words]
        finished = subprocess.run(list(map(str, words)), cwd=workdir, capture_output=True, text=True, timeout=600)
    assert not list(workdir.iterdir()), "the run left files in the working directory"
    return finished


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Folders and processes of the sample model in each format and precision, by kind."""
    base = tmp_path_factory.mktemp("exported")
    runs = {}
    for kind, flags in KINDS.items():
        flags = ["--model_name_or_path", SAMPLE / "distilbert-qa", *EVALUATED, *flags]
        flags += ["--report"] if kind in REPORTED else []
        # What is printed while the engines and their quantizers are imported is seen in the reported ones.
        runs[kind] = base / kind, run("export_qa.py", flags, base / kind, forked=kind not in REPORTED)
        assert runs[kind][1].returncode == 0, runs[kind][1].stderr
    return runs


@pytest.fixture(scope="module")
def pruned(tmp_path_factory):
    """What run_qa.py saves of the sample model with a third of its weights pruned."""
    folder = tmp_path_factory.mktemp("pruned") / "model"
    flags = ["--model_name_or_path", SAMPLE / "distilbert-qa", *QUESTIONS, "--max_train_samples", 48, "--do_train"]
    flags += ["--apply_pruning", "--target_sparsity", 0.3, "--num_train_epochs", 1, "--save_strategy", "no"]
    finished = run("run_qa.py", flags, folder)
    assert finished.returncode == 0, finished.stderr
    return folder


@pytest.mark.recipe
@pytest.mark.parametrize("kind", KINDS)
def test_it_answers_as_pytorch_does(kind, exported):
    folder, finished = exported[kind]
    original = read(exported["onnx-int8"][0] / "report.json")["models"]["original"]["f1"]
    f1 = read(folder / "all_results.json")["eval_f1"]
    assert original >= 85
    line = re.search(r"^verify_loading: (.*): passed$", finished.stdout, flags=re.MULTILINE)[1]
    if "int8" in kind:
        assert original - f1 <= 1.0
        error = float(re.search(r"mean logit difference to fp32 .*, (\S+) % of their", line)[1])
        assert 0.1 <= error <= 10
    else:
        assert f1 == original
        assert float(re.search(r"largest logit difference (\S+),", line)[1]) <= 1e-4


@pytest.mark.recipe
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_printed_but_progress_and_nothing_left_but_the_model(kind, exported):
    folder, finished = exported[kind]
    lines = [line for line in re.split(r"[\r\n]", finished.stderr) if line.strip()]
    assert not [line for line in lines if not re.search(r"\d+%\||\d+/\d+", line)]
    names = {path.name for path in folder.iterdir()}
    engine = kind.split("-")[0]
    assert names >= {*MODEL_FILES[engine], "config.json", "tokenizer.json", "README.md", "run.json"}
    others = {file for files in MODEL_FILES.values() for file in files} - set(MODEL_FILES[engine])
    assert not names & {*others, "pytorch_model.bin", "model.safetensors", "inc_config.json"}
    assert not [name for name in names if name.startswith(".unfinished")]


@pytest.mark.recipe
@pytest.mark.parametrize("engine", MODEL_FILES)
def test_int8_is_smaller_and_the_engine_needs_less_memory_than_pytorch(engine, exported):
    sizes = {}
    for kind in (engine, f"{engine}-int8"):
        folder = exported[kind][0]
        sizes[kind] = sum((folder / file).stat().st_size for file in MODEL_FILES[engine]) / 1e6
        assert read(folder / "all_results.json")["model_size_mb"] == sizes[kind]
    assert sizes[f"{engine}-int8"] < sizes[engine] * 0.4
    models = read(folder / "report.json")["models"]
    assert models["result"]["size_mb"] == sizes[f"{engine}-int8"]
    assert models["result"]["libraries_memory_mb"] < models["original"]["libraries_memory_mb"] / 2
    assert [speed["batch_size"] for speed in models["result"]["speed"]] == [1, 8]


@pytest.mark.recipe
def test_the_runs_are_put_side_by_side(exported, tmp_path):
    folders = [folder for folder, _ in exported.values()]
    finished = run("report_qa.py", folders, tmp_path / "report")
    assert finished.returncode == 0, finished.stderr
    runs = {one["name"]: one for one in read(tmp_path / "report" / "report.json")["runs"]}
    assert runs.keys() == {"original (distilbert-qa)", *KINDS}
    for kind, (folder, _) in exported.items():
        assert runs[kind]["f1"] == read(folder / "all_results.json")["eval_f1"]
        assert ("latency_ms" in runs[kind]) == (kind in REPORTED)


def graph_of(folder):
    import onnx

    return onnx.load(folder / "model.onnx").graph


@pytest.mark.recipe
def test_the_graph_takes_batches_of_any_shape(exported):
    graph = graph_of(exported["onnx"][0])
    for value in (*graph.input, *graph.output):
        assert [axis.dim_param for axis in value.type.tensor_type.shape.dim] == ["batch_size", "sequence_length"]
    generator = np.random.default_rng(0)
    for folder, _ in exported.values():
        model = load_exported(folder)
        for shape in ((1, 9), (5, 64), (3, 200)):
            ids = generator.integers(5, 1900, shape)
            outputs = model(input_ids=ids, attention_mask=np.ones_like(ids))
            assert [outputs[name].shape for name in ("start_logits", "end_logits")] == [shape, shape]
            # A row by itself is answered as in its batch; int8 rounds values that differ in their last bit.
            alone = model(input_ids=ids[:1], attention_mask=np.ones_like(ids[:1]))
            assert np.abs(alone["start_logits"] - outputs["start_logits"][:1]).max() < 0.5


@pytest.mark.recipe
def test_onnx_int8_is_static_qdq_of_all_linear_operators_and_embeddings(exported):
    from onnx import TensorProto

    graph = graph_of(exported["onnx-int8"][0])
    weights = {tensor.name: tensor for tensor in graph.initializer}
    matrices = [tensor for tensor in graph.initializer if len(tensor.dims) == 2]
    kinds = [tensor.data_type for tensor in matrices if tensor.data_type != TensorProto.INT64]
    # 6 linear operators in each of the 3 layers and the head; embeddings are rounded as activations are.
    assert sorted(kinds) == [TensorProto.UINT8] * 2 + [TensorProto.INT8] * (3 * 6 + 1)
    rounded = [node for node in graph.node if node.op_type == "QuantizeLinear"]
    assert {weights[node.input[2]].data_type for node in rounded} == {TensorProto.UINT8}
    # Queries, keys and values share their input: 4 for each layer; the head's; what comes from the embeddings.
    assert len(rounded) == 3 * 4 + 1 + 2


@pytest.mark.recipe
def test_openvino_int8_holds_its_weights_in_int8(exported):
    import openvino

    model = openvino.Core().read_model(exported["openvino-int8"][0] / "openvino_model.xml")
    kinds = [node.get_type_name() for node in model.get_ops()]
    assert kinds.count("FakeQuantize") >= 3 * 4
    matrices = [node for node in model.get_ops() if node.get_type_name() == "Constant" and len(node.shape) == 2]
    # The others are the head's weights and scales.
    large = [node.get_element_type().get_type_name() for node in matrices if min(node.shape) > 2]
    assert large == ["i8"] * (3 * 6 + 2)


HEAVY = ["torch", "transformers", "optimum", "neural_compressor", "onnx", "nncf", "yaml", "qa"]
ANSWERED = f"""
import importlib.util, json
found = [name for name in {HEAVY} if importlib.util.find_spec(name)]
assert not found, found
data = json.load(open({str(SAMPLE / "dev.json")!r}))["data"]
paragraphs = [each for article in data for each in article["paragraphs"]]
asked = [(each["id"], each["question"], one["context"]) for one in paragraphs for each in one["qas"]]
windows = {{name: 1 + len(tokenizer.encode(question, context).overflowing) for name, question, context in asked[:100]}}
print(json.dumps([windows, {{name: answer(question, context) for name, question, context in asked[:100]}}]))
"""
CLIENT = """
import numpy as np
inputs = answer.tokenizer("Who wrote it?", "The letter was written by Ada in 1843.", return_tensors="pt")
print(np.asarray(model(**inputs).start_logits.detach()).round(4).tolist()[0])
"""


@pytest.fixture(scope="module")
def bare_pythons(tmp_path_factory):
    """For each engine the Python of an environment with nothing but the engine, `tokenizers` and numpy."""
    pythons = {}
    for name, engine in ENGINES.items():
        place = tmp_path_factory.mktemp(name) / "venv"
        venv.create(place, symlinks=True)
        (packages,) = place.glob("lib/python3.*/site-packages")
        for package in (engine.runtime, "tokenizers", "numpy"):
            source = Path(importlib.util.find_spec(package).origin).parent
            for part in (source, source.with_name(f"{package}.libs")):
                if part.exists():
                    (packages / part.name).symlink_to(part)
        pythons[name] = place / "bin" / "python"
    return pythons


@pytest.mark.recipe
@pytest.mark.parametrize("kind", KINDS)
def test_the_lines_of_the_card_load_it(kind, exported, bare_pythons):
    folder = exported[kind][0]
    text = (folder / "README.md").read_text(encoding="utf-8")
    lines, bare = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    answered = forked_main.run("-c", lines + CLIENT, cwd=folder.parent, kind="ipex")
    assert answered.returncode == 0, answered.stderr
    answer, logits = answered.stdout.strip().splitlines()[-2:]
    assert re.fullmatch(r"\{'score': .*, 'answer': '.*'\}", answer)
    expected = load_exported(folder)(**question_inputs(folder))["start_logits"][0]
    assert np.allclose(json.loads(logits), expected, atol=2e-4)
    # The other lines give the answers of the evaluation without any of these.
    words = [bare_pythons[kind.split("-")[0]], "-I", "-c", bare + ANSWERED]
    alone = subprocess.run(words, cwd=folder.parent, capture_output=True, text=True, timeout=300)
    assert alone.returncode == 0, alone.stderr
    short, answers = alone.stdout.strip().splitlines()
    # The pipeline takes whole words.
    assert short and short in re.search(r"'answer': '(.*)'", answer)[1]
    (windows, found), expected = json.loads(answers), read(folder / "eval_predictions.json")
    assert len(found) == 100
    # Batches are padded there, which may turn one that is nearly a tie.
    assert sum(found[each] == expected[each] for each in expected) >= 98
    long = [each for each in windows if windows[each] > 1]
    assert len(long) >= 5
    assert sum(found[each] == expected[each] for each in long) >= len(long) - 1
    assert len([line for line in bare.splitlines() if line]) <= 21


def question_inputs(folder):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    return dict(tokenizer("Who wrote it?", "The letter was written by Ada in 1843.", return_tensors="np"))


@pytest.mark.recipe
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_pruned_model_keeps_its_zeros(precision, pruned, tmp_path):
    from onnx import numpy_helper
    from transformers import AutoModelForQuestionAnswering

    from qa.compression.sparsity import prunable_weights

    folder = tmp_path / "out"
    flags = ["--model_name_or_path", pruned, *QUESTIONS, "--max_eval_samples", 40, "--do_eval", "--verify_loading"]
    finished = run("export_qa.py", [*flags, *(INT8 if precision == "int8" else [])], folder)
    assert finished.returncode == 0, finished.stderr
    results = read(folder / "all_results.json")
    assert results["sparsity"] == pytest.approx(0.3, abs=0.001)
    assert "pruned" in (folder / "README.md").read_text(encoding="utf-8")

    weights = prunable_weights(AutoModelForQuestionAnswering.from_pretrained(pruned))
    matrices = [numpy_helper.to_array(tensor) for tensor in graph_of(folder).initializer if len(tensor.dims) == 2]
    for name, weight in weights.items():
        zeros = weight.numpy().T == 0
        # ONNX names no weights; a matrix is known by where its zeros are.
        found = [matrix for matrix in matrices if matrix.shape == zeros.shape and not matrix[zeros].any()]
        assert len(found) == 1 or not zeros.any(), name
        if precision == "fp32":
            assert any(np.array_equal(matrix, weight.numpy().T) for matrix in found), name


@pytest.mark.recipe
@pytest.mark.parametrize("flags", KINDS.values(), ids=KINDS)
def test_segments_and_masks_arrive_where_they_belong(flags, tmp_path, monkeypatch):
    """BERT takes its inputs in another order than its tokenizer gives them."""
    import torch
    from transformers import BertConfig, BertForQuestionAnswering, BertTokenizerFast

    torch.manual_seed(0)
    tokenizer = BertTokenizerFast(SAMPLE / "distilbert-qa" / "vocab.txt")
    size = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
    config = BertConfig(vocab_size=len(tokenizer), initializer_range=0.3, **size)
    model = BertForQuestionAnswering(config).eval()
    model.save_pretrained(tmp_path / "bert")
    tokenizer.save_pretrained(tmp_path / "bert")
    words = ["--model_name_or_path", tmp_path / "bert", *QUESTIONS, *flags, "--output_dir", tmp_path / "out"]
    monkeypatch.setattr(sys, "argv", ["export_qa.py", *map(str, words)])
    export_qa.main()
    texts = [["Who wrote it?", "Ada did, in 1843."], ["When?", "The letter was written by Ada in 1843."]]
    inputs = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = model(**inputs).start_logits.numpy()
        segments = model(**{**inputs, "token_type_ids": inputs["attention_mask"]}).start_logits.numpy()
    tokens = inputs["attention_mask"].numpy() == 1
    found = load_exported(tmp_path / "out")(**inputs)["start_logits"]
    error, other = (np.abs(logits - expected)[tokens].mean() for logits in (found, segments))
    assert error < (0.25 * other if "--apply_quantization" in flags else 1e-4)
    assert other > 0.5


@pytest.fixture(scope="module")
def int8_folder(tmp_path_factory):
    """What static quantization by INC saves of the sample model."""
    folder = tmp_path_factory.mktemp("int8") / "static"
    flags = ["--model_name_or_path", SAMPLE / "distilbert-qa", *QUESTIONS, "--max_eval_samples", 100, "--do_eval"]
    flags += ["--apply_quantization", "--quantization_approach", "static", "--num_calibration_samples", 30]
    finished = run("run_qa_post_training.py", flags, folder)
    assert finished.returncode == 0, finished.stderr
    return folder


@pytest.mark.recipe
@pytest.mark.parametrize("engine", MODEL_FILES)
def test_an_int8_folder_goes_along_with_its_weights_scales_and_zero_points(engine, int8_folder, tmp_path):
    from qa.models.compressed import load_compressed

    flags = ["--model_name_or_path", int8_folder, *EVALUATED, "--export_format", engine, "--report"]
    finished = run("export_qa.py", flags, tmp_path / "out")
    assert finished.returncode == 0, finished.stderr
    error = re.search(r"mean logit difference to those of the folder .*, (\S+) % of .*: passed", finished.stdout)[1]
    assert float(error) <= 6
    f1 = {place: read(place / "all_results.json")["eval_f1"] for place in (int8_folder, tmp_path / "out")}
    assert abs(f1[int8_folder] - f1[tmp_path / "out"]) <= 1.0

    report = read(tmp_path / "out" / "report.json")
    assert report["models"]["original"]["f1"] == f1[int8_folder]
    assert report["models"]["original"]["size_mb"] == (int8_folder / "pytorch_model.bin").stat().st_size / 1e6
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "What was int8 before is int8 here, with the same weights, scales and zero points" in card
    assert "- int8\n" in card
    assert read(tmp_path / "out" / "config.json")["torch_dtype"] == "float32"

    operators = {
        name: module
        for name, module in load_compressed(int8_folder).model.named_modules()
        if type(module).__module__.startswith("torch.ao.nn.quantized") and hasattr(module, "scale")
    }
    weights, steps = matrices_and_steps(tmp_path / "out", engine)
    # The head stays in fp32.
    assert len(operators) == len(weights) == 3 * 6
    for name, operator in operators.items():
        expected = operator.weight().int_repr().numpy().T
        # Bit by bit, so that zeros are where they were.
        assert any(np.array_equal(expected, weight) for weight in weights), name
        if engine == "onnx":
            assert (np.float32(operator.scale), operator.zero_point) in steps, name


def matrices_and_steps(folder, engine):
    """The int8 matrices of a model, and of an ONNX file the scale and zero point of each rounding."""
    if engine == "openvino":
        import openvino

        model = openvino.Core().read_model(folder / "openvino_model.xml")
        constants = [node for node in model.get_ops() if node.get_type_name() == "Constant" and len(node.shape) == 2]
        return [node.data for node in constants if node.get_element_type().get_type_name() == "i8"], None
    from onnx import numpy_helper

    graph = graph_of(folder)
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:  # equal values are stored once, and get further names by nodes
        if node.op_type == "Identity" and node.input[0] in found:
            found[node.output[0]] = found[node.input[0]]
    rounded = [node for node in graph.node if node.op_type == "QuantizeLinear"]
    steps = {(np.float32(found[node.input[1]]), int(found[node.input[2]])) for node in rounded}
    return [array for array in found.values() if array.dtype == np.int8 and array.ndim == 2], steps


@pytest.mark.recipe
def test_an_int8_folder_is_not_quantized_again(int8_folder, tmp_path):
    flags = ["--model_name_or_path", int8_folder, *QUESTIONS, *INT8]
    refused = run("export_qa.py", flags, tmp_path / "out")
    assert refused.returncode == 2
    assert refused.stderr.startswith(f"error: --model_name_or_path {int8_folder} is quantized already")
    assert refused.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("backend", "is_static", "words", "said"),
    [
        ("ipex", True, [], "is a TorchScript program of IPEX, which cannot be taken apart; export the folder of the"),
        ("default", False, ["--export_format", "openvino"], "is dynamic int8, and that of --export_format openvino"),
        (None, True, [*INT8, "--quantization_approach", "dynamic", "--export_format", "openvino"], "is static; give"),
    ],
)
def test_int8_that_an_engine_does_not_take_is_refused_in_one_line(
    backend, is_static, words, said, model, tmp_path, monkeypatch, capsys
):
    if backend:
        config = {**read(model / "config.json"), "torch_dtype": "int8", "backend": backend}
        (model / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (model / "inc_config.json").write_text(json.dumps({"quantization": {"is_static": is_static}}), encoding="utf-8")
    words = ["--model_name_or_path", model, *QUESTIONS, "--do_eval", *words, "--output_dir", tmp_path / "out"]
    monkeypatch.setattr(sys, "argv", ["export_qa.py", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        export_qa.main()
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_criterion_without_questions_to_try_it_on_is_refused(tmp_path, monkeypatch, capsys):
    file = tmp_path / "q.yml"
    file.write_text("onnx: {accuracy_criterion: {tolerable_loss: 0.1}}\n", encoding="utf-8")
    words = ["--model_name_or_path", SAMPLE / "distilbert-qa", *QUESTIONS, *INT8, "--quantization_config", file]
    monkeypatch.setattr(sys, "argv", ["export_qa.py", *map(str, words), "--output_dir", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as ended:
        export_qa.main()
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error == (
        f"error: {file} has an accuracy criterion, which is tuned on the validation questions: give --do_eval\n"
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("export_format", "module"), [(name, module) for name, engine in ENGINES.items() for module in engine.packages]
)
def test_an_engine_that_is_missing_is_named_with_the_file_that_brings_it(
    export_format, module, monkeypatch, tmp_path, capsys
):
    check_extra(export_format)
    # An entry like this makes Python say that there is no such module.
    monkeypatch.setitem(sys.modules, module, None)
    questions = squad_file(tmp_path / "q.json", [("Ann met Bob.", [("q1", "Who?", [("Ann", 0)])])])
    words = ["--model_name_or_path", SAMPLE / "distilbert-qa", "--validation_file", questions, "--do_eval"]
    words += ["--export_format", export_format, "--output_dir", tmp_path / "out"]
    monkeypatch.setattr(sys, "argv", ["export_qa.py", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        export_qa.main()
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: --export_format {export_format} needs {module}, not installed here; ")
    assert error.endswith(f"pip install -r {ROOT / f'requirements-{export_format}.txt'}\n")
    assert (ROOT / f"requirements-{export_format}.txt").is_file()
    assert not (tmp_path / "out").exists()


def test_nothing_is_told_to_the_makers_of_openvino():
    with pytest.raises(ImportError):
        import openvino_telemetry  # noqa: F401


def model_of(kind, parameters=()):
    return SimpleNamespace(config=SimpleNamespace(model_type=kind), parameters=lambda: parameters)


def test_a_kind_of_model_that_cannot_be_exported_is_refused():
    with pytest.raises(UsageError, match="--model_name_or_path org/m is of the kind fnet, which optimum-onnx"):
        exporter_of(model_of("fnet"), "org/m", ["input_ids"])


def test_a_model_that_fits_into_no_file_is_refused():
    import torch

    weights = torch.empty(LARGEST_FILE // 4 + 1, device="meta")
    with pytest.raises(UsageError, match=r"--model_name_or_path org/m has 2\.1 GB of weights"):
        exporter_of(model_of("bert", [weights]), "org/m", ["input_ids"])


def test_a_graph_that_lacks_what_the_tokenizer_gives_is_refused():
    from transformers import LiltConfig, RobertaConfig, XLMConfig

    columns = ["input_ids", "attention_mask", "token_type_ids"]
    lacking = SimpleNamespace(config=RobertaConfig(type_vocab_size=2), parameters=lambda: ())
    assert list(exporter_of(lacking, "org/m", columns[:2]).inputs) == columns[:2]
    with pytest.raises(UsageError, match="org/m: its tokenizer gives input_ids, attention_mask, token_type_ids, and "):
        exporter_of(lacking, "org/m", columns)
    with pytest.raises(UsageError, match="attention_mask, and the graph that optimum-onnx makes of xlm"):
        exporter_of(SimpleNamespace(config=XLMConfig(), parameters=lambda: ()), "org/m", columns[:2])
    with pytest.raises(UsageError, match=r"models takes .*bbox"):
        exporter_of(SimpleNamespace(config=LiltConfig(), parameters=lambda: ()), "org/m", columns[:2])


@pytest.mark.recipe
@pytest.mark.parametrize("script", ["export_qa.py", "run_qa_post_training.py"])
def test_what_needs_no_questions_asks_for_none(script, tmp_path):
    flags = ["--apply_quantization", "--quantization_approach", "dynamic", "--no_cuda"]
    finished = run(script, ["--model_name_or_path", SAMPLE / "distilbert-qa", *flags], tmp_path / "out")
    assert (finished.returncode, finished.stdout) == (0, "")
    paragraph = read(SAMPLE / "dev.json")["data"][0]["paragraphs"][0]
    question = paragraph["qas"][0]
    words = [ROOT / "answer_qa.py", tmp_path / "out", "--json", "--context", "-", "--question", question["question"]]
    answered = subprocess.run(
        [sys.executable, *map(str, words)], input=paragraph["context"], capture_output=True, text=True
    )
    assert json.loads(answered.stdout)["answers"]["out"]["answer"] == question["answers"][0]["text"], answered.stderr


@pytest.mark.recipe
def test_where_a_tokenizer_gives_no_mask_all_is_seen(tmp_path):
    shutil.copytree(SAMPLE / "distilbert-qa", tmp_path / "model")
    path = tmp_path / "model" / "tokenizer_config.json"
    path.write_text(json.dumps(read(path) | {"model_input_names": ["input_ids"]}), encoding="utf-8")
    flags = ["--model_name_or_path", tmp_path / "model", *QUESTIONS, "--max_eval_samples", 40, "--do_eval"]
    finished = run("export_qa.py", [*flags, "--verify_loading", "--export_format", "onnx"], tmp_path / "onnx")
    assert finished.returncode == 0, finished.stderr
    assert read(tmp_path / "onnx" / "all_results.json")["eval_f1"] > 90


@pytest.mark.parametrize(("error", "passes"), [(0.05, True), (0.19, True), (0.21, False), (3.0, False)])
def test_an_int8_model_passes_by_its_mean_error(error, passes, capsys):
    import torch

    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 50, generator=generator)
    mask = torch.ones(4, 50, dtype=torch.int64)
    mask[:, 40:] = 0
    spread = float(logits[:, mask == 1].std(correction=0))

    def fp32(**_):
        return dict(zip(("start_logits", "end_logits"), logits, strict=True))

    def int8(**_):
        # What is behind the last token does not count.
        return {name: (value + error * spread + 100 * (mask == 0)).numpy() for name, value in fp32().items()}

    batches = [{"attention_mask": mask}]
    if passes:
        verify_error(fp32, int8, batches, export_qa.VERIFY_SHARE)
    else:
        with pytest.raises(SystemExit) as ended:
            verify_error(fp32, int8, batches, export_qa.VERIFY_SHARE)
        assert ended.value.code == 1
    printed = capsys.readouterr().out
    assert f"{error * spread:.3g}, {100 * error:.2g} % of their standard deviation, tolerance 20 %" in printed
    assert printed.endswith("passed\n" if passes else "FAILED\n")
