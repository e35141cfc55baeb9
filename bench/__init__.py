"""Benchmarks: `python -m bench` times matryo beside its peers; see docs/bench.md."""
