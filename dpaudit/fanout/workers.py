"""What is alike in the workers of all backends: one thread each, quiet libraries, the same versions."""

import os

THREADS = (
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS", "NUMEXPR_NUM_THREADS",
    "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS",
)  # fmt: skip
RETRIES = 2
"""How often a task runs again, after its worker was lost, before it has failed."""


def environment() -> dict[str, str]:
    """Return the environment variables of a worker: as many workers as cores, so one thread in each."""
    return {**dict.fromkeys(THREADS, "1"), "TF_CPP_MIN_LOG_LEVEL": os.environ.get("TF_CPP_MIN_LOG_LEVEL", "3")}
