"""Audio in, clips and batches out: corpora, their manifest, waveform
batches and the token store.
"""
