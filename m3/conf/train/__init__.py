"""Experiments of train.py: conf/train.yaml puts this folder on the search path."""
