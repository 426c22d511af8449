"""Measure what each stage costs beside its plain form, and write a table, `RESULTS.md` in `--folder`.

    python benchmarks/bench.py --model_name_or_path sample/distilbert-qa --train_file sample/train.json \\
        --validation_file sample/dev.json

Both forms take turns, so that a busy machine slows both down, and the medians of the turns are compared. A ratio is
that of the medians. What a cache or an earlier import would change runs in a fresh process.

Belongs here: one function for each stage of the table, what must be reached, and the table.
Does not belong here: what happens inside one process (`stages.py`), and the plain forms (`plain_form.py`, and
`tests/textbook.py` for single functions).
"""

import argparse
import contextlib
import importlib.metadata
import io
import json
import math
import multiprocessing
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median, stdev

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path[:0] = [str(ROOT), str(HERE)]

from qa.start.cpu import processor  # noqa: E402
from qa.start.process import default_threads  # noqa: E402
from qa.start.stack import STACK  # noqa: E402

# Keeps `prepare_process` from changing how memory is managed, which no known script does; 8 is what it is anyway.
PLAIN_ENVIRONMENT = {"MALLOC_ARENA_TEST": "8"}


def fresh(stage, **arguments):
    """Run a function of `stages.py` in a fresh process and return what it returns."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "result.json"
        words = [sys.executable, str(HERE / "stages.py"), stage, json.dumps(arguments), str(output)]
        process = subprocess.run(words, cwd=folder, capture_output=True)
        if process.returncode:
            sys.exit(f"{stage} ended with {process.returncode}:\n{process.stderr.decode()}")
        return json.loads(output.read_text(encoding="utf-8"))


def seconds_of(words, folder, plain=False, code=0):
    """Run Python with some words in `folder` and return how long the process took."""
    environ = {**os.environ, **(PLAIN_ENVIRONMENT if plain else {})}
    begin = time.perf_counter()
    process = subprocess.run([sys.executable, "-W", "ignore", *words], cwd=folder, env=environ, capture_output=True)
    seconds = time.perf_counter() - begin
    if process.returncode != code:
        sys.exit(f"{shlex.join(words)} ended with {process.returncode}:\n{process.stderr.decode()}")
    return seconds


@contextlib.contextmanager
def beside(target, *argument_lists, environments=None):
    """Start a function of `stages.py` in several processes; give their connections once all are ready for a turn."""
    context = multiprocessing.get_context("spawn")
    ends, processes = [], []
    for number, arguments in enumerate(argument_lists):
        ours, theirs = context.Pipe()
        before = dict(os.environ)
        os.environ.update((environments or {}).get(number, {}))
        process = context.Process(target=_in_stages, args=(target, theirs, *arguments), daemon=True)
        process.start()
        os.environ.clear()
        os.environ.update(before)
        theirs.close()
        ends.append(ours)
        processes.append(process)
    for end in ends:
        end.recv()
    yield ends
    for process in processes:
        process.join()


def _in_stages(target, *arguments):
    import stages

    with contextlib.redirect_stdout(io.StringIO()):
        getattr(stages, target)(*arguments)


def ratio(pairs, first=0, second=1):
    """Return the ratio of the medians of two columns."""
    return median(pair[first] for pair in pairs) / median(pair[second] for pair in pairs)


def start(args):
    """`--help` and wrong arguments, beside the import of transformers; and the known scripts' imports."""
    with tempfile.TemporaryDirectory() as folder:
        wrong = ["--model_name_or_path", "m", "--do_eval", "--output_dir", "o", "--max_seq_length", "0"]
        commands = {"transformers": ["-c", "import transformers"]}
        for script in ("run_qa.py", "run_qa_post_training.py"):
            commands[f"{script} --help"] = [str(ROOT / script), "--help"]
            commands[f"{script}, wrong argument"] = [str(ROOT / script), *wrong]
        commands["plain form --help"] = [str(HERE / "plain_form.py"), "--help"]
        took = {name: [] for name in commands}
        for _ in range(args.repetitions):
            for name, words in commands.items():
                code = 2 if name.endswith("wrong argument") else 0
                took[name].append(seconds_of(words, folder, plain="plain" in name, code=code))
    base, known = median(took.pop("transformers")), median(took.pop("plain form --help"))
    more = {name: median(seconds) - base for name, seconds in took.items()}
    slowest = max(more, key=more.get)
    text = f"{more[slowest]:+.2f} s at most ({slowest}), transformers {base:.2f} s, plain form {known:.2f} s"
    return [("start: `--help`, wrong arguments", "import of transformers plus 1 s", text, more[slowest] <= 1)]


