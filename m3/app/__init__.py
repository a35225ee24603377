"""A page to play with a model: `m3-app` (docs/app.md).

`page.py` draws it, in the process that serves it; `jobs.py` computes, in a process of its own (`worker.py`).
"""
