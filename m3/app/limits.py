"""Bounds on what the page takes from a browser, and on what it keeps."""

from __future__ import annotations

MAX_UPLOAD_MB = 64
"""Size of a file."""

MAX_UPLOADS = 32
"""Uploaded files that are kept; the oldest go first."""

MAX_WORK_FOLDERS = 24
"""Folders of results that are kept; the oldest go first."""

MAX_FRAMES, MAX_SECONDS = 900, 30.0
"""Length of a video."""

MAX_SIDE_PX = 4096
"""Larger side of a video or picture."""

MAX_ROLLED, MAX_FUTURES = 16, 8
"""Generated frames, and random futures."""

FUTURES = (2, 4, MAX_FUTURES)
"""Numbers of random futures to choose from."""

MAX_TEXT = 500
"""Characters of a text that is typed."""

MAX_RUNS = 8
"""Runs beside each other."""

JOB_SECONDS = 120.0
"""A job that takes longer is stopped."""

MAX_QUEUE = 16
"""Requests that wait; further ones are told to come again."""
