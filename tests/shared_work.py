"""What the processes of `test_processes.py` do together: teacher logits and predictions for a few features.

    torchrun --nproc_per_node 3 tests/shared_work.py FOLDER

Each process leaves `FOLDER/WHERE/RANK.npz` with the logits that it has got and the number of features that its teacher
has seen, and does so for three kinds of machines (`WHERE`): `own`, each process on a machine with a cache of its own,
`mounted`, each on a machine of its own but with one cache, and `one`, all on one machine. Caches are taken up as they
are found: `FOLDER/own/cache-RANK`, `FOLDER/mounted/cache`, `FOLDER/one/cache`.
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch.distributed as dist
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

from qa.compression.distillation import add_teacher_logits
from qa.models.passes import Batches, predict_logits
from qa.questions.examples import read_examples
from qa.questions.features import dataset_of, prepare_features
from qa.start.arguments import DataTrainingArguments
from qa.start.distributed import leave_others

SAMPLE = Path(__file__).resolve().parent.parent / "sample"
BATCH_SIZE = 4


class Teacher:
    """The sample teacher, which counts the features that it is given."""

    def __init__(self):
        self.model = AutoModelForQuestionAnswering.from_pretrained(SAMPLE / "distilbert-qa-teacher").eval()
        self.config = self.model.config
        self.seen = 0

    def __call__(self, **inputs):
        self.seen += len(inputs["input_ids"])
        return self.model(**inputs)

    def state_dict(self):
        return self.model.state_dict()


def work(cache, folder):
    """Return the logits, in both ways, and how many features were computed here.

    Args:
        cache: folder for the teacher's logits.
        folder: for the features.
    """
    tokenizer = AutoTokenizer.from_pretrained(SAMPLE / "distilbert-qa")
    examples = dataset_of(read_examples(str(SAMPLE / "train.json"), "train", 20))
    features = prepare_features(examples, tokenizer, DataTrainingArguments(max_seq_length=128, doc_stride=32), folder)
    teacher = Teacher()
    stored = add_teacher_logits(features, teacher, tokenizer, BATCH_SIZE, str(cache))["teacher_logits"]
    seen = teacher.seen
    start, end = predict_logits(teacher, Batches(features, tokenizer, BATCH_SIZE))
    values = np.concatenate([np.concatenate(row) for row in stored])
    return {"stored": values, "start": start, "end": end, "seen": seen, "count": len(features)}


if __name__ == "__main__":
    dist.init_process_group("gloo")
    rank, local_rank = os.environ["RANK"], os.environ["LOCAL_RANK"]
    places = (("own", f"cache-{rank}", "0"), ("mounted", "cache", "0"), ("one", "cache", local_rank))
    for where, cache, os.environ["LOCAL_RANK"] in places:
        folder = Path(sys.argv[1]) / where
        np.savez(folder / f"{rank}.npz", **work(folder / cache, str(folder / f"features-{rank}")))
    # Threads of gloo that still run at the interpreter's end may abort the process.
    leave_others()
