"""Measurements that need a process of their own: `python benchmarks/stages.py NAME JSON_ARGUMENTS OUTPUT_FILE`.

Belongs here: what one process measures, as functions of plain values that return JSON values. Paired measurements
alternate between the project's form and the plain one.
Does not belong here: what the figures must reach, and the table (`bench.py`).
"""

import json
import math
import os
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from qa.start.process import prepare_process, quiet_libraries  # noqa: E402

prepare_process()  # it sets the number of threads as the scripts do
quiet_libraries()

import numpy as np  # noqa: E402
import torch  # noqa: E402
from transformers import AutoModelForQuestionAnswering, AutoTokenizer, PretrainedConfig  # noqa: E402

from qa.models.passes import Batches  # noqa: E402
from qa.questions.examples import read_examples  # noqa: E402
from qa.questions.features import dataset_of, prepare_features  # noqa: E402
from qa.results.evaluation import Prepared, evaluate_model  # noqa: E402
from qa.start.arguments import DataTrainingArguments  # noqa: E402

SHAPES = ((1, 128), (1, 384), (8, 384), (16, 128))


def timed(function, *args, **kwargs):
    """Return `(seconds, result)` of a call."""
    begin = time.perf_counter()
    result = function(*args, **kwargs)
    return time.perf_counter() - begin, result


def repeated(path, count=None):
    """Read questions, and repeat them under new ids until there are `count`."""
    examples = read_examples(path, path)
    count = count or len(examples)
    return [{**examples[row % len(examples)], "id": f"q{row}"} for row in range(count)]


def features_time(model, path, count, repetitions):
    """Time `prepare_features` beside the fast tokenizer's own call on the same batches of 1,000.

    Returns:
        List of `[seconds of the tokenizer, seconds of prepare_features]`.
    """
    tokenizer = AutoTokenizer.from_pretrained(model)
    examples = dataset_of(repeated(path, count))
    batches = [examples[begin : begin + 1000] for begin in range(0, len(examples), 1000)]

    def tokenize():
        for batch in batches:
            tokenizer(
                batch["question"],
                batch["context"],
                truncation="only_second",
                max_length=384,
                stride=128,
                return_overflowing_tokens=True,
                return_offsets_mapping=True,
            )

    def prepare():
        with tempfile.TemporaryDirectory() as cache:
            prepare_features(examples, tokenizer, DataTrainingArguments(), cache)

    tokenizer(batches[0]["question"][:100], batches[0]["context"][:100])
    return [[timed(tokenize)[0], timed(prepare)[0]] for _ in range(repetitions)]


class PeakMemory:
    """Context that watches the memory of this process that no file backs; `growth_mb` is the most above the start."""

    def __enter__(self):
        self.running, self.begin, self.peak = True, self._read(), 0.0
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()
        return self

    def _read(self):
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) * 1024 / 1e6

    def _watch(self):
        while self.running:
            self.peak = max(self.peak, self._read())
            time.sleep(0.01)

    def __exit__(self, *args):
        self.running = False
        self.thread.join()
        self.growth_mb = max(self.peak, self._read()) - self.begin


