"""What `benches/bench.py` measures, a file a concern."""
