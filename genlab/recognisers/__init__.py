"""The in-lab recogniser: text from audio, and semantic units."""
