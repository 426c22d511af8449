"""The model card: `README.md` beside a saved model, as the hub reads it.

Belongs here: metadata and text of the card, taken from what a run left in its output folder.
Does not belong here: sending it (`hub.py`) and scoring.
"""

import importlib.metadata
import json
from pathlib import Path

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from qa.results.files import exact_match_of
from qa.start.cpu import processor
from qa.start.engines import ENGINES, is_int8_export
from qa.start.paths import kind_of
from qa.start.stack import STACK
from qa.start.writing import write_text


def write_card(output_dir, data_args, steps, repo_id=None, original=None, kind="compressed"):
    """Write the model card of a finished run.

    Args:
        output_dir: folder with the model, `config.json`, and `all_results.json` if there are results.
        data_args: `DataTrainingArguments`; a data set on the hub is named by its name, a file by its last part.
        steps: dictionary from what was done, a line of Markdown, to the settings of it as INC takes them.
        repo_id: name on the hub; that of the folder if `None`.
        original: metrics of the model before compression on the same questions, with the names of
            `all_results.json`, if they are known.
        kind: of the model, as in `course.conclude`.

    Raises:
        SaveError: the card cannot be written.
    """
    folder = Path(output_dir)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    results_file = folder / "all_results.json"
    results = json.loads(results_file.read_text(encoding="utf-8")) if results_file.is_file() else {}
    name = repo_id or folder.resolve().name
    exported = kind in ENGINES
    int8 = is_int8_export(folder, kind) if exported else "int8" in str(config.get("torch_dtype"))
    ipex = config.get("backend") == "ipex"
    on_hub = data_args.dataset_name is not None and kind_of(data_args.dataset_name) is None
    scores = _scores(results)
    tags = [kind if exported else "neural-compressor"]
    tags += ["int8"] if int8 else []
    tags += ["ipex"] if ipex else []
    tags += ["pruned"] if "sparsity" in results else []
    metadata = ModelCardData(
        base_model=config.get("_name_or_path") or None,
        datasets=[data_args.dataset_name] if on_hub else None,
        library_name=ENGINES[kind].library if exported else "optimum-intel" if int8 else "transformers",
        pipeline_tag="feature-extraction" if kind == "encoder" else "question-answering",
        tags=tags,
        model_name=name if scores else None,
        eval_results=_eval_results(scores, data_args, on_hub) if scores else None,
    )
    done = "\n".join(f"- {line}{_shown(settings)}" for line, settings in steps.items())
    if "sparsity" in results:
        done += f"\n- {100 * results['sparsity']:.1f} % of the weights of the linear operators are zero."
    questions = f"{results['eval_samples']} questions of `{_source(data_args)}`" if scores else ""
    if kind == "encoder":
        purpose, lost, how = "A sparse language model, to be fine-tuned with its zeros kept.", "", _stage_1(name)
    else:
        purpose = "Answers questions about a text by a span of it."
        lost = f"## What was lost\n\n{_loss(scores, _scores(original or {}), questions)}\n\n"
        how = _exported_snippet(name, kind, data_args) if exported else _snippet(name, int8, ipex)
    text = f"""# {name}

{purpose}

## What was done

{done}

{lost}## How to load it

{how}{_made_on() if int8 else ""}
"""
    write_text(folder / "README.md", str(ModelCard(f"---\n{metadata.to_yaml()}\n---\n\n{text}")))


def _made_on():
    """Name the instruction sets that an int8 model was made and measured with."""
    named = ", ".join(processor()[1]) or "plain instructions"
    return (
        f"\n\nMade and measured on a processor with {named}. Without VNNI large sums of int8 products may be clipped, "
        "and F1 may be lower."
    )


def _scores(results):
    """Return F1 and exact match in percent, or nothing if no answers were scored."""
    if "eval_f1" not in results:
        return {}
    return {"f1": results["eval_f1"], "exact_match": exact_match_of(results)}


def _source(data_args):
    return Path(data_args.validation_file or data_args.dataset_name).name


def _eval_results(scores, data_args, on_hub):
    if on_hub and data_args.validation_file is None:
        source = {
            "dataset_type": data_args.dataset_name,
            "dataset_name": data_args.dataset_name,
            "dataset_config": data_args.dataset_config_name,
            "dataset_split": "validation",
        }
    else:
        # What no data set of the hub is called is typed by its format, as `datasets` does it.
        kind = Path(data_args.validation_file).suffix[1:] if data_args.validation_file else "arrow"
        source = {"dataset_type": kind, "dataset_name": _source(data_args)}
    names = {"f1": "F1", "exact_match": "Exact match"}
    return [
        EvalResult(
            task_type="question-answering",
            metric_type=kind,
            metric_name=names[kind],
            metric_value=round(value, 2),
            **source,
        )
        for kind, value in scores.items()
    ]


