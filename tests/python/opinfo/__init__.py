"""PyTorch's own operator and module databases, run on mps against the CPU.

`samples` copies a sample to a device with its strides, aliasing and bits kept; `compare` says how two results differ;
`checks` runs one entry of the database under one task; `items` lists entries and tasks; `pool` runs them in worker
processes, so that a crash or a hang costs one item; `__main__` is the full sweep with its table, `test_opinfo` the
pytest side. Known failures are data: `expected_failures.json`.
"""
