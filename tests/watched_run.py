"""`run_qa.py` with an eye on each of its processes, for tests: what they hold in the end, and a failure on demand.

    torchrun --nproc_per_node 2 tests/watched_run.py FLAGS OF run_qa.py

Environment variables say what: `SEEN` names a file for what each process has at the end of the training (a list in
order of rank), and `FAIL_IN` and `FAIL_AT` the rank and the optimizer step (from 1) of an error, or of SIGKILL with
`FAIL_BY=kill`.
"""

import hashlib
import json
import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import run_qa


def tensors_of(value, name=""):
    """Yield name and tensor for all tensors in a state, packed int8 weights included."""
    if isinstance(value, (dict, list, tuple)):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from tensors_of(part, f"{name}.{key}")
    elif hasattr(value, "is_quantized"):
        yield name, value.int_repr() if value.is_quantized else value


def digest(value):
    """Return a text that is the same for the same names and bits."""
    total = hashlib.sha256()
    for name, tensor in tensors_of(value):
        total.update(name.encode())
        total.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return total.hexdigest()


def watch():
    """Wrap the trainer's methods; only here, for the script must be the first to import what it imports."""
    import trainer_qa
    from qa.start.distributed import gather
    from qa.start.process import is_first_process

    trainer_class = trainer_qa.QuestionAnsweringINCTrainer
    train, as_part_of_step = trainer_class.train, trainer_class._as_part_of_step
    learned = []

    def watched_train(self, *args, **kwargs):
        result = train(self, *args, **kwargs)
        masks = [pruner.masks for pruner in self._pruners]
        seen = {
            "model": digest(self.model.state_dict()),
            "masks": digest(masks),
            "zeros": sum(int((mask == 0).sum()) for _, mask in tensors_of(masks)),
            "steps": self.state.global_step,
            "learned": learned,
        }
        everything = gather(seen)
        if is_first_process() and "SEEN" in os.environ:
            Path(os.environ["SEEN"]).write_text(json.dumps(everything), encoding="utf-8")
        return result

    def watched_step(self, inputs):
        if (os.environ.get("FAIL_IN"), os.environ.get("FAIL_AT")) == (
            os.environ["RANK"],
            str(self.state.global_step + 1),
        ):
            if os.environ.get("FAIL_BY") == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise ValueError("this step is too much")
        inputs, weight = as_part_of_step(self, inputs)
        if weight:
            rows = zip(inputs["input_ids"], inputs["attention_mask"].bool(), strict=True)
            learned.extend(str(row[tokens].tolist()) for row, tokens in rows)
        return inputs, weight

    trainer_class.train, trainer_class._as_part_of_step = watched_train, watched_step


def main():
    parse_arguments = run_qa.parse_arguments

    def parse_and_watch(*args):
        parsed = parse_arguments(*args)
        watch()
        return parsed

    run_qa.parse_arguments = parse_and_watch
    run_qa.main()


if __name__ == "__main__":
    main()