def _shown(settings):
    """Show settings as YAML inside a list entry."""
    if not settings:
        return ""
    block = yaml.safe_dump(settings, sort_keys=False, default_flow_style=None, width=100)
    return "\n\n" + "".join(f"  {line}\n" for line in ["```yaml", *block.splitlines(), "```"])


def _loss(scores, before, questions):
    """Say in two sentences what the compression cost."""
    if not scores:
        return "This model was not scored in this run. What was lost against the original is therefore not known."
    reached = f"F1 {scores['f1']:.2f} and exact match {scores['exact_match']:.2f}"
    if not before:
        return (
            f"This model reaches {reached} on {questions}. The original model was not scored in this run, so that "
            "what was lost is not known."
        )
    lost = {kind: before[kind] - scores[kind] for kind in scores}
    changes = [
        f"{abs(lost[kind]):.2f} points of {name} were {'won' if lost[kind] < 0 else 'lost'}"
        for kind, name in (("f1", "F1"), ("exact_match", "exact match"))
    ]
    return (
        f"This model reaches {reached} on {questions}, the original F1 {before['f1']:.2f} and exact match "
        f"{before['exact_match']:.2f}. So {' and '.join(changes)}."
    )


def _stage_1(name):
    """Show the command by which a sparse language model is taught to answer."""
    return f"""```bash
python run_qa.py --model_name_or_path {name} --apply_pruning --pruning_approach pattern_lock --do_train \\
    --train_file train.json --output_dir answers
```"""


def _exported_snippet(name, export_format, data_args):
    engine = ENGINES[export_format]
    packages = ("transformers", engine.distribution, engine.runtime)
    needs = ", ".join(f"{package} {importlib.metadata.version(package)}" for package in packages)
    module, kind, settings = engine.loader
    return f"""With {needs}:

```python
from {module} import {kind}
from transformers import pipeline

model = {kind}.from_pretrained("{name}"{settings})
answer = pipeline("question-answering", model=model, tokenizer="{name}")
print(answer(question="Who wrote it?", context="The letter was written by Ada in 1843."))
```

transformers 5 has this pipeline no more. Without transformers and PyTorch, from a local folder:

{_bare(name, engine, data_args)}"""


def _bare(name, engine, data_args):
    """Show how a model answers with its engine, `tokenizers` and numpy alone, long contexts included."""
    length, stride, longest = data_args.max_seq_length, data_args.doc_stride, data_args.max_answer_length
    always = " It gives an answer to every question." if data_args.version_2_with_negative else ""
    packages = (engine.runtime, "tokenizers", "numpy")
    needs = ", ".join(f"{package} {importlib.metadata.version(package)}" for package in packages)
    model, names, outputs = engine.bare
    return f"""With {needs}:{always}

```python
import numpy as np
import {engine.runtime}
from tokenizers import Tokenizer

folder = "{name}"
model = {model}
tokenizer = Tokenizer.from_file(f"{{folder}}/tokenizer.json")
tokenizer.no_padding()
tokenizer.enable_truncation({length}, stride={stride}, strategy="only_second")

def answer(question, context):
    best, first = (-np.inf, ""), tokenizer.encode(question, context)
    for window in [first, *first.overflowing]:
        known = dict(input_ids=window.ids, attention_mask=window.attention_mask, token_type_ids=window.type_ids)
        inputs = {{name: np.array([known[name]]) for name in {names}}}
        start, end = (logits[0] for logits in {outputs})
        inside = np.array([part == 1 for part in window.sequence_ids])  # tokens of the context
        spans = np.triu(np.tril(np.outer(inside, inside), {longest - 1}))  # at most {longest} tokens, forwards
        scores = np.where(spans, start[:, None] + end, -np.inf)
        i, j = np.unravel_index(scores.argmax(), scores.shape)
        best = max(best, (scores[i, j], context[window.offsets[i][0] : window.offsets[j][1]]))
    return best[1]

print(answer("Who wrote it?", "The letter was written by Ada in 1843."))
```"""


def _snippet(name, int8, ipex):
    packages = ("torch", "transformers", *(("optimum-intel", "neural-compressor", "numpy") if int8 else ()))
    packages += ("intel-extension-for-pytorch",) if ipex else ()
    needs = ", ".join(f"{package} {STACK[package]}" for package in packages)
    if not int8:
        return f"""With {needs}:

```python
from transformers import pipeline

answer = pipeline("question-answering", model="{name}")
print(answer(question="Who wrote it?", context="The letter was written by Ada in 1843."))
```"""
    operators = "import intel_extension_for_pytorch  # brings the operators of the model\n" if ipex else ""
    return f"""With {needs}:

```python
{operators}from optimum.intel import INCModelForQuestionAnswering
from transformers import pipeline

model = INCModelForQuestionAnswering.from_pretrained("{name}")
answer = pipeline("question-answering", model=model, tokenizer="{name}")
print(answer(question="Who wrote it?", context="The letter was written by Ada in 1843."))
```"""
