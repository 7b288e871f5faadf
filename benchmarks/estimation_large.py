"""A hundred million scores from a Parquet file: seconds and peak memory of each method, each in a process of its own.

    python benchmarks/estimation_large.py [--scores 10000000 100000000] [--folder DIR]

The files are written to DIR when they are not there (8.1 bytes a score, no compression). Peak memory is the largest
resident set of the process (getrusage); the first row is the process that only imports and opens the file. It must not
grow with the file.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BATCH = 1_000_000
DELTA = 1e-5
METHODS = {
    "one-run-max": {},
    "one-run-fdp": {"curve": "gaussian"},
    "clopper-pearson": {"declared": ("independent-runs",), "threshold_selection": "bonferroni:16"},
    "gdp": {"declared": ("independent-runs",)},
    "bayes": {"declared": ("independent-runs",)},
    "independent-canaries": {},
    "mean-shift": {},
}


def write(path, count):
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng, schema = np.random.default_rng(0), pa.schema([("score", pa.float64()), ("member", pa.bool_())])
    part = path.with_suffix(".part")
    with pq.ParquetWriter(part, schema, compression="none", use_dictionary=False) as writer:
        for _ in range(count // BATCH):
            member = rng.random(BATCH) < 0.5
            writer.write_table(pa.table({"score": rng.normal(size=BATCH) + member, "member": member}, schema=schema))
    part.replace(path)


def measure(path, method):
    """Print one JSON row; runs in a process of its own."""
    from dpaudit.estimation import estimate_source, read_scores

    start, wall = time.process_time(), time.time()
    source = read_scores(Path(path))
    row = {"method": method, "epsilon": None, "status": ""}
    if method != "open only":
        bound = estimate_source(source, method=method, delta=DELTA, **METHODS[method])
        row |= {"epsilon": bound.epsilon, "status": bound.status.value}
    row |= {"cpu": time.process_time() - start, "wall": time.time() - wall}
    print(json.dumps(row | {"mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scores", type=int, nargs="+", default=[10_000_000, 100_000_000])
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(*options.measure)
        return
    columns = ("scores", "method", "bound (true epsilon 4.377)", "status", "CPU s", "wall s", "peak MiB")
    print("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|")
    for count in options.scores:
        path = options.folder / f"dpaudit-bench-{count}.parquet"
        if not path.is_file():
            write(path, count)
        for method in ("open only", *METHODS):
            command = [sys.executable, __file__, "--measure", str(path), method]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            row = json.loads(done.stdout)
            bound = "" if row["epsilon"] is None else f"{row['epsilon']:.3f}"
            cells = (f"{count:,}", method, bound, row["status"], f"{row['cpu']:.1f}", f"{row['wall']:.1f}", row["mib"])
            print("| " + " | ".join(map(str, cells)) + " |", flush=True)


if __name__ == "__main__":
    main()
