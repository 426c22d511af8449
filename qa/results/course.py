"""The course that every command takes, around the one step that is its own.

Belongs here: what happens in the same order in all of them, before a model is compressed and after it is loaded again.
Does not belong here: what any of these steps does. The heavy libraries are imported only where they are due.
"""

from pathlib import Path
from types import SimpleNamespace

from qa.models.identity import made_from
from qa.models.loading import load_config_and_tokenizer, load_model, load_teacher_config_and_tokenizer
from qa.questions.examples import load_examples
from qa.results.files import log_saved_model, read_json, save_results, show_results
from qa.results.hub import push
from qa.results.report import drop_report, report_run
from qa.start.arguments import FILE_FLAGS, HUB_NAMES
from qa.start.digests import digest
from qa.start.distributed import gather, leave_others, wait_for_all
from qa.start.errors import UsageError
from qa.start.output import check_checkpoint, check_owner, claim_output_dir, finish, last_checkpoint, step_of
from qa.start.paths import kind_of
from qa.start.process import is_first_process
from qa.start.run import ANSWERING, ORIGINAL

# Flags whose values may be paths of what a run reads.
INPUTS = (
    *HUB_NAMES,
    *(*FILE_FLAGS.values(), "quantization_config", "pruning_config", "distillation_config"),
    "resume_from_checkpoint",
)


def read_inputs(run, splits, int8_too=False, load=load_examples):
    """Read all that can be said to be wrong before the heavy libraries are loaded, into the run.

    Args:
        run: `Run` with its arguments and settings; `examples`, what is read of models, and `made_from` are filled in.
        splits: dictionary from split to whether it is needed.
        int8_too: as in `loading.load_config_and_tokenizer`.
        load: what reads the splits, as `load_examples` does.

    Raises:
        UsageError: a file is wrong, the output folder holds something else, or a checkpoint is of another run.
    """
    run.examples = load(run.data_args, run.model_args, [split for split, needed in splits.items() if needed])
    run.config, run.tokenizer = load_config_and_tokenizer(run.model_args, int8_too)
    if "distillation" in run.settings:
        teacher = run.optimization_args.teacher_model_name_or_path
        run.teacher_config, run.teacher_tokenizer = load_teacher_config_and_tokenizer(
            teacher, run.tokenizer, run.model_args
        )
    run.made_from = made_from(run)
    arguments = run.arguments
    inputs = [(flag, arguments[flag]) for flag in INPUTS if arguments.get(flag) and kind_of(arguments[flag])]
    if run.model_args.cache_dir:
        inputs.append(("cache_dir", run.model_args.cache_dir))
    if resumes_here(run):
        inputs = [(flag, path) for flag, path in inputs if flag != "resume_from_checkpoint"]
    if run.training_args.resume_from_checkpoint:
        check_checkpoint(run.training_args.resume_from_checkpoint, run.made_from)
    check_owner(run.output_dir, run.made_from, run.training_args.overwrite_output_dir, inputs, resumes_here(run))


def load_base_model(run, needs_head=True):
    """Load the model that a run starts from, and settle with its tokenizer what it is given.

    Args:
        run: `Run`; its tokenizer and lengths of windows may be changed, see `inputs.settle_inputs`.
        needs_head: refuse weights without a question-answering head.
    """
    from qa.models.inputs import settle_inputs

    model = load_model(run.model_args, run.config, needs_head=needs_head)
    if run.training_args.gradient_checkpointing and not model.supports_gradient_checkpointing:
        raise UsageError(f"--gradient_checkpointing: {run.config.model_type} models have none; leave it out")
    name, reads_questions = run.model_args.model_name_or_path, run.optimization_args.takes_questions
    settle_inputs(model, run.tokenizer, run.data_args, name, reads_questions=reads_questions)
    return model


def resumes_here(run):
    """Tell whether the run goes on from a checkpoint that was named, and lies in its output folder."""
    checkpoint = run.training_args.resume_from_checkpoint
    return checkpoint is not None and Path(checkpoint).resolve().parent == Path(run.output_dir).resolve()


def claim(run):
    """Make the output folder that of this run, now that nothing more can be wrong with its input."""
    overwrite = run.training_args.overwrite_output_dir
    run.earlier = claim_output_dir(run.output_dir, run.made_from, overwrite, resumes_here(run))


def is_done(run):
    """Tell, and say so, whether the output folder holds this very run and nothing more is asked of its model."""
    if not run.earlier or (run.optimization_args.verify_loading and not run.earlier["verified"]):
        return False
    inputs = ", ".join(f"{flag} {digest}" for flag, digest in run.made_from["inputs"].items())
    print(f"note: {run.output_dir} holds this run, finished, made from {inputs}; its model is not made again")
    return True


def draw_calibration(run, multiple=1):
    """Draw `--num_calibration_samples` training features with the run's seed, as `Batches`."""
    from qa.models.passes import Batches
    from qa.questions.features import dataset_of, draw_features

    count, examples = run.optimization_args.num_calibration_samples, dataset_of(run.examples["train"])
    drawn = draw_features(examples, run.tokenizer, run.data_args, count, run.training_args.seed)
    return Batches(
        *(drawn, run.tokenizer, run.training_args.per_device_eval_batch_size, run.data_args.fixed_width, multiple),
        longest=run.data_args.max_seq_length,
    )


