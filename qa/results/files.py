"""Results as files and on the terminal.

Belongs here: the results files that users of the transformers examples know, and the same scores for tensorboard.
Does not belong here: answers (`qa/questions/answers.py`) and reports (`report.py`).
"""

import json
from pathlib import Path

from qa.start.errors import UsageError
from qa.start.writing import write_text


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


def log_saved_model(output_dir, logging_dir, step):
    """Write the scores of the model as it was saved to tensorboard, as `saved/f1` and so on.

    What `Trainer` logs while it trains is of the fake-quant model.

    Args:
        output_dir: folder with `all_results.json`.
        logging_dir: folder of the event files.
        step: the last optimizer step.
    """
    from torch.utils.tensorboard import SummaryWriter

    results = read_json(Path(output_dir) / "all_results.json")
    with SummaryWriter(logging_dir) as writer:
        for name in ("eval_f1", "eval_exact_match", "eval_exact", "sparsity"):
            if name in results:
                writer.add_scalar(f"saved/{name.removeprefix('eval_')}", results[name], step)


def read_json(path):
    """Read a dictionary that a finished run left in a file; a `UsageError` says that it is not one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read ({error}); name the output folder of a finished run") from error
    if not isinstance(content, dict):
        raise UsageError(f"{path} holds a {type(content).__name__}; name the output folder of a finished run")
    return content


def exact_match_of(metrics):
    """Return the exact match of an evaluation, in percent; with unanswerable questions the metric calls it `exact`."""
    return metrics.get("eval_exact_match", metrics.get("eval_exact"))
