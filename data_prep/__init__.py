"""Scripts that turn videos into TFRecord shards: `python -m data_prep.ucf101 ...`."""

import tganv2_tf  # noqa: F401 (refuses other versions of Python in one line)
