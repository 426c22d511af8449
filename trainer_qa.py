"""Training with INC's callbacks, evaluated as question answering.

Belongs here: `INCTrainer` made to answer questions, and the loss of a training step.
Does not belong here: what is around a step (`qa/training/`), and building the compression configurations
(`qa/compression/`).
"""

import inspect
import time

from qa.corrections.imports import process_as_it_was
from qa.corrections.ipex import without_ipex

with process_as_it_was(), without_ipex():
    import datasets
    import torch
    from transformers import EvalPrediction
    from transformers.trainer_utils import PredictionOutput, speed_metrics

    from qa.compression.distillation import distillation_loss, inputs_of_teacher
    from qa.compression.fake_quant import observers_at_rest
    from qa.models.engine_runs import LOGITS
    from qa.models.inputs import TEACHER_TYPES, columns_taken
    from qa.models.passes import Batches, predict_logits
    from qa.training.batches import MASKED_LOGIT, labels_of
    from qa.training.trainer import CompressingTrainer


class QuestionAnsweringINCTrainer(CompressingTrainer):
    """`INCTrainer` that evaluates and predicts through QA post-processing.

    Args:
        eval_examples: examples behind `eval_dataset`.
        evaluation_width: what features are padded to there, as `width` of `Batches`.
        post_process_function: `(examples, features, (start_logits, end_logits), stage)` -> predictions, as
            `compute_metrics` takes them; `stage`, which it may leave out, is `eval` or `predict`. Without a function
            predictions are the logits, and nothing is scored.
        intermediate: `(compare, weight)`: how hidden states are compared with the teacher's, from
            `qa.compression.intermediate.comparison`, and what that counts; `None`: not at all.
        args, kwargs: those of `CompressingTrainer`. `compute_metrics` takes what `post_process_function` returns, and
            `processing_class` is the tokenizer, which evaluation pads with.
    """

    # The last only with losses between intermediate layers.
    LOSS_PARTS = ("loss_student", "loss_distillation", "loss_intermediate")

    def __init__(
        self,
        *args,
        eval_examples=None,
        evaluation_width=None,
        post_process_function=None,
        intermediate=None,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        self.evaluation_width = evaluation_width
        self.intermediate = intermediate
        self.eval_examples = eval_examples
        self.post_process_function = post_process_function
        if self.distillation_config is not None:
            self.distillation_config.teacher_model.requires_grad_(False).eval()

    def evaluate(self, eval_dataset=None, eval_examples=None, ignore_keys=None, metric_key_prefix="eval"):
        """Answer and score the evaluation examples.

        Args:
            eval_dataset: features, a `datasets.Dataset` or any sequence of rows; those given to the constructor if
                `None`.
            eval_examples: their examples, likewise.
            ignore_keys: taken for compatibility; only start and end logits are looked at.
            metric_key_prefix: put before each metric's name.

        Returns:
            Dictionary of metrics, speed metrics included; of those alone where nothing post-processes or scores.
        """
        features = self.eval_dataset if eval_dataset is None else eval_dataset
        examples = self.eval_examples if eval_examples is None else eval_examples
        metrics = self._answer(features, examples, "eval", metric_key_prefix).metrics
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self._memory_tracker.stop_and_update_metrics(metrics)
        return metrics

    def predict(self, predict_dataset, predict_examples, ignore_keys=None, metric_key_prefix="test"):
        """Answer examples; parameters as in `evaluate`.

        Returns:
            `PredictionOutput`. Its predictions are what the post-processing made, or without one `(start_logits,
            end_logits)` as in `predict_logits`; its label ids those of the post-processing's `EvalPrediction`, or
            `(start_positions, end_positions)`, `(n,)` int64 each, or `None` where the features have none.
        """
        return self._answer(predict_dataset, predict_examples, "predict", metric_key_prefix)

    def _answer(self, features, examples, stage, prefix):
        begin = time.time()
        device = self.args.device
        if self.quantization_config is not None:
            # Converted int8 modules exist for CPUs only. While fake-quant trains, the model stays where it is.
            device = next(self.model.parameters(), torch.empty(0)).device if self.is_in_train else torch.device("cpu")
        model = self.model.to(device)
        was_training = model.training
        if not isinstance(features, datasets.Dataset):
            features = datasets.Dataset.from_list(list(features))
        taken = features.select_columns(columns_taken(model, features.column_names))
        batches = Batches(taken, self.tokenizer, self.args.eval_batch_size, self.evaluation_width)
        with observers_at_rest(model):
            predictions = predict_logits(model.eval(), batches, device)
        model.train(was_training)
        labels, metrics = labels_of(features), {}
        if self.post_process_function is not None:
            names = inspect.signature(self.post_process_function).parameters
            named = {"stage": stage} if "stage" in names else {}
            fourth = (stage,) if len(names) > 3 and not named else ()
            predictions = self.post_process_function(examples, features, predictions, *fourth, **named)
            if self.compute_metrics is not None:
                metrics = self.compute_metrics(predictions)
            if isinstance(predictions, EvalPrediction):
                predictions, labels = predictions.predictions, predictions.label_ids
        metrics = {name if name.startswith(f"{prefix}_") else f"{prefix}_{name}": metrics[name] for name in metrics}
        count = len(features if examples is None else examples)
        steps = len(list(batches.by_length()))
        metrics.update(speed_metrics(prefix, begin, num_samples=count, num_steps=steps))
        return PredictionOutput(predictions=predictions, label_ids=labels, metrics=metrics)

    def _loss_of(self, model, inputs):
        """Mix the loss on the labels with the distillation loss, by the weights of INC's criterion.

        Padding takes no part in the distillation loss, so that neither the batch's width nor, in fp32, whether the
        teacher's logits come from a live teacher or from `teacher_logits` makes a difference.
        """
        teacher_logits = inputs.pop("teacher_logits", None)
        states = {"output_hidden_states": True} if self.intermediate else {}
        outputs = model(**{name: values for name, values in inputs.items() if name != TEACHER_TYPES}, **states)
        loss, parts = outputs["loss"], []
        if self.distillation_config is not None:
            if teacher_logits is None:
                teacher = self.distillation_config.teacher_model.to(loss.device)
                with torch.no_grad():
                    taught = teacher(**inputs_of_teacher(teacher, inputs), **states)
                teacher_logits = torch.stack((taught["start_logits"], taught["end_logits"]), dim=1).float()
            padding = inputs["attention_mask"] == 0
            tokens = inputs["attention_mask"].sum(dim=1)
            criterion = self.distillation_callback.criterion
            weights = criterion.loss_weights
            distilled = sum(
                distillation_loss(
                    outputs[name].float().masked_fill(padding, MASKED_LOGIT),
                    teacher_logits[:, side].masked_fill(padding, MASKED_LOGIT),
                    tokens,
                    criterion.loss_types[1],
                    criterion.temperature,
                )
                for side, name in enumerate(LOGITS)
            )
            parts = [loss, distilled]
            loss = (weights[0] * loss + weights[1] * distilled) / sum(weights)
            if self.intermediate:
                compare, share = self.intermediate
                hidden = (outputs["hidden_states"], taught["hidden_states"])
                parts.append(compare(*hidden, inputs["attention_mask"]))
                loss = loss + share * parts[-1]
        return loss, parts, outputs
