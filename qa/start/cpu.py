"""The processor that a run finds: its name, and the instruction sets that int8 and bf16 depend on.

Belongs here: what the system says about it, without importing anything.
Does not belong here: how many of its cores are used (`process.py`).
"""

import functools
import re
from pathlib import Path

# The flags by which Linux tells that a processor has an instruction set; one of them is enough.
_FLAGS = {
    "avx2": {"avx2"},
    "avx512": {"avx512f"},
    "vnni": {"avx512_vnni", "avx_vnni"},
    "bf16": {"avx512_bf16", "amx_bf16"},
    "amx": {"amx_tile"},
}


def processor(file=Path("/proc/cpuinfo")):
    """Return the name of the processor and the list of those instruction sets (`avx2` to `amx`) that it has."""
    known = dict(re.findall(r"^(model name|flags)\s*:\s*(.+)$", file.read_text(encoding="utf-8"), re.MULTILINE))
    found = set(known.get("flags", "").split())
    return known.get("model name", "unknown"), [name for name, flags in _FLAGS.items() if flags & found]


@functools.cache
def note_saturation():
    """Say so, once, if an int8 model may answer otherwise here than where it was made.

    Without VNNI the products of 8-bit activations and 8-bit weights are summed in pairs in 16 bits, which clips them.
    """
    if "vnni" not in processor()[1]:
        print(
            "note: this processor has no VNNI instructions; an int8 model is slower here, and large sums in it may be "
            "clipped: compare its F1 with that on its card"
        )
