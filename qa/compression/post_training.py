"""Post-training quantization with Intel Neural Compressor.

Belongs here: everything between an fp32 model in memory and an int8 model in a folder.
Does not belong here: loading that folder again, and running models over questions (`qa/models/`).
"""

import os
import tempfile

import torch
from neural_compressor import PostTrainingQuantConfig, set_workspace
from neural_compressor.config import AccuracyCriterion, TuningCriterion
from optimum.intel import INCQuantizer
from torch.ao.quantization import MinMaxObserver
from tqdm.auto import tqdm

from qa.compression.ranges import narrowed_ranges
from qa.corrections.inc import kept_exceptions
from qa.corrections.torch_dynamic import eight_bits
from qa.corrections.torch_tracer import trace_without_stacks
from qa.models.compressed import drop_stale_weights
from qa.start.cpu import processor
from qa.start.errors import CriterionError, UsageError
from qa.start.writing import written_beside

# Largest difference between the logits in memory and after loading that counts as the same model.
VERIFY_TOLERANCE = {
    # The same packed weights and the same kernels: not a bit may differ.
    "default": 0.0,
    # Two TorchScript graphs are fused and their kernels chosen separately. Measured 0; a choice that sums in another
    # order moves fp32 logits of about 10 by their rounding error, 1e-5. Lost scales would move them by 0.1 and more.
    "ipex": 1e-4,
    # The same in bf16, with 8 bits of mantissa: half a step at 10 is 0.03. Measured 0 here as well.
    "bf16": 5e-2,
}


def quantization_config(settings, approach, use_ipex=False, bf16=False):
    """Build INC's configuration.

    Args:
        settings: from `settings.quantization_settings`.
        approach: `dynamic` or `static`.
        use_ipex: quantize for the IPEX backend.
        bf16: let what stays out of int8 run in bf16 (IPEX only).

    Returns:
        A fresh `PostTrainingQuantConfig`.
    """
    settings = {key: value for key, value in settings.items() if key != "minmax_ranges"}
    for key, kind in (("accuracy_criterion", AccuracyCriterion), ("tuning_criterion", TuningCriterion)):
        if key in settings:
            settings[key] = kind(**settings[key])
    return PostTrainingQuantConfig(
        approach=approach,
        backend="ipex" if use_ipex else "default",
        # INC mixes bf16 in where the processor has it, unless told not to; then results depend on the machine.
        excluded_precisions=[] if bf16 else ["bf16"],
        **settings,
    )


def quantize(model, config, output_dir, calibration=None, score=None, minmax_ranges="whole"):
    """Quantize a model and save it.

    Args:
        model: the fp32 model; it may be used up.
        config: `PostTrainingQuantConfig`.
        output_dir: existing folder for `config.json`, `pytorch_model.bin` and `inc_config.json`.
        calibration: `Batches` of the calibration features (static approach only).
        score: callable from a model to its F1. INC then quantizes again and again, leaving out more operators each
            time, until the accuracy criterion of `config` is met.
        minmax_ranges: what INC's algorithm `minmax` takes for the ranges of activations, `whole` or `narrowed`.

    Returns:
        The quantized model in evaluation mode.

    Raises:
        CriterionError: no trial met the criterion; nothing is saved.
        UsageError: INC cannot quantize the model; the message holds its reason.
        Exception: whatever `score` raises in a trial.
    """
    raised = []

    def scored(trial):
        try:
            return score(trial)
        except Exception as error:
            raised.append(error)
            raise

    quantizer = INCQuantizer.from_pretrained(
        model,
        eval_fn=score and scored,
        calibration_fn=_calibration(calibration, minmax_ranges) if calibration else None,
        task="question-answering",
    )
    if calibration:
        config.calibration_sampling_size = len(calibration.lengths)
        config.example_inputs = calibration.inputs(next(calibration.by_length()))
    if not config.excluded_precisions and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        print("note: this processor has no bf16 instructions; bf16 is emulated here, right but not faster")
    trace_without_stacks()
    with tempfile.TemporaryDirectory() as workspace:
        set_workspace(workspace)
        os.environ["FORCE_BF16"] = "0" if config.excluded_precisions else "1"
        with kept_exceptions() as kept, eight_bits("vnni" in processor()[1]):
            try:
                with written_beside(output_dir) as folder:
                    quantizer.quantize(config, save_directory=folder)
            except RuntimeError as error:
                # INC returned no model, and optimum-intel does not know why.
                if raised:
                    raise raised[-1] from error
                if kept:
                    raise kept[-1] if isinstance(kept[-1], UsageError) else _reason(kept[-1]) from kept[-1]
                raise (_reason(error) if score is None else CriterionError) from error
    drop_stale_weights(output_dir)
    return quantizer._quantized_model.eval()


def _reason(error):
    """Say in a line what INC failed on; between its first words and its last ones there may be whole tensors."""
    lines = [line.split("tensor(")[0].strip() for line in str(error).splitlines() if line.strip()] or ["no reason"]
    first = " ... ".join(dict.fromkeys((lines[0][:200], lines[-1][:200])))
    return UsageError(
        f"--apply_quantization: INC cannot quantize this model: {type(error).__name__}: {first}; --log_level info "
        "shows all that it says"
    )


def _calibration(batches, minmax_ranges):
    def run(model):
        """Show the batches to INC's observers, on PyTorch's own backend or on that of IPEX."""
        narrow = minmax_ranges == "narrowed"
        observers = [module for module in model.modules() if narrow and type(module) is MinMaxObserver]
        shown = list(batches.by_length())
        with narrowed_ranges(observers, len(shown)), torch.inference_mode():
            for rows in tqdm(shown, desc="Calibrating", unit="batch", delay=2):
                model(**batches.inputs(rows))

    return run
