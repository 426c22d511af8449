"""What the scripts save, loaded as its users do: by the lines of README.md and by those of its own card."""

import re
import subprocess
import sys

import forked_main
import pytest
from conftest import ROOT, SAMPLE

pytestmark = pytest.mark.recipe

QUESTIONS = ["--train_file", SAMPLE / "train.json", "--validation_file", SAMPLE / "dev.json"]
SMALL = ["--max_train_samples", 48, "--max_eval_samples", 40, "--no_cuda"]
TRAINING = ["run_qa.py", *QUESTIONS, *SMALL, "--do_train", "--per_device_train_batch_size", 8, "--num_train_epochs", 1]
AFTER = ["run_qa_post_training.py", *QUESTIONS, *SMALL, "--apply_quantization", "--quantization_approach", "static"]
KINDS = {
    "static": AFTER,
    "ipex": [*AFTER, "--use_ipex"],
    "qat": [*TRAINING, "--apply_quantization"],
    "qat with embeddings": [*TRAINING, "--apply_quantization", "--quantization_config", "{tmp}/embeddings.yml"],
    "pruned": [*TRAINING, "--apply_pruning", "--target_sparsity", 0.3],
}


def loaded(kind, lines, cwd):
    """Run lines of a user; on IPEX in a process of its own, or its import would not count."""
    if kind == "ipex":
        words = [sys.executable, "-c", lines]
        return subprocess.run(words, cwd=cwd, capture_output=True, text=True, timeout=forked_main.PATIENCE)
    return forked_main.run("-c", lines, cwd=cwd, kind="ipex")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The sample model with the dropout of a real one, in a folder named as README.md's results are."""
    from transformers import AutoModelForQuestionAnswering, AutoTokenizer

    folder = tmp_path_factory.mktemp("saved")
    model = AutoModelForQuestionAnswering.from_pretrained(SAMPLE / "distilbert-qa")
    for name in ("dropout", "attention_dropout", "qa_dropout"):
        setattr(model.config, name, 0.1)
    model.save_pretrained(folder / "model")
    AutoTokenizer.from_pretrained(SAMPLE / "distilbert-qa").save_pretrained(folder / "model")
    (folder / "embeddings.yml").write_text(
        "qat: {op_type_dict: {LayerNorm: {weight: {dtype: fp32}, activation: {dtype: fp32}}}}", encoding="utf-8"
    )
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_the_lines_of_the_readme_answer_from_a_saved_model_in_evaluation_mode(kind, base):
    output_dir = base / "out" / kind
    script, *flags = KINDS[kind]
    flags += ["--model_name_or_path", base / "model", "--do_eval", "--verify_loading", "--output_dir", output_dir]
    words = [str(word).replace("{tmp}", str(base)) for word in flags]
    finished = forked_main.run(script, *words, cwd=base, kind="ipex" if kind == "ipex" else "libraries")
    assert finished.returncode == 0, finished.stderr
    assert re.search("verify_loading: .* passed", finished.stdout)

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (lines,) = re.findall(r"```python\n(from optimum.*?)```", readme, flags=re.DOTALL)
    assert len([line for line in lines.splitlines() if line]) == 5
    lines = lines.replace("out/static", f"out/{kind}")
    if kind == "ipex":
        (first,) = re.findall(r"IPEX recipes needs `(import \w+)` first", readme)
        lines = f"{first}\n{lines}"
    lines += """
import torch
dropouts = [module for module in model.model.modules() if type(module) is torch.nn.Dropout]
print(any(module.training for module in dropouts) or getattr(model.model, "training", False))
inputs = answer.tokenizer("Who wrote it?", "The letter was written by Ada in 1843.", return_tensors="pt")
with torch.no_grad():
    passes = [model(**inputs)["start_logits"] for _ in range(4)]
print(all(one.equal(passes[1]) for one in passes[1:]))
"""
    answered = loaded(kind, lines, base)
    assert answered.returncode == 0, answered.stderr
    answer, mode, equal = answered.stdout.strip().splitlines()[-3:]
    assert re.fullmatch(r"\{'score': .*, 'answer': '.*'\}", answer)
    assert (mode, equal) == ("False", "True")

    # The lines of the card, which name the folder, give the same.
    (lines,) = re.findall(
        r"```python\n(.*?)```", (output_dir / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL
    )
    by_card = loaded(kind, lines, output_dir.parent)
    assert by_card.returncode == 0, by_card.stderr
    assert by_card.stdout.strip().splitlines()[-1] == answer
