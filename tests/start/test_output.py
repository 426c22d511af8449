"""Whose an output folder is: what a run may replace, what it refuses, and what it gives back."""

import errno
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, contents

from qa.start import output
from qa.start.errors import SaveError, UsageError

MADE_FROM = {
    "settings": {"seed": 42},
    "inputs": {"--train_file or --dataset_name": "ab12"},
    "versions": {"torch": "2"},
}
OTHER = {**MADE_FROM, "inputs": {"--train_file or --dataset_name": "cd34"}}


@pytest.fixture(autouse=True)
def locks_given_back():
    yield
    output.leave_folders(failed=False)


def run(folder, made_from=MADE_FROM, overwrite=False, texts=("config.json", "pytorch_model.bin", "README.md")):
    """Do what a command does with its output folder; the files say what they were made from."""
    output.check_owner(folder, made_from, overwrite)
    output.claim_output_dir(folder, made_from, overwrite)
    for name in texts:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(made_from))
    output.finish(folder, verified=True)
    output.leave_folders(failed=False)


def test_the_files_of_a_finished_run_are_listed_with_their_sizes(tmp_path):
    run(tmp_path, texts=["config.json", "runs/day/events.out.tfevents.1", "checkpoint-6/model.safetensors"])
    (tmp_path / "notes.txt").write_text("mine")
    written = json.loads((tmp_path / "run.json").read_text())
    assert (tmp_path / "run.json").read_text() == json.dumps(written, indent=2, sort_keys=True) + "\n"
    listed = written["files"]
    size = len(json.dumps(MADE_FROM))
    assert listed == {
        "config.json": size,
        "runs/day/events.out.tfevents.1": size,
        "checkpoint-6/model.safetensors": size,
    }


def test_the_same_run_again_is_told_that_it_is_finished(tmp_path):
    run(tmp_path)
    earlier = output.claim_output_dir(tmp_path, MADE_FROM, False)
    assert earlier["verified"] and set(earlier["files"]) == {"config.json", "pytorch_model.bin", "README.md"}
    # It is being written to again: a kill from here on takes nothing from it, and what is new in it is its own.
    written = {**earlier, "writing": True}
    assert (tmp_path / "run.json").read_text() == json.dumps(written, indent=2, sort_keys=True) + "\n"
    (tmp_path / "predict_predictions.json").write_text("{}")
    assert output.claim_output_dir(tmp_path, MADE_FROM, False) == written
    output.finish(tmp_path, verified=True)
    assert "predict_predictions.json" in output.read_run(tmp_path)["files"]


@pytest.mark.parametrize("name", ["config.json", "pytorch_model.bin"])
def test_a_run_without_its_model_is_not_finished(name, tmp_path):
    run(tmp_path)
    (tmp_path / "README.md").unlink()
    assert output.claim_output_dir(tmp_path, MADE_FROM, False)["verified"]
    (tmp_path / name).unlink()
    assert output.claim_output_dir(tmp_path, MADE_FROM, False) == {}


def test_what_was_killed_goes_on_though_it_was_to_overwrite(tmp_path):
    run(tmp_path, OTHER)
    before = contents(tmp_path)
    for _ in range(3):
        output.check_owner(tmp_path, MADE_FROM, overwrite=True)
        assert output.claim_output_dir(tmp_path, MADE_FROM, overwrite=True) == {}
        assert contents(tmp_path / ".replaced") == before
        (tmp_path / "checkpoint-6").mkdir(exist_ok=True)
        assert output.last_checkpoint(tmp_path)
        output.leave_folders(failed=False)
    output.finish(tmp_path, verified=True)
    assert not (tmp_path / ".replaced").exists()


def test_a_kill_while_a_run_is_set_aside_loses_nothing_of_it(tmp_path):
    run(tmp_path, OTHER)
    before = contents(tmp_path)
    (tmp_path / ".replaced").mkdir()
    (tmp_path / "config.json").rename(tmp_path / ".replaced" / "config.json")
    output.check_owner(tmp_path, MADE_FROM, overwrite=True)
    output.claim_output_dir(tmp_path, MADE_FROM, overwrite=True)
    assert contents(tmp_path / ".replaced") == before


