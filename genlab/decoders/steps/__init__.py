"""What step-by-step decoders share: patterns, streams, caches, logits."""
