"""Stress tests of the guarantees in docs/reliability.md: crashes, damaged files, storage failures, load, long runs."""
