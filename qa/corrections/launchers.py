"""torchrun (torch 2.8) and `accelerate launch` (accelerate 1.15): what they do to a run without being asked.

Both set `OMP_NUM_THREADS` to 1 where the user did not, and `accelerate launch` starts one process on a machine without
GPUs whatever --num_processes says. The first correction can go when a script behind torchrun sees no
`OMP_NUM_THREADS` that its user has not set; the second when `accelerate launch --num_processes 2` starts two processes
on CPUs.
"""


def threads_were_chosen(environ, started_with):
    """Tell whether `OMP_NUM_THREADS` is the user's choice.

    torchrun and `accelerate launch` set it to 1 where the user did not, which leaves most of a large machine idle.

    Args:
        environ: environment variables of the process.
        started_with: path of the environment that the parent process, torchrun for instance, was started with.
    """
    launched = int(environ.get("LOCAL_WORLD_SIZE", 1)) > 1 or "ACCELERATE_MIXED_PRECISION" in environ
    if environ.get("OMP_NUM_THREADS") != "1" or not launched:
        return bool(environ.get("OMP_NUM_THREADS"))
    try:
        variables = started_with.read_bytes().split(b"\0")
    except OSError:
        return True
    return any(variable.startswith(b"OMP_NUM_THREADS=") for variable in variables)


def others_are_missing(environ):
    """Tell whether `accelerate launch` was asked for several processes and started one.

    That is what it does on a machine without GPUs, unless it gets --multi_gpu, which starts them on CPUs as well.

    Args:
        environ: environment variables of the process.
    """
    launched_alone = "ACCELERATE_USE_CPU" in environ and "RANK" not in environ
    mpi = any(name in environ for name in ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE"))
    return launched_alone and "MASTER_ADDR" in environ and not mpi
