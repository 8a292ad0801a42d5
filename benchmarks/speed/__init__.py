"""Speed and memory compared with PyTorch, plain TensorFlow and plain scripts; `bench` runs all of them."""
