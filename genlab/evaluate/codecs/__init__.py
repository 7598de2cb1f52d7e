"""What codecs are scored by, apart from decoders."""
