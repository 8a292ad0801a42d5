"""Training data: the records that `data_prep` writes, and the pipeline that reads them."""
