"""The bench suite.

`make bench` times every operator's cases and some models, and compares with the baseline of this
CPU and instruction set: test_ops.py and test_models.py say what is timed, measure.py how,
baselines.py compares, conftest.py ties them to pytest. `python -m bench.peers` compares wnn with
other engines: engines.py runs one of them, report.py writes the table and the plot. `python -m
bench.packages` compares wnn with its op packages and without them, on spans.py and on models.
"""
