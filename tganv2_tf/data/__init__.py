"""Training data: the record format written by `data_prep`, and the input pipeline."""