@pytest.mark.parametrize("name", ["report.pdf", "my_results.json", "runs/other/model.safetensors", "report_mine.png"])
def test_what_a_user_puts_beside_a_run_while_it_lasts_stays(name, tmp_path):
    output.claim_output_dir(tmp_path, MADE_FROM, overwrite=False)
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("mine")
    run(tmp_path)
    run(tmp_path, OTHER, overwrite=True)
    assert (tmp_path / name).read_text() == "mine"


def test_a_run_made_from_something_else_is_named_and_refused(tmp_path):
    run(tmp_path)
    differences = "--train_file or --dataset_name ab12 (now cd34); "
    way_out = "name another folder, or give --overwrite_output_dir, which replaces what these scripts wrote"
    with pytest.raises(UsageError, match=f"{re.escape(differences + way_out)}$"):
        output.check_owner(tmp_path, OTHER, overwrite=False)


def test_a_checkpoint_in_a_folder_of_another_run_is_refused(tmp_path):
    run(tmp_path)
    output.check_owner(tmp_path, MADE_FROM, overwrite=False, resumed=True)
    with pytest.raises(UsageError, match=r"ab12 \(now cd34\); name another output folder$"):
        output.check_owner(tmp_path, OTHER, overwrite=True, resumed=True)
    (tmp_path / "run.json").unlink()
    with pytest.raises(
        UsageError, match=r"^--resume_from_checkpoint lies in .* None \(now ab12\); seed None \(now 42\)"
    ):
        output.check_owner(tmp_path, MADE_FROM, overwrite=True, resumed=True)


@pytest.mark.parametrize("text", ["", "{", "[]", '["made_from"]', '{"files": {}}', "\udcff"])
def test_a_file_called_run_json_that_is_no_runs_is_nobodys(text, tmp_path):
    (tmp_path / "run.json").write_text(text, encoding="utf-8", errors="surrogateescape")
    assert output.read_run(tmp_path) == {}
    with pytest.raises(UsageError, match=r"holds other things \(run.json\); name another folder"):
        output.check_owner(tmp_path, MADE_FROM, overwrite=False)


def test_a_folder_is_made_with_those_around_it_for_all_who_may_write(tmp_path):
    folder = tmp_path / "a" / "b"
    output.claim_output_dir(folder, MADE_FROM, False)
    umask = os.umask(0)
    os.umask(umask)
    assert (folder / ".lock").stat().st_mode & 0o777 == 0o666 & ~umask


def test_a_lock_that_somebody_removed_is_given_back_as_well(tmp_path):
    output.claim_output_dir(tmp_path, MADE_FROM, False)
    (tmp_path / ".lock").unlink()
    output.leave_folders(failed=False)
    assert contents(tmp_path).keys() == {"run.json"}
    run(tmp_path)


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SaveError, match=f"^{tmp_path}/file/out cannot be written .*Not a directory"):
        output.claim_output_dir(tmp_path / "file" / "out", MADE_FROM, False)


def test_overwriting_removes_what_the_run_wrote_and_nothing_else(tmp_path):
    run(tmp_path, texts=["config.json", "checkpoint-6/model.safetensors", "runs/day/events.out.tfevents.1"])
    own = {"notes.txt": "mine", "checkpoint-6-best/model.safetensors": "best", "runs-of-mine": "x", "my.model": "y"}
    for name, text in own.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    run(tmp_path, OTHER, overwrite=True, texts=["config.json", "checkpoint-9/model.safetensors"])
    found = contents(tmp_path)
    assert found.pop("run.json")
    assert found == own | dict.fromkeys(["config.json", "checkpoint-9/model.safetensors"], json.dumps(OTHER))


@pytest.mark.parametrize(
    "name", ["README.md", "config.json", "runs/day/events.out.tfevents.1", "checkpoint-500/model.safetensors"]
)
def test_what_no_run_wrote_is_never_replaced(name, tmp_path):
    place = tmp_path / name
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text("mine")
    before = contents(tmp_path)
    with pytest.raises(UsageError, match=re.escape(name)):
        run(tmp_path, overwrite=True)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(("count", "dots"), [(3, ""), (4, ", ...")])
