"""One module a stage: load, compute, save; each has one `run`."""
