"""What the hub answers when it does not give what was asked for, in words that say what to do.

Belongs here: telling those answers from the errors that the libraries wrap them in.
Does not belong here: loading (`qa/models/`, `qa/questions/`) and sending (`qa/results/hub.py`).
"""


def why_not_given(error, hint):
    """Say why something that has a name on the hub could not be loaded from there.

    Args:
        error: what transformers or datasets have raised.
        hint: what to do without a hub.

    Returns:
        `(reason, hint)`, two texts, or `None` if the hub is not the reason.
    """
    import requests
    from huggingface_hub import constants, errors

    hub, chain = constants.ENDPOINT, []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or error.__context__

    def met(kind, text=""):
        return any(isinstance(each, kind) and text in str(each) for each in chain)

    if constants.HF_HUB_OFFLINE and met(OSError):
        return "it is not in the cache, and the hub cannot be reached (offline)", hint
    if met(errors.LocalTokenNotFoundError):
        return "--use_auth_token takes a stored token, and there is none", "run huggingface-cli login first"
    # datasets puts an error of its own in the place of the hub's.
    if met(errors.GatedRepoError) or met(Exception, "gated dataset"):
        return (
            f"its owners let in whom they know, and {hub} does not know you",
            "ask them on its page there, run huggingface-cli login, and give --use_auth_token",
        )
    if met(errors.RepositoryNotFoundError) or met(Exception, "doesn't exist on the Hub or cannot be accessed"):
        return (
            f"{hub} has nothing of that name, or nothing that you may see",
            "correct the name, give the path of a local folder, or, if it is private, run huggingface-cli login and "
            "give --use_auth_token",
        )
    if met(errors.RevisionNotFoundError):
        return f"{hub} has the name, but not that revision of it", "correct --model_revision"
    if met(requests.exceptions.ChunkedEncodingError) or met(OSError, "Consistency check failed"):
        return f"{hub} broke off in the middle of a file", "give the same command again"
    return None
