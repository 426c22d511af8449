"""The processor: what Linux says about it, and the line for one on which int8 sums may be clipped."""

import pytest

from qa.start import cpu as module
from qa.start.cpu import note_saturation, processor


@pytest.mark.parametrize(
    ("flags", "found"),
    [
        ("fpu avx avx2", ["avx2"]),
        ("avx2 avx_vnni", ["avx2", "vnni"]),
        ("avx2 avx512f avx512bw avx512_vnni avx512_bf16", ["avx2", "avx512", "vnni", "bf16"]),
        ("avx2 avx512f avx512_vnni amx_bf16 amx_tile amx_int8", ["avx2", "avx512", "vnni", "bf16", "amx"]),
        ("fpu sse2", []),
    ],
)
def test_instruction_sets_are_those_of_the_flags(flags, found, tmp_path):
    file = tmp_path / "cpuinfo"
    file.write_text(f"processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\nflags\t\t: {flags}\n\nprocessor\t: 1\n")
    assert processor(file) == ("Some CPU @ 2 GHz", found)


def test_a_machine_that_says_nothing_has_no_name(tmp_path):
    (tmp_path / "cpuinfo").write_text("Features : asimd\n")
    assert processor(tmp_path / "cpuinfo") == ("unknown", [])


@pytest.mark.parametrize(("found", "lines"), [(["avx2"], 1), (["avx2", "vnni"], 0)])
def test_where_sums_may_be_clipped_one_line_says_so_once(found, lines, monkeypatch, capsys):
    monkeypatch.setattr(module, "processor", lambda: ("CPU", found))
    note_saturation.cache_clear()
    note_saturation()
    note_saturation()
    note_saturation.cache_clear()
    printed = capsys.readouterr().out
    assert printed.count("\n") == lines
    assert printed.startswith("note: this processor has no VNNI instructions; ") == bool(lines)
