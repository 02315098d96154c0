"""Fuzzers are run by hand: they need atheris, which rewrites what it imports."""

collect_ignore_glob = ["fuzz_*.py"]