def features(args):
    """`prepare_features` beside the tokenizer's own call; and its memory."""
    model, path = args.model_name_or_path, args.train_file
    rows = []
    for count, repetitions in ((None, args.repetitions + 2), (30_000, args.repetitions)):
        pairs = fresh("features_time", model=model, path=path, count=count, repetitions=repetitions)
        own, ours = (median(column) for column in zip(*pairs, strict=True))
        name = f"{count:,} questions" if count else "the training questions"
        text = f"{ours / own:.2f} x ({own:.2f} s and {ours:.2f} s)"
        rows.append((f"features, {name}", "1.3 x the tokenizer's own call", text, ours / own <= 1.3))
    small, large = (fresh("features_memory", model=model, path=path, count=count) for count in (3_000, 30_000))
    text = f"{small:.0f} MB for 3,000 questions, {large:.0f} MB for 30,000"
    # Flat: ten times the questions take not even twice the memory.
    rows.append(("features, memory", "flat in the questions", text, large < 2 * max(small, 20)))
    return rows


def postprocessing(args):
    """Post-processing, writing and scoring beside the plain form."""
    found = fresh(
        "postprocessing", model=args.model_name_or_path, path=args.validation_file, count=args.questions, parts=5
    )
    rows = []
    for version in ("v1", "v2"):
        plain, ours = (sum(column) for column in zip(*found[version], strict=True))
        equal = "equal" if found["same"] else "not equal"
        text = f"{ratio(found[version]):.1f} x ({plain:.1f} s and {ours:.2f} s), files {equal}"
        reached = ratio(found[version]) >= 20 and found["same"]
        name = f"post-processing and metrics, {found['count']:,} questions, {version}"
        rows.append((name, "20 x the plain form, equal files", text, reached))
    return rows


def quantized(args, approach):
    """Quantize with the project's command, unless that is done, and return the folder."""
    folder = args.folder / approach
    if not (folder / "eval_results.json").is_file():
        words = [*command_of(args), "--output_dir", str(folder.resolve()), "--overwrite_output_dir"]
        words += [] if approach == "dynamic" else ["--quantization_approach", "static"]
        words += ["--use_ipex"] if approach.startswith("ipex") else []
        words += ["--bf16"] if approach == "ipex-bf16" else []
        seconds_of(words, args.folder)
    return folder


def command_of(args):
    words = [str(ROOT / "run_qa_post_training.py"), "--apply_quantization", "--verify_loading", "--do_eval"]
    for name in ("model_name_or_path", "train_file", "validation_file"):
        words += [f"--{name}", getattr(args, name)]
    return [*words, "--no_cuda"]


def evaluation(args):
    """Evaluating int8 models, from questions to scores."""
    from qa.models.compressed import IPEX_WIDTH_STEP

    rows = []
    for approach in ("dynamic", "static", "ipex"):
        multiple = IPEX_WIDTH_STEP if approach == "ipex" else 1
        found = fresh(
            "evaluation",
            model=args.model_name_or_path,
            folder=str(quantized(args, approach)),
            path=args.validation_file,
            multiple=multiple,
            repetitions=args.repetitions,
        )
        gain, share = ratio(found["pairs"]), ratio(found["pairs"], 2, 1)
        plain_f1, f1 = found["f1"]
        seconds = median(pair[1] for pair in found["pairs"])
        text = f"{gain:.2f} x, {share:.0%} in passes ({seconds:.2f} s), F1 {f1:.2f}, plain form {plain_f1:.2f}"
        reached = gain >= 2 and share >= 0.9 and abs(f1 - plain_f1) <= 0.2
        rows.append((f"evaluating, {approach}", "2 x the plain form, passes 90 %, F1 within 0.2", text, reached))
    return rows


