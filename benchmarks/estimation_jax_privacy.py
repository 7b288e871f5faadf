"""The peer's half of benchmarks/estimation.py; runs in the peer's environment and knows nothing of dpaudit."""

import json
import signal
import sys
import time

import numpy as np

LIMIT = 120  # wall seconds per call


def stop(*_):
    raise TimeoutError


def measure(name, call):
    signal.signal(signal.SIGALRM, stop)
    signal.alarm(LIMIT)
    start = time.process_time()
    try:
        value, note = call(), ""
    except TimeoutError:
        value, note = None, f"stopped after {LIMIT} s"
    except Exception as error:
        value, note = None, f"{type(error).__name__}: {error}"
    finally:
        signal.alarm(0)
    seconds = time.process_time() - start
    number = float(value) if isinstance(value, float | np.floating | int) else None
    if number is None and value is not None:
        note = type(value).__name__ if not isinstance(value, tuple) else str(value)
    print(json.dumps({"name": name, "seconds": round(seconds, 4), "epsilon": number, "note": note}), flush=True)
    return value


def main():
    from jax_privacy import auditing

    count = int(sys.argv[1])
    rng = np.random.default_rng(0)
    member, other = rng.normal(1, 1, count // 2), rng.normal(0, 1, count // 2)
    start = time.process_time()
    auditor = auditing.CanaryScoreAuditor(member, other)
    construction = time.process_time() - start
    print(
        json.dumps({"name": "constructor", "seconds": round(construction, 4), "epsilon": None, "note": ""}), flush=True
    )
    measure("Steinke", lambda: auditor.epsilon_one_run(0.05, 1e-5))
    measure("f-DP", lambda: auditor.epsilon_one_run_fdp(0.05, 1e-5))
    measure("Clopper-Pearson", lambda: auditor.epsilon_clopper_pearson(0.05, 1e-5))
    measure("Gaussian (mu)", lambda: auditor.epsilon_from_gdp(0.05, 1e-5))
    boot = auditing.BootstrapParams(seed=0)
    measure("AUC with 1,000-fold bootstrap", lambda: auditor.attack_auroc(bootstrap_params=boot))


if __name__ == "__main__":
    main()
