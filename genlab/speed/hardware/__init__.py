"""The hardware pack: what an accelerator can answer in minutes, one file per question."""