def test_at_most_three_names_are_told(count, dots, tmp_path):
    names, own = ["a.txt", "b.txt", "c.txt", "d.txt"][:count], ["README.md", "config.json", "vocab.txt", "vocab.json"]
    for name in names:
        (tmp_path / name).write_text("mine")
    with pytest.raises(UsageError, match=rf"holds other things \(a.txt, b.txt, c.txt{dots}\); name another"):
        output.check_owner(tmp_path, MADE_FROM, overwrite=False)
    output.check_owner(tmp_path, MADE_FROM, overwrite=True)  # it would replace none of them
    for name, other in zip(names, own, strict=False):
        (tmp_path / name).rename(tmp_path / other)
    told = f": README.md, config.json, vocab.{'json' if dots else 'txt'}{dots} would be replaced, and was not"
    with pytest.raises(UsageError, match=told):
        output.check_owner(tmp_path, MADE_FROM, overwrite=True)


def test_a_file_that_was_changed_since_is_nobody_elses_to_replace(tmp_path):
    run(tmp_path)
    (tmp_path / "README.md").write_text("my own words")
    for made_from, overwrite in ((OTHER, True), (MADE_FROM, True), (MADE_FROM, False)):
        with pytest.raises(UsageError, match=r"README.md would be replaced"):
            output.check_owner(tmp_path, made_from, overwrite)
    assert (tmp_path / "README.md").read_text() == "my own words"


@pytest.mark.parametrize("failed", [True, False], ids=["came to nothing", "killed"])
def test_what_is_overwritten_waits_until_the_new_run_is_whole(failed, tmp_path):
    run(tmp_path, texts=["config.json", "checkpoint-6/model.safetensors"])
    before = contents(tmp_path)
    output.claim_output_dir(tmp_path, OTHER, overwrite=True)
    assert set(contents(tmp_path)) == {"run.json", *(f".replaced/{name}" for name in before)}
    (tmp_path / "all_results.json").write_text("{}")
    if failed:
        output.leave_folders(failed=True)
        assert contents(tmp_path) == before
        return
    output.leave_folders(failed=False)
    # Yet another run: the half-done one goes, the whole one stays until this one is whole as well.
    output.claim_output_dir(tmp_path, MADE_FROM, overwrite=True)
    assert contents(tmp_path / ".replaced") == before
    output.finish(tmp_path, verified=False)
    assert set(contents(tmp_path)) == {"run.json"}


def test_folders_in_folders_are_set_aside_and_put_back(tmp_path):
    run(tmp_path)
    deep = tmp_path / "runs" / "day" / "hour"
    deep.mkdir(parents=True)
    (deep / "events.out.tfevents.2").write_text("x")
    output.finish(tmp_path, verified=True)
    before = contents(tmp_path)
    output.claim_output_dir(tmp_path, OTHER, overwrite=True)
    assert not (tmp_path / "runs").exists()
    output.leave_folders(failed=True)
    assert contents(tmp_path) == before


def test_the_same_run_overwritten_begins_anew_and_resumed_goes_on(tmp_path):
    run(tmp_path, texts=["checkpoint-6/model.safetensors"])
    before = contents(tmp_path)
    assert output.claim_output_dir(tmp_path, MADE_FROM, overwrite=True) == {}
    assert contents(tmp_path / ".replaced") == before
    output.leave_folders(failed=True)
    assert contents(tmp_path) == before
    earlier = output.claim_output_dir(tmp_path, MADE_FROM, overwrite=True, resumed=True)
    assert earlier == json.loads(before["run.json"])
    (tmp_path / "checkpoint-6" / "model.safetensors").write_text("as a training changes what it goes on from")
    output.claim_output_dir(tmp_path, MADE_FROM, overwrite=True, resumed=True)
    assert not (tmp_path / ".replaced").exists()
    with pytest.raises(UsageError, match="resume_from_checkpoint lies in"):
        output.claim_output_dir(tmp_path, OTHER, overwrite=True, resumed=True)


