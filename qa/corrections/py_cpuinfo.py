"""py-cpuinfo 9.0.0, as neural-compressor 3.7.1 asks it: twice, and each time for a second.

Can go when `import neural_compressor` no longer calls `cpuinfo.get_cpu_info`.
"""

import concurrent.futures
import threading


def ask_about_processor():
    """Let py-cpuinfo find out about the processor in a thread, once, while other things are done.

    INC asks it twice as it is imported, and each time waits for a second in which a clock is measured.
    """
    import cpuinfo

    get_cpu_info, answer = cpuinfo.get_cpu_info, concurrent.futures.Future()

    def ask():
        try:
            answer.set_result(get_cpu_info())
        except Exception as error:
            answer.set_exception(error)

    # Not an executor, whose threads a process that has come to an error would wait for.
    threading.Thread(target=ask, daemon=True).start()
    cpuinfo.get_cpu_info = answer.result
