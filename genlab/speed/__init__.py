"""What it costs: benchmarks, peers, ahead-of-time compilation."""
