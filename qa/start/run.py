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
    """What was asked for, and what was read for it."""

    model_args: object  # these four as parsed
    data_args: object
    training_args: object
    optimization_args: object
    # From `quantization`, `slimming`, `pruning` and `distillation`, if applied, to what files and flags come to.
    settings: dict = field(default_factory=dict)
    made_from: dict = field(default_factory=dict)  # what the outcome depends on, from `identity.made_from`
    earlier: dict = field(default_factory=dict)  # what `run.json` said if the folder held this very run, finished
    examples: dict = field(default_factory=dict)  # from split to list of examples
    config: object = None  # these two of the model that the run starts from
    tokenizer: object = None
    teacher_config: object = None  # these two the teacher's own, if there is one
    teacher_tokenizer: object = None
    hub: object = None  # `hub.Hub` to send the model to, or `None`

    @property
    def arguments(self):
        """All arguments of the run, by name."""
        groups = (self.model_args, self.data_args, self.training_args, self.optimization_args)
        return {name: value for group in groups for name, value in vars(group).items()}

    @property
    def output_dir(self):
        """The output folder, as it was named."""
        return self.training_args.output_dir
