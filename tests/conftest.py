"""Shared set-up: quiet TensorFlow, one thread per test process, no network needed."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("MPLBACKEND", "Agg")