def test_what_a_kill_left_half_written_is_removed(tmp_path):
    output.claim_output_dir(tmp_path, MADE_FROM, overwrite=False)
    (tmp_path / ".unfinished-config.json").write_text("{")
    (tmp_path / ".unfinished-checkpoint-3").mkdir()
    (tmp_path / ".unfinished-checkpoint-3" / "model.safetensors").write_text("half")
    output.claim_output_dir(tmp_path, MADE_FROM, overwrite=False)
    assert not list(tmp_path.glob(".unfinished*"))


def test_what_answering_has_to_know_is_kept(tmp_path):
    output.claim_output_dir(tmp_path, MADE_FROM, False)
    output.finish(tmp_path, verified=False, answering={"max_seq_length": 96})
    expected = {"made_from": MADE_FROM, "verified": False, "answering": {"max_seq_length": 96}, "files": {}}
    assert output.read_run(tmp_path) == expected
    output.finish(tmp_path, verified=True)
    del expected["answering"]
    assert output.read_run(tmp_path) == {**expected, "verified": True}


def test_what_an_earlier_run_had_replaced_does_not_come_back(tmp_path):
    """A run may be killed when it is whole, and before what it replaces is gone."""
    run(tmp_path)
    before = contents(tmp_path)
    (tmp_path / ".replaced").mkdir()
    (tmp_path / ".replaced" / "training_args.bin").write_text("older")
    output.claim_output_dir(tmp_path, OTHER, overwrite=True)
    output.leave_folders(failed=True)
    assert contents(tmp_path) == before


def test_a_failed_run_keeps_its_checkpoints(tmp_path):
    run(tmp_path)
    output.claim_output_dir(tmp_path, OTHER, overwrite=True)
    (tmp_path / "checkpoint-2").mkdir()
    output.leave_folders(failed=True)
    assert output.last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-2")
    assert (tmp_path / ".replaced" / "pytorch_model.bin").is_file()


@pytest.mark.parametrize(
    ("place", "refused"),
    [
        (".", True),
        ("checkpoint-500", True),
        ("config.json", True),
        (".replaced/model", True),
        ("checkpoint-500-best", False),
        ("models/mine", False),
        ("train.json", False),
        ("../beside", False),
    ],
)
def test_an_input_is_never_in_the_place_of_an_output(place, refused, tmp_path):
    folder = tmp_path / "out"
    (folder / "models").mkdir(parents=True)
    inputs = [("model_name_or_path", str(folder / place))]
    if refused:
        with pytest.raises(UsageError, match=r"--model_name_or_path"):
            output.check_owner(folder, MADE_FROM, True, inputs)
    else:
        output.check_owner(folder, MADE_FROM, True, inputs)


def test_a_folder_of_questions_is_not_around_the_output_nor_a_cache_inside(tmp_path):
    folder = tmp_path / "data" / "out"
    for flag, place in (("dataset_name", tmp_path / "data"), ("cache_dir", folder / "cache")):
        with pytest.raises(UsageError, match=f"--{flag}.*; name another folder$"):
            output.check_owner(folder, MADE_FROM, False, [(flag, str(place))])
    inputs = [("cache_dir", str(tmp_path / "data")), ("dataset_name", str(tmp_path / "data" / "questions"))]
    output.check_owner(folder, MADE_FROM, False, inputs)


def test_an_input_behind_a_link_counts_as_well(tmp_path):
    run(tmp_path / "out", texts=["checkpoint-4/model.safetensors"])
    (tmp_path / "link").symlink_to(tmp_path / "out" / "checkpoint-4")
    with pytest.raises(UsageError, match=r"link lies in --output_dir"):
        output.check_owner(tmp_path / "out", OTHER, True, [("model_name_or_path", str(tmp_path / "link"))])


