"""Experiments of preprocess.py: conf/preprocess.yaml puts this folder on the search path."""