def static(args):
    """Static quantization as a whole command beside the plain form."""
    pairs = []
    folders = {form: args.folder / f"static-{form}" for form in ("plain", "ours")}
    words = command_of(args)[4:-1]
    for _ in range(args.repetitions):
        plain = [str(HERE / "plain_form.py"), *words, "--output_dir", str(folders["plain"].resolve())]
        ours = [*command_of(args), "--quantization_approach", "static", "--overwrite_output_dir", "--overwrite_cache"]
        ours += ["--output_dir", str(folders["ours"].resolve())]
        with tempfile.TemporaryDirectory() as place:
            os.environ["HF_DATASETS_CACHE"] = place  # nothing prepared is there
            pairs.append([seconds_of(plain, place, plain=True), seconds_of(ours, place)])
            del os.environ["HF_DATASETS_CACHE"]
    results = {
        form: json.loads((folder / "eval_results.json").read_text(encoding="utf-8"))
        for form, folder in folders.items()
    }
    plain_f1, f1 = results["plain"]["f1"], results["ours"]["eval_f1"]
    plain, ours = (median(column) for column in zip(*pairs, strict=True))
    text = f"{ratio(pairs):.2f} x ({plain:.1f} s and {ours:.1f} s), F1 {f1:.2f}, plain form {plain_f1:.2f}"
    reached = ratio(pairs) >= 2.5 and abs(f1 - plain_f1) <= 0.2
    return [("static quantization, whole command", "2.5 x the plain form, F1 within 0.2", text, reached)]


def training(args):
    """Steps of 8 questions of either form, one in turn with the other."""
    rows = []
    for recipe in ("quantization", "pruning", "distillation"):
        taken = steps_in_turn(args, args.steps, ("plain", recipe), ("ours", recipe))
        seconds = [median(turn[0] for turn in turns) for turns in taken]
        means = [[sum(turns[step][1] for step in part) / len(part) for part in halves(args.steps)] for turns in taken]
        # The batches hold other questions in the two forms: means differ by what single batches scatter.
        error = math.hypot(*(stdev(turn[1] for turn in turns) / math.sqrt(args.steps / 2) for turns in taken))
        same = all(abs(plain - ours) <= 2 * error for plain, ours in zip(*means, strict=True))
        curve = " then ".join(f"{ours:.2f} (plain {plain:.2f})" for plain, ours in zip(*means, strict=True))
        gain = seconds[0] / seconds[1]
        times = " and ".join(f"{1000 * each / 8:.0f} ms" for each in seconds)
        text = f"{gain:.2f} x ({times}), loss {curve} +- {error:.2f}"
        name = f"{recipe}, per training question"
        rows.append((name, "2 x the plain form, same loss within noise", text, gain >= 2 and same))
    return rows


def steps_in_turn(args, steps, *forms):
    """Let trainings take one step in turn, and return for each of them the list of `(seconds, loss)`.

    Args:
        steps: how many of each.
        forms: for each training form and recipe, and if wanted batch and flags, as `stages.train` takes them.
    """
    taken = [[] for _ in forms]
    with tempfile.TemporaryDirectory() as place:
        lists, environments = [], {}
        for number, (form, recipe, *more) in enumerate(forms):
            folder = Path(place) / str(number)
            folder.mkdir()
            lists.append((form, recipe, args.model_name_or_path, args.train_file, steps, 42, str(folder), *more))
            environments[number] = PLAIN_ENVIRONMENT if form == "plain" else {}
        with beside("train", *lists, environments=environments) as ends:
            for _ in range(steps):
                for end, turns in zip(ends, taken, strict=True):
                    end.send(None)
                    turns.append(end.recv())
    return taken


