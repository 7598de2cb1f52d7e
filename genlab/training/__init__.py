"""One update: step, optimizer, settings."""
