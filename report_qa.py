"""Put finished runs side by side: `python report_qa.py OUT [OUT ...]`, the fp32 run first.

Belongs here: reading what runs left in their output folders and laying it out. Nothing is run or loaded.
"""

import argparse
import json
from pathlib import Path

from environment_qa import UsageError, command


@command
def main():
    parser = argparse.ArgumentParser(description="Put finished runs side by side; F1 lost is against the first one.")
    parser.add_argument("folders", metavar="OUT", nargs="+", type=Path, help="output folder of a run with --do_eval")
    folders = parser.parse_args().folders
    runs = [_results_of(folder) for folder in folders]
    width = max(len(folder.name) for folder in folders)
    print(f"{'run':<{width}}      EM      F1  F1 lost  size (MB)  questions/s")
    for folder, run in zip(folders, runs, strict=True):
        exact = run.get("eval_exact_match", run.get("eval_exact"))
        lost = runs[0]["eval_f1"] - run["eval_f1"]
        print(
            f"{folder.name:<{width}}  {exact:6.2f}  {run['eval_f1']:6.2f}  {lost:7.2f}  {run['model_size_mb']:9.2f}"
            f"  {run['eval_samples_per_second']:11.1f}"
        )


def _results_of(folder):
    path = folder / "all_results.json"
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read ({error}); name the output folders of finished runs") from error
    if "eval_f1" not in results:
        raise UsageError(f"{path} holds no eval_f1; run it with --do_eval")
    return results


if __name__ == "__main__":
    main()
