"""Scripts that turn videos into TFRecord shards: `python -m data_prep.ucf101 ...`."""
