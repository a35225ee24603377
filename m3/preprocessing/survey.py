"""Surveys the videos of a divided source before the pairs are made."""

from __future__ import annotations

from contextlib import closing

from m3.annotation.divided_source import DividedSource
from m3.core.progress import track
from m3.core.terminal import PlainConsole
from m3.preprocessing.executors import Executor, LocalExecutor


def survey_source(source: DividedSource, executor: Executor) -> None:
    """Survey the videos whose survey is not there yet; each is kept as soon as it is finished.

    A single video is surveyed in this process, where the progress of its frames can be shown.
    """
    missing = source.not_surveyed()
    if done := len(source) - len(missing):
        PlainConsole(stderr=True).print(f"{done} of {len(source)} videos are surveyed already, in {source.folder}")
    if len(missing) == 1 and isinstance(executor, LocalExecutor):
        source.survey(missing[0])
        return
    what = "cuts" if source.annotator is None else "people"
    with closing(executor.surveyed(source.surveyor, missing)) as surveys:
        for survey in track(surveys, len(missing), f"videos → {what}"):
            source.add(survey)
