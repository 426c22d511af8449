"""neural-compressor 3.7.1, optimum-intel 1.27.0 and transformers 4.45.2, as they are imported: what they bring along
changes the environment (opencv, scikit-learn), and the root logger where IPEX comes too.

Can go when `tests/test_trainer_qa.py` finds a process as it was after `import trainer_qa` without it.
"""

import contextlib
import logging
import os


@contextlib.contextmanager
def process_as_it_was():
    """Import libraries inside this context that change the process; environment and root logger are put back.

    A script that imports one class has not asked for the rest, nor have the processes that it starts.
    """
    environ, level, handlers = dict(os.environ), logging.root.level, list(logging.root.handlers)
    logger_class = logging.getLoggerClass()
    try:
        yield
    finally:
        for name in os.environ.keys() - environ.keys():
            del os.environ[name]
        os.environ.update({name: value for name, value in environ.items() if os.environ.get(name) != value})
        logging.root.setLevel(level)
        logging.root.handlers[:] = handlers
        logging.setLoggerClass(logger_class)
