"""Files get into a folder whole: what is half written, by a kill or a full disk, leaves all as it was."""

import os

import pytest
from conftest import contents

from qa.start import writing
from qa.start.errors import SaveError


class SafetensorError(Exception):
    """As that of safetensors, which is known by its name."""


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        RuntimeError("[enforce fail at inline_container.cc:659] . unexpected pos 64 vs 0\nmore"),
        RuntimeError("Parent directory out does not exist."),
        SafetensorError("Error while serializing: IoError"),
    ],
)
def test_what_cannot_be_written_is_told_with_its_place_in_one_line(error):
    with pytest.raises(SaveError) as told, writing.saving("out/model"):
        raise error
    reason = str(error).splitlines()[0]
    expected = f"out/model cannot be written ({reason}); make room or mend the folder, and start again"
    assert str(told.value) == expected


@pytest.mark.parametrize("error", [RuntimeError("CUDA error"), ValueError("inline_container"), KeyboardInterrupt()])
def test_other_errors_stay_what_they_are(error):
    with pytest.raises(type(error)) as told, writing.saving("out"):
        raise error
    assert told.value is error


def test_a_text_is_written_whole_by_the_first_process_alone(tmp_path, monkeypatch):
    writing.write_text(tmp_path / "a.json", "früher")
    (tmp_path / ".unfinished-b.json").mkdir()
    with pytest.raises(SaveError, match=f"^{tmp_path}/b.json cannot be written"):
        writing.write_text(tmp_path / "b.json", "text")
    monkeypatch.setenv("RANK", "1")
    writing.write_text(tmp_path / "a.json", "later")
    assert (tmp_path / "a.json").read_bytes() == "früher".encode()
    assert {path.name for path in tmp_path.iterdir()} == {"a.json", ".unfinished-b.json"}


@pytest.mark.parametrize("name", ["checkpoint-3", None])
def test_a_folder_appears_when_all_of_it_is_written(name, tmp_path):
    place = tmp_path / name if name else tmp_path
    place.mkdir(exist_ok=True)
    (place / "config.json").write_text("before")
    (place / "older.json").write_text("before")
    before = contents(place)
    (tmp_path / f".unfinished-{name}").mkdir()
    (tmp_path / f".unfinished-{name}" / "half.json").write_text("of a run that was killed")
    with writing.written_beside(tmp_path, name) as folder:
        (folder / "config.json").write_text("after")
        (folder / "pytorch_model.bin").write_text("after")
        assert contents(place).items() >= before.items()
    after = dict.fromkeys(["config.json", "pytorch_model.bin"], "after")
    # A folder of that name is another one now; files of the output folder itself are put beside the others.
    assert contents(place) == (after if name else {**before, **after})
    with writing.written_beside(tmp_path, "checkpoint-9") as folder:
        (folder / "config.json").write_text("first")
    assert contents(tmp_path / "checkpoint-9") == {"config.json": "first"}
    assert not list(tmp_path.glob(".unfinished*"))


@pytest.mark.parametrize("name", ["checkpoint-3", None])
def test_what_is_not_written_to_its_end_leaves_all_as_it_was(name, tmp_path):
    (tmp_path / "config.json").write_text("before")
    with (
        pytest.raises(SaveError, match=f"^{tmp_path / name if name else tmp_path} cannot be written .*No space"),
        writing.written_beside(tmp_path, name) as folder,
    ):
        (folder / "config.json").write_text("after")
        raise OSError(28, os.strerror(28))
    assert contents(tmp_path) == {"config.json": "before"}
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.parametrize("weights", ["pytorch_model.bin", "model.safetensors", "openvino_model.xml"])
def test_weights_get_their_place_last(weights, tmp_path):
    """Without them there is no model: a kill before them leaves none that its configuration does not fit."""
    (tmp_path / "tokenizer.json" / "in the way").mkdir(parents=True)
    with pytest.raises(SaveError, match="Is a directory"), writing.written_beside(tmp_path) as folder:
        for name in (weights, "config.json", "tokenizer.json", "vocab.txt"):
            (folder / name).write_text("after")
    assert not (tmp_path / weights).exists()
    assert not list(tmp_path.glob(".unfinished*"))
