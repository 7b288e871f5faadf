"""Federated training with differential privacy: data, sampling, clipping, aggregation, canaries, ledger.

The core (`Server` and what it uses) is numpy; TensorFlow is imported by `clients`, `models` and `tfp` only, and
by the functions that train. Import what you need from the modules: `dpaudit.federated.data`,
`dpaudit.federated.trainer`, `dpaudit.federated.run_files`, `dpaudit.federated.reference`.
"""