def test_the_checkpoint_of_another_run_is_refused(tmp_path):
    checkpoint = tmp_path / "checkpoint-4"
    checkpoint.mkdir()
    with pytest.raises(
        UsageError, match=r"is no checkpoint that says what it was made from \(run.json\); name one of run_qa.py$"
    ):
        output.check_checkpoint(checkpoint, MADE_FROM)
    (checkpoint / "run.json").write_text(json.dumps({"made_from": OTHER}))
    with pytest.raises(UsageError, match="is no checkpoint"):  # a finished run is none either
        output.check_checkpoint(checkpoint, OTHER)
    (checkpoint / "progress.pt").touch()
    with pytest.raises(UsageError, match=r"cd34 \(now ab12\)"):
        output.check_checkpoint(checkpoint, MADE_FROM)
    output.check_checkpoint(checkpoint, OTHER)


def test_where_files_cannot_be_locked_a_run_goes_on(tmp_path, monkeypatch, capsys):
    def refuse(*args):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(output.fcntl, "lockf", refuse)
    output.claim_output_dir(tmp_path / "out", MADE_FROM, False)
    assert "out cannot be locked (No locks available); let no other run write there" in capsys.readouterr().out
    assert output.read_run(tmp_path / "out")["made_from"] == MADE_FROM


def test_two_runs_do_not_share_a_folder_and_a_kill_gives_it_back(tmp_path):
    program = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from qa.start import output
output.claim_output_dir({str(tmp_path)!r}, {MADE_FROM!r}, False)
print("mine", flush=True)
sys.stdin.read()
"""
    other = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "mine\n"
    for step in (output.check_owner, output.claim_output_dir):
        with pytest.raises(UsageError, match="in use by another run"):
            step(tmp_path, MADE_FROM, False)
    other.kill()
    other.communicate()
    output.claim_output_dir(tmp_path, MADE_FROM, False)
    # This process keeps it, also when it looks again.
    output.check_owner(tmp_path, MADE_FROM, False)
    words = [
        "-c",
        f"import fcntl, os; fcntl.lockf(os.open({str(tmp_path / '.lock')!r}, os.O_RDWR), fcntl.LOCK_EX | 4)",
    ]
    assert b"BlockingIOError" in subprocess.run([sys.executable, *words], capture_output=True).stderr


def test_a_folder_that_is_claimed_twice_has_one_lock(tmp_path):
    for _ in range(2):
        output.claim_output_dir(tmp_path, MADE_FROM, False)
    opened = [os.path.realpath(link) for link in Path("/proc/self/fd").iterdir()]
    assert opened.count(str(tmp_path / output.LOCK_FILE)) == 1


def test_another_process_joins_the_run_of_the_first(tmp_path, monkeypatch):
    output.claim_output_dir(tmp_path, MADE_FROM, False)
    before = contents(tmp_path)
    monkeypatch.setenv("RANK", "1")
    output.claim_output_dir(tmp_path, MADE_FROM, False)
    with pytest.raises(UsageError, match=r"different arguments: --train.* cd34 \(rank 0: ab12\); give all the same$"):
        output.claim_output_dir(tmp_path, OTHER, False)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("seen", [True, False])
def test_another_process_waits_until_it_sees_the_folder_of_the_first(seen, tmp_path, monkeypatch):
    slept = []

    def sleep(seconds):
        slept.append(seconds)
        if seen and len(slept) == 5:
            (tmp_path / "run.json").write_text(json.dumps({"made_from": MADE_FROM}))

    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(output.time, "sleep", sleep)
    monkeypatch.setattr(output.time, "monotonic", lambda: 1000 + sum(slept))
    if seen:
        output.claim_output_dir(tmp_path, MADE_FROM, False)
        assert sum(slept) == 5
    else:
        with pytest.raises(UsageError, match=f"on {socket.gethostname()} is not the folder .*; name one that all"):
            output.claim_output_dir(tmp_path, MADE_FROM, False)
        assert sum(slept) == output.SEEN_AFTER


@pytest.mark.parametrize(
    ("names", "last"),
    [
        ((), None),
        (("checkpoint-3-best", "checkpoint-", "checkpoint-x"), None),
        (("checkpoint-9", "checkpoint-10"), 10),
    ],
)
def test_the_last_checkpoint_is_the_one_with_the_highest_step(names, last, tmp_path):
    for name in names:
        (tmp_path / name).mkdir()
    assert output.last_checkpoint(tmp_path) == (last and os.fspath(Path(tmp_path) / f"checkpoint-{last}"))
