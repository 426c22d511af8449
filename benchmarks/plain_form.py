"""The plain form of whole stages, to be measured against: what the example scripts that users know do.

Heavy imports first; every feature of both files made by a loop and padded to max_seq_length; batches in file order, or
drawn without regard to length, as lists of Python numbers; logits kept as lists; loops over n-best pairs. What INC is
told is the same as in the project's scripts, so that only the way there differs.

As a script it is a whole command: `python benchmarks/plain_form.py --model_name_or_path ... --output_dir ...`
quantizes statically, verifies, and evaluates.
"""

import argparse
import json
import sys
from pathlib import Path

import evaluate  # noqa: F401  the known scripts take their metric from it
import torch
from neural_compressor import PostTrainingQuantConfig
from optimum.intel import INCModelForQuestionAnswering, INCQuantizer, INCTrainer
from torch.utils.data import DataLoader
from transformers import (
    AutoModelForQuestionAnswering,
    AutoTokenizer,
    TrainingArguments,
    default_data_collator,
    set_seed,
)

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from textbook import answers_of, as_json, features_of, plain_squad  # noqa: E402

from qa.compression import settings as from_yaml  # noqa: E402
from qa.compression.distillation import distillation_config  # noqa: E402
from qa.compression.fake_quant import training_quantization_config  # noqa: E402
from qa.compression.pruning import pruning_config  # noqa: E402
from qa.questions.examples import read_examples  # noqa: E402
from qa.questions.features import dataset_of, draw_features  # noqa: E402
from qa.start.arguments import DataTrainingArguments  # noqa: E402


def prepare(examples, tokenizer, max_seq_length=384, doc_stride=128):
    """Return a `datasets.Dataset` of padded features."""

    def prepare_batch(batch):
        rows = [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]
        features = features_of(rows, tokenizer, max_seq_length, doc_stride)
        return {name: [feature[name] for feature in features] for name in features[0]}

    return examples.map(prepare_batch, batched=True, remove_columns=examples.column_names)


def predict(model, features, names, batch_size=8):
    """Return start and end logits as lists of lists, in the order of the features."""
    starts, ends = [], []
    loader = DataLoader(features.select_columns(names), batch_size=batch_size, collate_fn=default_data_collator)
    for batch in loader:
        with torch.no_grad():
            outputs = model(**batch)
        starts.extend(outputs["start_logits"].tolist())
        ends.extend(outputs["end_logits"].tolist())
    return starts, ends


def answer_and_score(examples, features, logits, output_dir, n_best_size=20):
    """Choose answers, write them down and score them; return exact match and F1."""
    texts, nbest, _ = answers_of(examples, features, logits, version_2=False, n_best_size=n_best_size)
    for name, content in (("predictions", texts), ("nbest_predictions", nbest)):
        Path(output_dir, f"eval_{name}.json").write_text(as_json(content), encoding="utf-8")
    return plain_squad(texts, {example["id"]: example["answers"]["text"] for example in examples})


def trainer_of(recipe, model, tokenizer, features, teacher=None, **arguments):
    """Return an `INCTrainer` ready to train.

    Args:
        recipe: `quantization`, `pruning` or `distillation`.
        model: fp32 model.
        tokenizer: its tokenizer.
        features: from `prepare`.
        teacher: fp32 model, for distillation.
        arguments: of `TrainingArguments`.
    """
    configs = {}
    if recipe == "quantization":
        settings = from_yaml.quantization_settings("qat")
        configs["quantization_config"] = training_quantization_config(settings, model)
    elif recipe == "pruning":
        settings = from_yaml.pruning_settings()
        settings |= {"start_step": 0, "end_step": arguments["max_steps"] - 1}
        configs["pruning_config"] = pruning_config(settings)
    else:
        settings = from_yaml.distillation_settings()
        configs["distillation_config"] = distillation_config(settings, teacher.eval())
    return INCTrainer(
        model=model,
        args=TrainingArguments(report_to="none", save_strategy="no", use_cpu=True, **arguments),
        data_collator=default_data_collator,
        train_dataset=features,
        processing_class=tokenizer,
        task="question-answering",
        **configs,
    )


def main():
    parser = argparse.ArgumentParser()
    for name in ("model_name_or_path", "train_file", "validation_file", "output_dir"):
        parser.add_argument(f"--{name}", required=True)
    args = parser.parse_args()
    set_seed(42)
    tokenizer = AutoTokenizer.from_pretrained(args.model_name_or_path)
    model = AutoModelForQuestionAnswering.from_pretrained(args.model_name_or_path, torch_dtype=torch.float32)
    questions = dataset_of(read_examples(args.train_file, "train"))
    train = prepare(questions, tokenizer)
    validation = dataset_of(read_examples(args.validation_file, "validation"))
    features = prepare(validation, tokenizer)
    names = [name for name in tokenizer.model_input_names if name in features.column_names]

    # The windows that the project's script calibrates on: others would decide the F1, not the form.
    drawn = draw_features(questions, tokenizer, DataTrainingArguments(), 50, 42)
    ids = set(drawn["example_id"])
    rows = [row for row, identifier in enumerate(train["example_id"]) if identifier in ids]
    windows = drawn["input_ids"]
    calibration = [row for row in rows if train[row]["input_ids"][: sum(train[row]["attention_mask"])] in windows]
    settings = from_yaml.quantization_settings("static")
    # INC itself narrows no ranges, and with whole ones the second feed-forward layers have to stay in fp32.
    del settings["minmax_ranges"]
    fp32 = {side: {"dtype": ["fp32"]} for side in ("weight", "activation")}
    settings["op_name_dict"] = {**settings.get("op_name_dict", {}), r".*(\d\.output\.dense|ffn\.lin2)": fp32}
    quantizer = INCQuantizer.from_pretrained(model)
    quantizer.quantize(
        quantization_config=PostTrainingQuantConfig(approach="static", excluded_precisions=["bf16"], **settings),
        save_directory=args.output_dir,
        calibration_dataset=train.select(calibration).select_columns(names),
    )
    tokenizer.save_pretrained(args.output_dir)
    loaded = INCModelForQuestionAnswering.from_pretrained(args.output_dir)
    batch = default_data_collator(list(features.select_columns(names).select(range(8))))
    with torch.no_grad():
        outputs, others = quantizer._quantized_model(**batch), loaded(**batch)
    assert torch.allclose(outputs["start_logits"], others["start_logits"], atol=1e-4)
    metrics = answer_and_score(validation, features, predict(loaded, features, names), args.output_dir)
    Path(args.output_dir, "eval_results.json").write_text(json.dumps(metrics), encoding="utf-8")


if __name__ == "__main__":
    main()
