"""Findings of `tganv2_tf.doctor`: machine, installation, data set, and whether a recipe fits."""
