"""Experiments of generate.py: conf/generate.yaml puts this folder on the search path."""
