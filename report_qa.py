"""Finished runs side by side, for people who decide.

    python report_qa.py OUT [OUT ...]                       # scores, size and speed, F1 lost against the first run
    python report_qa.py OUT [OUT ...] --output_dir DIR      # from the runs' reports: a table and the Pareto front

Runs no model: what is shown was measured by the runs themselves.
"""

import argparse
from pathlib import Path

from qa.results.comparison import compare_runs, print_results
from qa.start.command import command
from qa.start.process import prepare_process


@command
def main():
    prepare_process()
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folders", metavar="OUT", nargs="+", type=Path, help="output folder of a finished run")
    parser.add_argument(
        "--output_dir", metavar="DIR", type=Path, help="write report.html, report.md, report.json and a plot there"
    )
    args = parser.parse_args()
    if args.output_dir is None:
        print_results(args.folders)
    else:
        compare_runs(args.folders, args.output_dir)


if __name__ == "__main__":
    main()
