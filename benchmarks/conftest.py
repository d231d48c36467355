"""So that `pytest benchmarks` runs them too."""

pytest_plugins = ["bench_plugin"]
