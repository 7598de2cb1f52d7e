"""What denoisers share: paths, schedules, solvers, heads, corruption."""
