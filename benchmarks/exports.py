"""Time a pass of exported models, one beside the other.

    python benchmarks/exports.py out/qat-onnx out/onnx out/qat-openvino out/openvino

Prints milliseconds of processor time with one thread, the least of several passes in turn, for 8 windows of 384 tokens
and for one of 170. Processor time, because other processes on the machine do not lengthen it.
"""

import os
import sys
import time
from pathlib import Path

import numpy as np

os.environ["OMP_NUM_THREADS"] = "1"  # what the engines are given, too
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from qa.models.export import load_exported

ROUNDS = 5
SHAPES = ((8, 384), (1, 170))


def inputs_of(shape):
    ids = np.random.default_rng(0).integers(1000, 1900, shape)
    segments = np.broadcast_to(np.arange(shape[1]) > 20, shape).astype(np.int64)
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": segments}


def main():
    models = {folder: load_exported(folder) for folder in sys.argv[1:]}
    for shape in SHAPES:
        inputs, took = inputs_of(shape), {folder: [] for folder in models}
        for _ in range(ROUNDS + 1):  # the first prepares
            for folder, model in models.items():
                begin = time.process_time()
                model(**inputs)
                took[folder].append(time.process_time() - begin)
        for folder, seconds in took.items():
            print(f"{shape[0]} x {shape[1]}  {1000 * min(seconds[1:]):7.1f} ms  {folder}")


if __name__ == "__main__":
    main()