def batches_to_compare(evaluated, calibration):
    """Choose the `Batches` that two models are compared on: real questions, or those of the calibration."""
    return next(iter(evaluated.values())).batches if evaluated else calibration


def _finish(run, scored, verified, source=None):
    """Write down that the run is whole, what answers depend on, and what was scored; drop a report on others."""
    arguments = run.arguments | {"never_pad": run.data_args.never_pad}
    answering = {name: arguments[name] for name in ANSWERING} | (source or {})
    earlier = [run.earlier.get(key) for key in ("answering", "scored")]
    if not run.optimization_args.report and [answering, scored] != earlier:
        drop_report(run.output_dir)
    finish(run.output_dir, verified, answering=answering, scored=scored)


def _scored(run, evaluated):
    """Tell which questions the scores in the output folder are of: where they came from, and their digest."""
    if "eval" not in evaluated:
        return run.earlier.get("scored", {})
    names = ("validation_file", "dataset_name", "dataset_config_name")
    # Where answers stand in their contexts is for trainings.
    texts = [{**example, "answers": example["answers"]["text"]} for example in run.examples["validation"]]
    return {name: getattr(run.data_args, name) for name in names} | {"digest": digest(texts)}


def evaluate_as_it_is(run, model, evaluated):
    """Evaluate a model that this run does not change; parameters as in `conclude`."""
    from qa.results.evaluation import evaluate_and_save

    device = run.training_args.device
    answers = evaluate_and_save(run, model.to(device), evaluated, device, saved=False)
    leave_others()
    if run.optimization_args.report and is_first_process():
        report_run(run, evaluated["eval"], answers["eval"])
    if is_first_process():
        source = {name: getattr(run.model_args, name) for name in ORIGINAL}
        for name in source.keys() & {*HUB_NAMES}:
            if source[name] and kind_of(source[name]):
                source[name] = str(Path(source[name]).resolve())
        _finish(run, _scored(run, evaluated), False, source)


def checkpoint_of(run):
    """Return the folder of the checkpoint that the training of a run goes on from, or `None`."""
    named = run.training_args.resume_from_checkpoint
    # Ask the first process: another machine may not see its newest files yet.
    own = gather(last_checkpoint(run.output_dir))[0]
    if not named or not own or resumes_here(run):
        return named or own
    # Another folder's counts only until the run has come further by itself.
    return own if step_of(own) >= (step_of(named) or 0) else named


def train_and_save(run, trainer, checkpoint, parameters):
    """Train, and write down the model and what the training came to.

    Args:
        run: `Run`.
        trainer: `CompressingTrainer`.
        checkpoint: from `checkpoint_of`.
        parameters: how many the model has.
    """
    from qa.compression.sparsity import save_sparsity, sparsity_report

    trained = trainer.train(checkpoint)
    if is_first_process():
        trainer.save_model(run.output_dir)
    wait_for_all()
    metrics = {**trained.metrics, "train_samples": len(run.examples["train"])}
    if "pruning" in run.settings:
        sparsity = sparsity_report(trainer.model, parameters)
        save_sparsity(sparsity, run.output_dir)
        metrics |= sparsity
    save_results(metrics, run.output_dir, "train")
    show_results("train metrics", metrics)


def read_training_log(run):
    """Read the log entries that a training left, and the sparsity among its metrics; in the first process alone."""
    if not is_first_process():
        return [], {}
    names = ("trainer_state.json", "train_results.json")
    state, metrics = (read_json(Path(run.output_dir) / name) for name in names)
    return state["log_history"], {name: value for name, value in metrics.items() if name.startswith("sparsity")}


def conclude(run, loaded, evaluated, steps, kind="compressed", history=(), sparsity=None):
    """Say what came of a run: evaluate the model that was loaded again, report, write the card, send it to the hub.

    Args:
        run: `Run`.
        loaded: what lies in the output folder, callable as in `passes.forward_passes`.
        evaluated: from `evaluation.prepare_evaluation`.
        steps: dictionary from what was done, a line of Markdown, to the settings of it.
        kind: of the model, as in `measure.measure`, or `encoder` if it answers nothing yet.
        history: log entries of the training (`TrainerState.log_history`).
        sparsity: of a pruned model, from `sparsity.sparsity_report`.
    """
    from qa.results.card import write_card
    from qa.results.evaluation import evaluate_and_save

    answers = evaluate_and_save(run, loaded, evaluated)
    leave_others()
    if not is_first_process():
        return
    original = None
    if run.optimization_args.report:
        original = report_run(run, evaluated["eval"], answers["eval"], kind, history, sparsity)
    name = run.hub and run.hub.repo_id
    scored = _scored(run, evaluated)
    # The card names the questions that were scored, maybe by an earlier run.
    asked = SimpleNamespace(**{**vars(run.data_args), **scored})
    write_card(run.output_dir, asked, steps, name, original, kind)
    if "tensorboard" in run.training_args.report_to:
        log_saved_model(run.output_dir, run.training_args.logging_dir, history[-1]["step"])
    _finish(run, scored, run.optimization_args.verify_loading or run.earlier.get("verified", False))
    if run.hub:
        push(run.hub, run.output_dir)
