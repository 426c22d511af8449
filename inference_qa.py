"""Features through a model, and what came of it: logits, metrics, results files.

Belongs here: forming batches of features, the evaluation loop for every kind of model (fp32, FX int8, TorchScript,
those of other engines), and writing and showing results. All scripts evaluate through this one door.
Does not belong here: training, and how answers follow from logits (`utils_qa.py`).
"""

import itertools
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import torch
from tqdm.auto import tqdm

from environment_qa import UsageError
from model_qa import is_torchscript
from output_qa import MODEL_FILES, write_text
from processes_qa import add_up, own_share
from utils_qa import compute_metrics, dataset_of, extract_answers, prepare_features, write_answers


class Batches:
    """Padded batches of model inputs, read from the features' Arrow columns as they are asked for.

    Args:
        features: `datasets.Dataset` from `prepare_features`.
        tokenizer: tells the input names, the padding ids and the padding side.
        batch_size: features in a batch.
        width: tokens to pad every batch to; the longest of each batch if `None`.
        multiple: round the longest up to a multiple of this, so that an engine meets few shapes.
    """

    def __init__(self, features, tokenizer, batch_size, width=None, multiple=1):
        names = [name for name in tokenizer.model_input_names if name in features.column_names]
        self.columns = features.select_columns(names).with_format("arrow")
        self.padding = {"input_ids": tokenizer.pad_token_id, "token_type_ids": tokenizer.pad_token_type_id}
        self.lengths = pc.list_value_length(self.columns["input_ids"]).to_numpy()
        self.batch_size, self.width, self.multiple = batch_size, width, multiple
        self.left = tokenizer.padding_side == "left"

    def by_length(self):
        """Yield row numbers batch by batch, the longest features first: what is too large fails at once."""
        order = np.argsort(-self.lengths, kind="stable")
        for begin in range(0, len(order), self.batch_size):
            yield order[begin : begin + self.batch_size]

    def token_mask(self, rows):
        """Return `(b, width)` bool: where the batch of `rows` holds tokens and not padding."""
        lengths = self.lengths[rows][:, None]
        width = self.width or -(-int(lengths.max()) // self.multiple) * self.multiple
        positions = np.arange(width)
        return positions >= width - lengths if self.left else positions < lengths

    def inputs(self, rows):
        """Return the batch of `rows` as a dictionary of `(b, width)` int64 tensors."""
        mask = self.token_mask(rows)
        batch = {}
        table = self.columns[rows]
        for name in table.column_names:
            padded = np.full(mask.shape, self.padding.get(name, 0), dtype=np.int64)
            padded[mask] = pc.list_flatten(table[name]).to_numpy()
            batch[name] = torch.from_numpy(padded)
        return batch


def forward_passes(model, batches, device="cpu", desc="Evaluating", chosen=None):
    """Run a model over features, similar lengths together, without gradients.

    Args:
        model: callable with the tokenizer's inputs as keywords, in evaluation mode, that returns a mapping with
            `start_logits` and `end_logits`, tensors or arrays.
        batches: `Batches`.
        device: where the inputs go.
        desc: label of the progress bar.
        chosen: iterable of row numbers, batch by batch; all of `batches.by_length()` if `None`.

    Yields:
        `(rows, mask, logits)`: the b features of the batch, `(b, width)` bool where they have tokens, and a dictionary
        of `start_logits` and `end_logits`, `(b, width)` float32 arrays.
    """
    chosen = list(batches.by_length() if chosen is None else chosen)
    progress = tqdm(total=sum(map(len, chosen)), desc=desc, unit="feature", delay=2)
    with torch.inference_mode():
        if is_torchscript(model):
            # The first call of a loaded graph runs before its int8 operators are fused, with other roundings.
            model(**batches.inputs(next(batches.by_length())))
        for rows in chosen:
            outputs = model(**{name: values.to(device) for name, values in batches.inputs(rows).items()})
            logits = {
                name: torch.as_tensor(outputs[name]).float().cpu().numpy() for name in ("start_logits", "end_logits")
            }
            yield rows, batches.token_mask(rows), logits
            progress.update(len(rows))
    progress.close()


def predict_logits(model, batches, device="cpu", desc="Evaluating"):
    """Collect the logits of all features, of which each process of a run computes its share.

    Args:
        model, batches, device, desc: as in `forward_passes`.

    Returns:
        `(start_logits, end_logits)`, each `(n, l)` float32 with `l` the longest feature, in the features' own order;
        position `i` is token `i`, and what lies behind the last token of a feature is -inf.
    """
    shape = (len(batches.lengths), int(batches.lengths.max()))
    results = {name: np.zeros(shape, dtype=np.float32) for name in ("start_logits", "end_logits")}
    tokens = np.arange(shape[1]) < batches.lengths[:, None]
    for rows, mask, logits in forward_passes(model, batches, device, desc, own_share(batches.by_length())):
        for name, result in results.items():
            aligned = np.zeros((len(rows), shape[1]), dtype=np.float32)
            aligned[tokens[rows]] = logits[name][mask]
            result[rows] = aligned
    for name, result in results.items():
        # What other processes have computed is zero here, and the other way round.
        results[name] = add_up(result)
        results[name][~tokens] = -np.inf
    return results["start_logits"], results["end_logits"]


def post_processing(data_args, output_dir):
    """Return the function `(examples, features, logits, stage)` that chooses answers and writes them down.

    Args:
        data_args: `DataTrainingArguments`.
        output_dir: folder for the JSON files; `stage` (`eval` or `predict`) is the prefix of their names.
    """

    def post_process(examples, features, logits, stage="eval"):
        try:
            answers = extract_answers(
                examples,
                features,
                logits,
                version_2_with_negative=data_args.version_2_with_negative,
                n_best_size=data_args.n_best_size,
                max_answer_length=data_args.max_answer_length,
                null_score_diff_threshold=data_args.null_score_diff_threshold,
            )
        except ValueError as error:  # logits that are not finite, after a training that diverged
            raise UsageError(f"no answers can be given: {error} Look at --learning_rate and the files") from error
        write_answers(answers, output_dir, stage)
        return examples, answers

    return post_process


def score(examples, answers, data_args):
    """Score answers if every example says what is right, else return no metrics."""
    golds = examples["answers"]
    if all(gold is not None and (gold["text"] or data_args.version_2_with_negative) for gold in golds):
        return compute_metrics(examples, answers, data_args.null_score_diff_threshold)
    return {}


def evaluate_model(model, examples, features, batches, data_args, output_dir, split, device="cpu"):
    """Answer the questions of one split with a model, write the answers down and score them.

    Args:
        model, batches, device: as in `forward_passes`.
        examples, features: as in `extract_answers`.
        data_args: `DataTrainingArguments`.
        output_dir: folder for the answers' JSON files.
        split: `eval` or `predict`; prefix of the files and of the metrics.

    Returns:
        Metrics by name, with the prefix `{split}_`; scores only if every example has its answers.
    """
    begin = time.perf_counter()
    logits = predict_logits(model, batches, device, desc="Evaluating" if split == "eval" else "Predicting")
    examples, answers = post_processing(data_args, output_dir)(examples, features, logits, split)
    seconds = time.perf_counter() - begin
    metrics = {
        **score(examples, answers, data_args),
        "samples": len(examples),
        "features": len(features),
        "runtime": round(seconds, 4),
        "samples_per_second": round(len(examples) / seconds, 3),
    }
    return {f"{split}_{name}": value for name, value in metrics.items()}


def f1_of_trials(prepared, data_args):
    """Return a function that gives the F1 of a model and prints it, numbered, the fp32 model first.

    Args:
        prepared: `(examples, features, batches)` from `prepare_evaluation`.
        data_args: `DataTrainingArguments`.
    """
    examples, features, batches = prepared
    trials = itertools.count()

    def f1_of(model):
        with tempfile.TemporaryDirectory() as answers_dir:
            metrics = evaluate_model(model.eval(), examples, features, batches, data_args, answers_dir, "eval")
        number = next(trials)
        print(f"{f'trial {number}' if number else 'fp32'}: F1 {metrics['eval_f1']:.4f}")
        return metrics["eval_f1"]

    return f1_of


def prepare_evaluation(examples, tokenizer, data_args, model_args, batch_size, multiple=1):
    """Prepare what is to be evaluated and predicted.

    Args:
        examples: dictionary from split to list of examples; `validation` and `test` are looked at.
        tokenizer, data_args, model_args: of the run.
        batch_size, multiple: as in `Batches`.

    Returns:
        Dictionary from `eval` and `predict` to `(examples, features, batches)`.
    """
    prepared = {}
    for split, name in (("validation", "eval"), ("test", "predict")):
        if split in examples:
            dataset = dataset_of(examples[split])
            features = prepare_features(dataset, tokenizer, data_args, model_args.cache_dir, f"{split} features")
            batches = Batches(features, tokenizer, batch_size, data_args.fixed_width, multiple)
            prepared[name] = dataset, features, batches
    return prepared


def evaluate_and_report(model, prepared, data_args, output_dir, device="cpu", saved=True):
    """Evaluate a model on what was prepared, print the metrics as tables and write them to the results files.

    Args:
        model, device: as in `forward_passes`.
        prepared: from `prepare_evaluation`.
        data_args: `DataTrainingArguments`.
        output_dir: folder for results and answers.
        saved: whether the model's weights are in `output_dir`.
    """
    for name, (examples, features, batches) in prepared.items():
        metrics = evaluate_model(model, examples, features, batches, data_args, output_dir, name, device)
        metrics["model_size_mb"] = model_size_mb(model, output_dir if saved else None)
        save_results(metrics, output_dir, name)
        show_results(f"{name} metrics", metrics)


def model_size_mb(model, output_dir=None):
    """Return the size of a model in megabytes: of the saved weights, or of the parameters if it was not saved."""
    if output_dir is not None:
        files = (Path(output_dir) / name for name in MODEL_FILES)
        return sum(file.stat().st_size for file in files if file.is_file()) / 1e6
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters()) / 1e6


def save_results(metrics, output_dir, split):
    """Write `{split}_results.json` and merge the same into `all_results.json`, as `Trainer.save_metrics` does."""
    folder = Path(output_dir)
    merged_path = folder / "all_results.json"
    merged = json.loads(merged_path.read_text(encoding="utf-8")) if merged_path.is_file() else {}
    merged.update(metrics)
    for path, content in ((folder / f"{split}_results.json", metrics), (merged_path, merged)):
        write_text(path, json.dumps(content, indent=4, sort_keys=True) + "\n")


def show_results(title, metrics):
    """Print metrics as an aligned table on standard output; a dictionary among them gets a line for each entry."""
    rows = []
    for name, value in metrics.items():
        if isinstance(value, dict):
            rows.extend((f"{name}[{key}]", entry) for key, entry in value.items())
        else:
            rows.append((name, value))
    width = max(len(name) for name, _ in rows)
    print(f"***** {title} *****")
    for name, value in rows:
        print(f"  {name:<{width}} = {f'{value:.4f}' if isinstance(value, float) else value}")
