"""One run, from its arguments on: what the rooms hand to each other.

Belongs here: what is known of a run before a model is loaded, under one name.
Does not belong here: reading and checking any of it.
"""

from dataclasses import dataclass, field

# Arguments that answers depend on, and whether windows were padded, which `run.json` keeps of a finished run.
ANSWERING = (
    *("max_seq_length", "doc_stride", "pad_to_max_length", "version_2_with_negative"),
    *("n_best_size", "max_answer_length", "null_score_diff_threshold", "per_device_eval_batch_size"),
    "never_pad",
)
# Those that name a model which a run evaluated, and did not save.
ORIGINAL = ("model_name_or_path", "config_name", "tokenizer_name", "model_revision")


@dataclass
class Run:
    """What was asked for, and what was read for it.

    Attributes:
        model_args, data_args, training_args, optimization_args: as parsed.
        settings: dictionary from `quantization`, `slimming`, `pruning` and `distillation`, as far as they are
            applied, to what configuration files and flags come to.
        made_from: what the outcome depends on, from `identity.made_from`.
        earlier: what `run.json` said if the output folder held this very run, finished; else empty.
        examples: dictionary from split to list of examples.
        config, tokenizer: of the model that the run starts from.
        teacher_config, teacher_tokenizer: the teacher's own, if there is one.
        hub: `hub.Hub` to send the model to, or `None`.
    """

    model_args: object
    data_args: object
    training_args: object
    optimization_args: object
    settings: dict = field(default_factory=dict)
    made_from: dict = field(default_factory=dict)
    earlier: dict = field(default_factory=dict)
    examples: dict = field(default_factory=dict)
    config: object = None
    tokenizer: object = None
    teacher_config: object = None
    teacher_tokenizer: object = None
    hub: object = None

    @property
    def output_dir(self):
        """The output folder, as it was named."""
        return self.training_args.output_dir
