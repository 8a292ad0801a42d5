"""Cost of several processes, and estimates for many GPUs and millions of videos."""
