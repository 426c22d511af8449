"""The frame around each command's `main`: which error ends it how, of one process or of several.

Belongs here: exit codes, and which of several processes speaks.
Does not belong here: raising the errors, and what a command does.
"""

import functools
import json
import os
import signal
import sys
import time
import traceback
from datetime import timedelta
from pathlib import Path

from qa.start.errors import CriterionError, SaveError, UsageError
from qa.start.output import leave_folders
from qa.start.process import is_first_process

# Seconds in which torchrun sees that a process has ended, and ends the others.
LINGER = 2.0


def command(main):
    """Decorate `main` so that errors end the process with one line on standard error.

    The exit code is 2 for a `UsageError`, 1 for the others, and 130 for Ctrl-C. Of several processes of one run the
    first alone prints, and the one that fails first ends all, with its line and its code.
    """

    @functools.wraps(main)
    def run(*args, **kwargs):
        # Where these two make no sense, `prepare_process` says so.
        several = os.environ.get("WORLD_SIZE", "1") not in ("0", "1") and os.environ.get("RANK", "").isdecimal()
        rank = f"rank {os.environ['RANK']}: " if several else ""
        trace, lost, failed = "", False, True
        if not is_first_process():
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        try:
            result = main(*args, **kwargs)
            failed = False
            return result
        except (UsageError, SaveError) as error:
            code, line = 2 if isinstance(error, UsageError) else 1, f"error: {rank}{error}"
        except CriterionError:
            print("no trial met the accuracy criterion; nothing was saved")
            code, line = 1, ""
        except BrokenPipeError:
            # Nobody reads what is printed any more, as behind `| head`.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            code, line = 1, ""
        except KeyboardInterrupt:
            code, line = 130, f"{rank}interrupted; the same command starts again"
        except SystemExit as ended:
            if not several or not ended.code:
                raise
            code, line = ended.code, ""
        except Exception as error:
            if not several:
                raise
            reason = " ".join(str(error).split())
            # What gloo and nccl say when the other end of a connection is gone; there is no type for it.
            lost = any(text in reason for text in ("Connection closed by peer", "Connection reset", "ncclRemoteError"))
            if lost:
                reason = f"another process was killed, or its machine is gone ({reason})"
            else:
                reason, trace = f"{type(error).__name__}: {reason}", traceback.format_exc()
            code, line = 1, f"error: {rank}{reason}"
        finally:
            leave_folders(failed)
        _close_progress_bars()
        if several:
            _end_all(code, line, trace, lost)
        if line:
            print(line, file=sys.stderr)
        sys.exit(code)

    return run


def _close_progress_bars():
    """Let what is said next have a line of its own, not the rest of a progress bar's."""
    if "tqdm" in sys.modules:
        for bar in list(sys.modules["tqdm"].tqdm._instances):
            bar.close()


def _end_all(code, line, trace, lost):
    """End this process as one of several, and let the one that failed first speak for all.

    torchrun ends the others when one of them has ended. Those that were waiting for it fail in their turn, with errors
    that do not tell the reason, and bad input fails them all.

    Args:
        code: exit code.
        line: what to say; empty if all was said.
        trace: what to print before it.
        lost: whether the error is no more than the end of another process.
    """
    # Those that come now are torchrun's, which has seen another process end.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    sys.stdout.flush()
    first_code, first_line = _first_failure(code, line)
    speaks = first_line == line
    if speaks and line:
        # A line of its own, also where another process has left a progress bar open.
        print(f"\n{trace}{line}", file=sys.stderr, flush=True)
    file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if file and first_line:
        # torchrun shows it at the end of all that it prints itself.
        shown = {"message": first_line, "extraInfo": {"py_callstack": first_line, "timestamp": str(int(time.time()))}}
        Path(file).write_text(json.dumps({"message": shown}), encoding="utf-8")
    if lost or not speaks:
        # For torchrun to name the process that failed first, and no other.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(LINGER)
    # Connections that somebody still waits on can hold up the interpreter's own end.
    os._exit(first_code)


def _first_failure(code, line):
    """Return code and line of the process that came here first, through the key-value store of torchrun."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return code, line
    from torch.distributed import rendezvous

    try:
        store, _, _ = next(rendezvous("env://", timeout=timedelta(seconds=10)))
        return json.loads(store.compare_set("failure of run_qa", "", json.dumps([code, line])))
    except Exception:  # the machine with the store is gone
        return code, line
