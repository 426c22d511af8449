"""A finished run's model on the hub.

Belongs here: seeing before a run that the hub will take its model, and sending it once, at the end of the run.
Does not belong here: the model card (`card.py`).
"""

from pathlib import Path
from typing import NamedTuple

from qa.start.errors import SaveError, UsageError
from qa.start.output import RUN_FILE, WRITTEN

# The settings and the pickled arguments of a run hold paths of the machine that it ran on.
KEPT_BACK = (RUN_FILE, "training_args.bin", "trainer_state.json", "checkpoint-*", ".unfinished*")
SENT = [pattern for pattern in WRITTEN if pattern not in KEPT_BACK]


class Hub(NamedTuple):
    """Where a model is sent: `huggingface_hub.HfApi`, the repository's full name, and whether it is private."""

    api: object
    repo_id: str
    private: bool


def hub_of(training_args):
    """Find out whether the model can be sent to the hub, before there is one.

    `push_to_hub` and `hub_token` are taken out of the arguments: with them `INCTrainer` would make the repository
    before the training and send every checkpoint, and the token would be pickled into `training_args.bin`.

    Args:
        training_args: `TrainingArguments`.

    Returns:
        `Hub`, or `None` without --push_to_hub.

    Raises:
        UsageError: the hub cannot be reached, or knows no user by the token, or takes no repository of that name.
    """
    if not training_args.push_to_hub:
        return None
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    name = training_args.hub_model_id or Path(training_args.output_dir).resolve().name
    if constants.HF_HUB_OFFLINE:
        raise UsageError(
            f"--push_to_hub: {constants.ENDPOINT} cannot be reached, or HF_HUB_OFFLINE is set; send the folder later"
        )
    api = HfApi(token=training_args.hub_token)
    try:
        validate_repo_id(name)
        user = api.whoami()["name"]
    except HFValidationError as error:
        raise UsageError(f"--hub_model_id {name} is no name of a repository: {error}") from error
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(
            f"--push_to_hub: {constants.ENDPOINT} does not let you in: {str(error)[:300]}; give --hub_token, or "
            "store a token with `hf auth login`"
        ) from error
    private = bool(training_args.hub_private_repo)
    training_args.push_to_hub, training_args.hub_token = False, None
    return Hub(api, name if "/" in name else f"{user}/{name}", private)


def push(hub, output_dir):
    """Send model, tokenizer, card and results to the hub in one commit and print where they are.

    Args:
        hub: from `hub_of`.
        output_dir: folder of the finished run.

    Raises:
        SaveError: the hub does not take them.
    """
    try:
        repo = hub.api.create_repo(hub.repo_id, private=hub.private, exist_ok=True)
        hub.api.upload_folder(
            repo_id=repo.repo_id,
            folder_path=output_dir,
            commit_message="Add a compressed model",
            allow_patterns=SENT,
            # In a pattern "*" also stands for "/"; only what lies in the folder itself is the model.
            ignore_patterns=["*/*"],
        )
    except (OSError, ValueError) as error:
        raise SaveError(
            f"the model is in {output_dir}, but {hub.api.endpoint} did not take it as {hub.repo_id}: "
            f"{' '.join(str(error).split())[:300]}"
        ) from error
    print(f"sent to {hub.api.endpoint}/{repo.repo_id}")