def features_memory(model, path, count):
    """Return by how many megabytes preparing the features of `count` questions lets this process grow."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    examples = dataset_of(repeated(path, count))
    with tempfile.TemporaryDirectory() as cache, PeakMemory() as memory:
        prepare_features(examples, tokenizer, DataTrainingArguments(), cache)
    return memory.growth_mb


def postprocessing(model, path, count, parts):
    """Time post-processing, writing and scoring beside the plain form, with and without v2, on real logits.

    The questions are those of `path`, repeated under new ids; so are their logits, from the fp32 model, with noise of
    0.01 that makes them differ.

    Returns:
        Dictionary from `v1` and `v2` to lists of `[seconds of the plain form, seconds of the project's]`, one for
        each of `parts` equal parts of the questions, `count` the questions, and `same`, whether all files hold the
        same to the last digit.
    """
    import plain_form
    from textbook import answers_of, as_json, plain_squad, plain_squad_v2

    from qa.models.passes import predict_logits
    from qa.questions.answers import extract_answers, write_answers
    from qa.questions.scores import compute_metrics

    tokenizer = AutoTokenizer.from_pretrained(model)
    network = AutoModelForQuestionAnswering.from_pretrained(model, torch_dtype=torch.float32).eval()
    generator = np.random.default_rng(0)
    size = -(-count // parts)
    examples = repeated(path, count)
    unique = repeated(path)
    result = {"count": count, "same": True, "v1": [], "v2": []}
    with tempfile.TemporaryDirectory() as folder:

        def features_of(some):
            return prepare_features(dataset_of(some), tokenizer, DataTrainingArguments(), folder)

        logits = predict_logits(network, Batches(features_of(unique), tokenizer, 8))
        rows_of = {}
        for row, identifier in enumerate(features_of(unique)["example_id"]):
            rows_of.setdefault(identifier, []).append(row)
        scale = np.float32(0.01)
        for part in range(parts):
            some = examples[part * size : (part + 1) * size]
            rows = [row for number in range(len(some)) for row in rows_of[f"q{(part * size + number) % len(unique)}"]]
            noisy = [
                side[rows] + scale * generator.standard_normal((len(rows), side.shape[1]), dtype=np.float32)
                for side in logits
            ]
            dataset, features = dataset_of(some), features_of(some)
            # The plain form has windows of one width, and logits as lists; making them does not count.
            plain_features = plain_form.prepare(dataset, tokenizer)
            padded = [np.full((len(rows), 384), -1e4, dtype=np.float32) for _ in noisy]
            for wide, side in zip(padded, noisy, strict=True):
                wide[:, : side.shape[1]] = np.where(np.isinf(side), wide[:, : side.shape[1]], side)
            lists = [list(wide) for wide in padded]
            for version in ("v1", "v2"):
                v2 = version == "v2"
                # Where the scores of v2 are wanted, every third question has no answer.
                asked = some
                if v2:
                    none = {"text": [], "answer_start": []}
                    asked = [
                        {**each, "answers": each["answers"] if row % 3 else none} for row, each in enumerate(some)
                    ]
                dataset = dataset_of(asked)
                golds = {each["id"]: each["answers"]["text"] for each in asked}

                def plain(v2=v2, dataset=dataset, features=plain_features, logits=lists, golds=golds):
                    texts, nbest, odds = answers_of(dataset, features, logits, version_2=v2)
                    contents = {"predictions": texts, "nbest_predictions": nbest}
                    if v2:
                        contents["null_odds"] = odds
                    for name, content in contents.items():
                        Path(folder, f"plain_{name}.json").write_text(as_json(content), encoding="utf-8")
                    return plain_squad_v2(texts, golds, odds, 0.0) if v2 else plain_squad(texts, golds)

                def ours(v2=v2, dataset=dataset, features=features, logits=noisy):
                    answers = extract_answers(dataset, features, logits, version_2_with_negative=v2)
                    write_answers(answers, folder, "ours")
                    return compute_metrics(dataset, answers)

                ours_seconds, metrics = timed(ours)
                plain_seconds, plain_metrics = timed(plain)
                result[version].append([plain_seconds, ours_seconds])
                names = ("predictions", "nbest_predictions", *(("null_odds",) if v2 else ()))
                found, plain_found = (
                    [json.loads(Path(folder, f"{form}_{name}.json").read_text(encoding="utf-8")) for name in names]
                    for form in ("ours", "plain")
                )
                same = found == plain_found and math.isclose(metrics["f1"], plain_metrics["f1"], abs_tol=1e-6)
                result["same"] = result["same"] and same
    return result


def growth(model, path, counts):
    """Return for each of `counts` questions the seconds of preparing features, and of post-processing and scoring."""
    from qa.models.passes import predict_logits
    from qa.questions.answers import extract_answers, write_answers
    from qa.questions.scores import compute_metrics

    tokenizer = AutoTokenizer.from_pretrained(model)
    network = AutoModelForQuestionAnswering.from_pretrained(model, torch_dtype=torch.float32).eval()
    found = []
    with tempfile.TemporaryDirectory() as folder:

        def features_of(examples):
            return prepare_features(examples, tokenizer, DataTrainingArguments(), folder)

        unique = read_examples(path, path)
        features = features_of(dataset_of(unique))
        logits = predict_logits(network, Batches(features, tokenizer, 8))
        number_of = {example["id"]: number for number, example in enumerate(unique)}
        rows_of = [[] for _ in unique]
        for row, identifier in enumerate(features["example_id"]):
            rows_of[number_of[identifier]].append(row)
        for count in counts:
            examples = dataset_of(repeated(path, count))
            seconds, features = timed(features_of, examples)
            rows = [row for number in range(count) for row in rows_of[number % len(unique)]]
            sides = [side[rows] for side in logits]

            def finish(examples=examples, features=features, sides=sides):
                answers = extract_answers(examples, features, sides)
                write_answers(answers, folder)
                compute_metrics(examples, answers)

            found.append([seconds, timed(finish)[0]])
    return found


def evaluation(model, folder, path, multiple, repetitions):
    """Time the evaluation of a saved int8 model, from questions to scores, beside the plain form of it.

    Returns:
        `pairs`, a list of `[seconds of the plain form, seconds of the project's, seconds in forward passes of these]`,
        and the F1 of both as `f1`.
    """
    import plain_form

    from qa.models.compressed import load_compressed

    tokenizer = AutoTokenizer.from_pretrained(model)
    network = load_compressed(folder)
    examples = read_examples(path, path)
    forward = 0.0

    def passing(**inputs):
        nonlocal forward
        seconds, outputs = timed(network, **inputs)
        forward += seconds
        return outputs

    passing.model = getattr(network, "model", None)
    pairs = []
    for _ in range(repetitions):
        with tempfile.TemporaryDirectory() as place:
            forward = 0.0

            def ours(place=place):
                data_args, dataset = DataTrainingArguments(), dataset_of(examples)
                features = prepare_features(dataset, tokenizer, data_args, place)
                prepared = Prepared(dataset, features, Batches(features, tokenizer, 8, multiple=multiple))
                return evaluate_model(passing, prepared, data_args, place, "eval")[0]

            def plain(place=place):
                dataset = dataset_of(examples)
                features = plain_form.prepare(dataset, tokenizer)
                names = [name for name in tokenizer.model_input_names if name in features.column_names]
                return plain_form.answer_and_score(
                    dataset, features, plain_form.predict(network, features, names), place
                )

            ours_seconds, metrics = timed(ours)
            passes = forward
            plain_seconds, plain_metrics = timed(plain)
            pairs.append([plain_seconds, ours_seconds, passes])
    return {"pairs": pairs, "f1": [plain_metrics["f1"], metrics["eval_f1"]]}


class TwoTokens:
    """A teacher that costs next to nothing: what is left is the cost of storing its logits."""

    config = PretrainedConfig()

    def __call__(self, input_ids, **_):
        scores = input_ids.float()
        return {"start_logits": scores, "end_logits": -scores}

    def state_dict(self):
        return {"scale": torch.ones(1)}


def long_features(count, folder, vocabulary):
    """Write `count` features of 384 random tokens to a file and map it, as prepared features are."""
    import datasets
    import pyarrow as pa

    path = Path(folder) / "features.arrow"
    generator = np.random.default_rng(0)
    ends = np.arange(0, 384 * 1000 + 1, 384, dtype=np.int32)
    ones = pa.ListArray.from_arrays(ends, pa.array(np.ones(384 * 1000, np.int8)))
    zeros = pa.ListArray.from_arrays(ends, pa.array(np.zeros(384 * 1000, np.int8)))
    with datasets.arrow_writer.ArrowWriter(path=str(path)) as writer:
        for begin in range(0, count, 1000):
            ids = pa.array(generator.integers(5, vocabulary, 384 * 1000, dtype=np.int32))
            table = pa.table(
                {
                    "input_ids": pa.ListArray.from_arrays(ends, ids),
                    "token_type_ids": zeros,
                    "attention_mask": ones,
                }
            )
            writer.write_table(table.slice(0, min(1000, count - begin)))
        writer.finalize()
    features = datasets.Dataset.from_file(str(path))
    features._fingerprint = f"long-features-{count}"
    return features


def teacher_store(model, count):
    """Store logits for `count` features of 384 from a teacher that costs nothing.

    Returns:
        `seconds`, what storing costs; `growth_mb`, the memory it took; `again_seconds`, a second run that finds them;
        `passes_again`, the passes of that run; `file_mb`; and `resumed`, the share of the passes that was left after
        an interruption half-way.
    """
    from qa.compression import distillation

    tokenizer = AutoTokenizer.from_pretrained(model)
    passes, halt = 0, None

    class Counting(TwoTokens):
        def __call__(self, **inputs):
            nonlocal passes
            passes += 1
            if passes == halt:
                raise KeyboardInterrupt
            return super().__call__(**inputs)

    with tempfile.TemporaryDirectory() as folder:
        features = long_features(count, folder, tokenizer.vocab_size)
        args = (features, Counting(), tokenizer, 8)
        total = -(-count // 8)
        # The first of the runs: a later one would find memory that this process has already.
        with PeakMemory() as memory:
            seconds, _ = timed(distillation.add_teacher_logits, *args, str(Path(folder) / "whole"))
        assert passes == total
        passes = 0
        again, _ = timed(distillation.add_teacher_logits, *args, str(Path(folder) / "whole"))
        passes_again, passes, halt = passes, 0, total // 2
        # Marks are written every ten seconds; the real teacher takes hours, this one seconds.
        distillation.MARK_EVERY = 0.1
        try:
            distillation.add_teacher_logits(*args, str(Path(folder) / "cut"))
        except KeyboardInterrupt:
            passes, halt = 0, None
        distillation.add_teacher_logits(*args, str(Path(folder) / "cut"))
        file = next((Path(folder) / "whole" / "qa_features").iterdir())
        return {
            "seconds": seconds,
            "growth_mb": memory.growth_mb,
            "again_seconds": again,
            "passes_again": passes_again,
            "resumed": passes / total,
            "file_mb": file.stat().st_size / 1e6,
        }


def teacher_passes(model, count, repetitions):
    """Time bare passes of the real teacher beside storing its logits, over `count` features of 384.

    Returns:
        List of `[seconds of the bare passes, seconds with storing]`.
    """
    from qa.compression import distillation

    tokenizer = AutoTokenizer.from_pretrained(model)
    teacher = AutoModelForQuestionAnswering.from_pretrained(model, torch_dtype=torch.float32).eval()
    with tempfile.TemporaryDirectory() as folder:
        features = long_features(count, folder, tokenizer.vocab_size)
        batches = Batches(features, tokenizer, 8)
        inputs = [batches.inputs(rows) for rows in batches.by_length()]

        def bare():
            with torch.inference_mode():
                for each in inputs:
                    teacher(**each)

        bare()
        pairs = []
        for number in range(repetitions):
            cache = str(Path(folder) / str(number))
            bare_seconds, _ = timed(bare)
            stored_seconds, _ = timed(distillation.add_teacher_logits, features, teacher, tokenizer, 8, cache)
            pairs.append([bare_seconds, stored_seconds])
        return pairs


def train(connection, form, recipe, model, path, steps, seed, folder, batch=8, flags=()):
    """Train, one step whenever the other end of `connection` says so, and send `(seconds, loss)` of each.

    Run through `multiprocessing` by `bench.py`, beside the other form.

    Args:
        connection: `multiprocessing.Connection`.
        form: `plain` or `ours`.
        recipe: `quantization`, `pruning` or `distillation`; `None` for fine-tuning alone (`ours` only).
        model, path: student and teacher, and training questions.
        steps, batch: how many, and of how many features.
        seed: of the order, and of dropout.
        folder: for what is written.
        flags: more of them (`ours` only).
    """
    import transformers

    class Turns(transformers.TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            self.wait()

        def wait(self):
            connection.send(None)
            connection.recv()
            self.begin = time.perf_counter()

        def on_step_end(self, args, state, control, **kwargs):
            self.seconds = time.perf_counter() - self.begin

        def on_log(self, args, state, control, logs=None, **kwargs):
            # Step after step: the loss of this one is known, the next one has not begun.
            if "loss" in logs:
                connection.send((self.seconds, logs.get("loss_student", label_loss or logs["loss"])))
                if state.global_step < state.max_steps:
                    connection.recv()
                    self.begin = time.perf_counter()

    # A student's own loss: the other part is over padding as well in the plain form.
    label_loss = None

    def keep_label_loss(module, args, outputs):
        nonlocal label_loss
        label_loss = float(outputs["loss"])

    os.chdir(folder)
    count = batch * steps
    common = {"max_steps": steps, "learning_rate": 1e-5, "seed": seed, "disable_tqdm": True, "logging_steps": 1}
    common["per_device_train_batch_size"] = batch
    if form == "ours":
        import run_qa

        words = ["run_qa.py", "--model_name_or_path", model, "--train_file", path, "--do_train", "--no_cuda"]
        words += [
            "--max_train_samples",
            str(count),
            "--save_strategy",
            "no",
            "--output_dir",
            str(Path(folder) / "out"),
        ]
        words += ["--cache_dir", str(Path(folder) / "cache")]
        words += [*flags, *([f"--apply_{recipe}"] if recipe else [])]
        words += ["--teacher_model_name_or_path", model] if recipe == "distillation" else []
        words += [word for name, value in common.items() for word in (f"--{name}", str(value))]
        transformers.trainer.DEFAULT_CALLBACKS.append(Turns)
        sys.argv = words
        run_qa.main()
    else:
        import plain_form

        tokenizer = AutoTokenizer.from_pretrained(model)
        networks = [AutoModelForQuestionAnswering.from_pretrained(model, torch_dtype=torch.float32) for _ in range(2)]
        features = plain_form.prepare(dataset_of(read_examples(path, path, count)), tokenizer)
        trainer = plain_form.trainer_of(
            recipe, networks[0], tokenizer, features, networks[1], output_dir=folder, do_train=True, **common
        )
        trainer.add_callback(Turns())
        if recipe == "distillation":
            networks[0].register_forward_hook(keep_label_loss)
        trainer.train()


def serve_passes(connection, kind, folder):
    """Load a model, and send the seconds of one pass whenever a `(batch, length)` is received; run as `train` is.

    Args:
        connection: `multiprocessing.Connection`.
        kind: `fp32`, `bf16` (autocast), or `int8`.
        folder: of the model.
    """
    if kind == "int8":
        from qa.models.compressed import load_compressed

        network = load_compressed(folder)
    else:
        network = AutoModelForQuestionAnswering.from_pretrained(folder, torch_dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=kind == "bf16"):
        inputs = {}
        for shape in SHAPES:
            ids = torch.randint(5, tokenizer.vocab_size, shape, generator=generator)
            values = {
                "input_ids": ids,
                "token_type_ids": torch.zeros_like(ids),
                "attention_mask": torch.ones_like(ids),
            }
            inputs[shape] = {name: values[name] for name in tokenizer.model_input_names}
            for _ in range(3):
                network(**inputs[shape])
        connection.send(None)
        while (shape := connection.recv()) is not None:
            network(**inputs[shape])  # the caches were another model's until now
            connection.send(timed(network, **inputs[shape])[0])


if __name__ == "__main__":
    name, arguments, output = sys.argv[1:]
    Path(output).write_text(json.dumps(globals()[name](**json.loads(arguments))), encoding="utf-8")