def bf16(args):
    """Steps of fine-tuning in fp32 and in bf16, with the same questions and seeds, one in turn with the other."""
    rows = []
    for batch in (8, 16):
        steps = 2 * args.steps * 8 // batch
        taken = steps_in_turn(args, steps, ("ours", None, batch), ("ours", None, batch, ["--bf16"]))
        # The first steps of a process are those in which its memory grows.
        speeds = [batch / median(turn[0] for turn in turns[2:]) for turns in taken]
        means = [sum(turn[1] for turn in turns) / steps for turns in taken]
        differences = [half[1] - whole[1] for whole, half in zip(*taken, strict=True)]
        error = stdev(differences) / math.sqrt(steps)
        gain, more = speeds[1] / speeds[0], means[1] - means[0]
        text = f"{gain:.2f} x ({speeds[0]:.1f} and {speeds[1]:.1f} questions a second), loss {means[0]:.3f}"
        text += f" and {means[1]:.3f}, {more:+.3f} +- {error:.3f}"
        reached = gain >= 1.5 and abs(more) <= 2 * error
        rows.append((f"training in bf16, batches of {batch}", "1.5 x fp32, same loss within noise", text, reached))
    return rows


def halves(steps):
    return range(steps // 2), range(steps // 2, steps)


def teacher(args):
    """Stored teacher logits of 88,000 features of 384."""
    model = args.model_name_or_path
    stored = fresh("teacher_store", model=model, count=args.teacher_features)
    pairs = fresh("teacher_passes", model=model, count=64, repetitions=args.repetitions)
    bare = median(pair[0] for pair in pairs) / 64 * args.teacher_features
    share = stored["seconds"] / bare
    name = f"stored teacher logits, {args.teacher_features:,} features of 384"
    return [
        (
            f"{name}, time",
            "bare passes plus 15 %",
            f"+{share:.1%}: storing takes {stored['seconds']:.0f} s (all features, a teacher that costs nothing), "
            f"bare passes {bare:,.0f} s (simulated: from 64 features); with those 64: {1 / ratio(pairs) - 1:+.1%}",
            share <= 0.15 and 1 / ratio(pairs) <= 1.15,
        ),
        (
            f"{name}, memory",
            "300 MB above the model",
            f"{stored['growth_mb']:.0f} MB, file {stored['file_mb']:.0f} MB",
            stored["growth_mb"] <= 300,
        ),
        (
            f"{name}, used again",
            "resumable, no second run",
            f"{stored['passes_again']} passes and {stored['again_seconds']:.1f} s the second time; "
            f"{stored['resumed']:.0%} of the passes left after an interruption at 50 %",
            stored["passes_again"] == 0 and stored["resumed"] <= 0.6,
        ),
    ]


def inference(args):
    """One pass of each engine, all in turn."""
    from stages import SHAPES

    engines = {
        "fp32": ("fp32", args.model_name_or_path),
        "bf16 autocast": ("bf16", args.model_name_or_path),
        **{
            approach: ("int8", str(quantized(args, approach)))
            for approach in ("dynamic", "static", "ipex", "ipex-bf16")
        },
    }
    took = {(engine, shape): [] for engine in engines for shape in SHAPES}
    with beside("serve_passes", *engines.values()) as ends:
        for _ in range(args.rounds):
            for shape in SHAPES:
                for engine, end in zip(engines, ends, strict=True):
                    end.send(shape)
                    took[engine, shape].append(end.recv())
        for end in ends:
            end.send(None)
    medians = {key: median(seconds) for key, seconds in took.items()}
    rows = []
    for engine in engines:
        cells = [
            f"{shape[0]} x {shape[1]}: {1000 * medians[engine, shape]:.1f} ms "
            f"({medians['fp32', shape] / medians[engine, shape]:.2f} x)"
            for shape in SHAPES
        ]
        wanted = "3 x fp32 at 8 x 384" if engine == "ipex" else ""
        reached = medians["fp32", (8, 384)] / medians[engine, (8, 384)] >= 3 if engine == "ipex" else None
        rows.append((f"one pass, {engine}", wanted, ", ".join(cells), reached))
    return rows


def scale(args):
    """How the stages without a model grow; those with one do batch by batch the same again."""
    counts = (1_000, 10_000, 100_000)
    found = fresh("growth", model=args.model_name_or_path, path=args.validation_file, counts=counts)
    rows = []
    for stage, seconds in zip(("features", "post-processing and metrics"), zip(*found, strict=True), strict=True):
        cells = [f"{count:,}: {1000 * each / count:.3f} s" for count, each in zip(counts, seconds, strict=True)]
        rows.append((f"{stage}, per 1,000 questions of", "", ", ".join(cells), None))
    return rows


STAGES = {
    stage.__name__: stage
    for stage in (start, features, postprocessing, evaluation, static, training, bf16, teacher, inference, scale)
}


def table(rows):
    lines = ["| stage | must reach | measured | met |", "|---|---|---|---|"]
    for stage, wanted, text, reached in rows:
        lines.append(f"| {stage} | {wanted} | {text} | {'' if reached is None else 'yes' if reached else 'NO'} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_name_or_path", default=str(ROOT / "sample/distilbert-qa"))
    parser.add_argument("--train_file", default=str(ROOT / "sample/train.json"))
    parser.add_argument("--validation_file", default=str(ROOT / "sample/dev.json"))
    parser.add_argument("--stages", nargs="+", choices=list(STAGES), default=list(STAGES), help="Measure only these.")
    parser.add_argument("--repetitions", type=int, default=3, help="Turns of each form.")
    parser.add_argument("--rounds", type=int, default=9, help="Turns of each engine and shape.")
    parser.add_argument("--steps", type=int, default=16, help="Training steps of 8 questions.")
    parser.add_argument("--questions", type=int, default=10_570, help="Questions to post-process.")
    parser.add_argument("--teacher_features", type=int, default=88_000)
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path("out/bench"),
        help="For the table, models and figures; those of other stages stay.",
    )
    args = parser.parse_args()
    for name in ("model_name_or_path", "train_file", "validation_file"):
        setattr(args, name, str(Path(getattr(args, name)).resolve()))
    args.folder.mkdir(parents=True, exist_ok=True)
    os.environ["HF_HUB_OFFLINE"] = "1"

    for name in args.stages:
        begin = time.perf_counter()
        rows = STAGES[name](args)
        print(f"{table(rows)}\n{name}: {time.perf_counter() - begin:.0f} s\n", flush=True)
        (args.folder / f"{name}.json").write_text(json.dumps(rows), encoding="utf-8")
    measured = [args.folder / f"{name}.json" for name in STAGES]
    rows = [row for path in measured if path.is_file() for row in json.loads(path.read_text(encoding="utf-8"))]
    names = [Path(getattr(args, name)).name for name in ("model_name_or_path", "train_file", "validation_file")]
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in STACK)
    threads = os.environ.get("OMP_NUM_THREADS") or default_threads(os.environ, os.sched_getaffinity(0))
    (args.folder / "RESULTS.md").write_text(
        f"""# Measured

{processor()[0]}, {threads} threads, Python {platform.python_version()}, {versions}.

```bash
make bench BENCH_FLAGS="--model_name_or_path {names[0]} --train_file {names[1]} --validation_file {names[2]}"
```

Both forms took turns; times are medians of {args.repetitions} turns or more, ratios those of the medians.
`benchmarks/bench.py` says how, and what "plain form" means.

{table(rows)}
""",
        encoding="utf-8",
    )


if __name__ == "__main__":
    main()
