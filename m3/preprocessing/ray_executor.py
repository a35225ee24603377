"""Clips → staged clips on a Ray cluster, with Ray Data.

    clip ids (here) ─▶ CPU actors: pairs, canvas, joint tokens ─▶ tokenizer actors: picture tokens, captions ─▶ here

Clips are staged as soon as they are finished, so that memory is bounded by Ray's object store. When the cluster loses a
machine, new actors on the remaining ones continue with the clips that are not finished.
"""

from __future__ import annotations

import logging
import math
import os
import pickle
import secrets
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

from hydra.utils import instantiate

from m3.annotation.survey import Survey, Surveyor
from m3.core.terminal import PlainConsole
from m3.core.types import Rejection
from m3.core.validation import check
from m3.preprocessing.encode import ClipEncoder
from m3.preprocessing.executors import Encoded
from m3.preprocessing.prepare import ClipPreparer
from m3.preprocessing.ray_actors import EncoderMaker, EncodingActor, Outcome, PreparingActor
from m3.preprocessing.staging import Unreadable
from m3.preprocessing.workers import ClipWork, is_death

if TYPE_CHECKING:
    import ray
    import ray.data.exceptions
    import ray.exceptions
else:
    try:
        import ray
        import ray.data.exceptions
    except ImportError:
        ray = None

_SECONDS_BETWEEN_LOOKS = 0.5
_MAX_CLIPS_PER_TASK = 8
_MAX_FRUITLESS_PASSES = 3
"""Abort after this many consecutive passes that ended with an error of Ray before any clip was finished."""


Result = TypeVar("Result")


class NodeLost(Exception):
    """The cluster has lost a machine that it had when the actors were made."""


class Fleet(NamedTuple):
    """The actors of a pass.

    num_workers, num_tokenizers: how many.
    cpus_per_actor: that an actor reserves; a tokenizer on a GPU reserves none.
    gpus_per_tokenizer: likewise.
    """

    num_workers: int
    num_tokenizers: int
    cpus_per_actor: float
    gpus_per_tokenizer: float


class RayExecutor:
    """CPU actors prepare, tokenizer actors encode. The package and what the source reads must be on every machine.

    Args:
        num_workers: CPU actors; None: as many as the tokenizers leave room for.
        address: of a cluster, as Ray has it; None starts one on this machine for as long as the run takes.
        num_tokenizers: tokenizer actors; None: one, or all that the GPUs have room for.
        gpus_per_tokenizer: may be a fraction; None: 1 where the cluster has GPUs and a network's device is not "cpu".
        object_store_gb: of a cluster that is started; None: 1.
        tokenizer, captioner: Hydra configurations, from which each tokenizer actor makes its own.

    Raises ValueError where Ray is not installed or an argument cannot be.
    """

    def __init__(
        self,
        num_workers: int | None,
        address: str | None,
        num_tokenizers: int | None,
        gpus_per_tokenizer: float | None,
        object_store_gb: float | None,
        tokenizer: dict[str, Any],
        captioner: dict[str, Any],
    ) -> None:
        if ray is None:
            raise ValueError("executor=ray: Ray is not installed here; pip install 'm3-motion[ray]'")
        check("workers", num_workers, int | None, low=1)
        check("executor.num_tokenizers", num_tokenizers, int | None, low=1)
        check("executor.gpus_per_tokenizer", gpus_per_tokenizer, int | float | None, low=0)
        check("executor.object_store_gb", object_store_gb, int | float | None, low=0.1)
        if address is not None and object_store_gb is not None:
            raise ValueError(
                f"executor.object_store_gb={object_store_gb}: the cluster at executor.address={address} has its own "
                "already (ray start --object-store-memory)"
            )
        self.num_workers, self.address, self.num_tokenizers = num_workers, address, num_tokenizers
        self.gpus_per_tokenizer, self.object_store_gb = gpus_per_tokenizer, object_store_gb or 1
        self._makers = partial(instantiate, tokenizer), partial(instantiate, captioner)
        self._wants_gpus = any(network.get("device", "cpu") != "cpu" for network in (tokenizer, captioner))

    def encoded(
        self, encoder: ClipEncoder, encode_threads: int, clip_ids: Sequence[str]
    ) -> Generator[Encoded, None, None]:
        """See `executors.Executor`.

        Raises OSError where the cluster cannot be reached, is lost, or has a machine that cannot read the clips.
        """
        if not clip_ids:
            return
        fingerprints = (encoder.tokenizer.fingerprint, encoder.captioner.fingerprint)
        make_encoder = EncoderMaker(encoder.preparer, *self._makers, fingerprints, encoder.batch_size, encode_threads)
        with closing(self._passes(partial(_outcomes, make_encoder), clip_ids)) as outcomes:
            for outcome in outcomes:
                yield _checked(outcome, encoder.preparer)

    def surveyed(self, surveyor: Surveyor, clip_ids: Sequence[str]) -> Generator[Survey | Rejection, None, None]:
        """See `executors.Executor`. Raises OSError as `encoded` does."""
        if not clip_ids:
            return
        with closing(self._passes(partial(_surveys, surveyor), clip_ids)) as outcomes:
            for outcome in outcomes:
                survey = outcome.result
                assert not isinstance(survey, Exception)
                if isinstance(survey, Rejection) and not is_death(survey):
                    if not isinstance(surveyor(survey.clip), Rejection):
                        raise _unreadable_there(outcome.host, survey)
                yield survey

    def _passes(
        self, run: Callable[[Sequence[str], Fleet, frozenset[str]], Iterator[Outcome[Result]]], clip_ids: Sequence[str]
    ) -> Generator[Outcome[Result], None, None]:
        """The outcome of each clip, by as many passes over those that are not finished as it takes.

        run: one pass over some clips, with the actors and the nodes of the cluster.
        """
        remaining, num_fruitless, gpus = dict.fromkeys(clip_ids), 0, None
        while remaining:
            num_before = len(remaining)
            with self._connected():  # a new connection for each pass ends all actors of the last one
                nodes = _alive()
                gpus = self._gpus_per_tokenizer(nodes) if gpus is None else gpus
                fleet = self._fleet(nodes, gpus)
                _say(f"Ray: {_described(nodes)}: {fleet.num_workers} workers, {fleet.num_tokenizers} tokenizers")
                try:
                    for outcome in run(list(remaining), fleet, frozenset(nodes)):
                        del remaining[outcome.clip_id]
                        if isinstance(outcome.result, Exception):
                            raise outcome.result
                        yield outcome
                except NodeLost as loss:
                    _say(f"Ray: {loss}; {len(remaining)} clips to go")
                except (ray.exceptions.RayError, ray.data.exceptions.ExecutionTimeoutError) as error:
                    num_fruitless = num_fruitless + 1 if len(remaining) == num_before else 0
                    if num_fruitless == _MAX_FRUITLESS_PASSES:
                        raise _actors_die(error) from error
                    _say(f"Ray: {type(error).__name__}; {len(remaining)} clips to go")

    @contextmanager
    def _connected(self) -> Iterator[None]:
        quiet = {"logging_level": logging.CRITICAL, "log_to_driver": False}
        environment = dict(os.environ)
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        if self.address is None:
            folder = tempfile.mkdtemp(prefix="m3-ray-")
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex())  # Ray would write one into the home folder
            num_cpus = max(os.cpu_count() or 1, self.num_workers or 0) + (self.num_tokenizers or 1)
            memory = round(self.object_store_gb * 2**30)
            options = {"num_cpus": num_cpus, "object_store_memory": memory, "_temp_dir": folder}
            _say(f"Ray: starts on this machine; its files are in {folder} until the end")
        else:
            folder, options = None, {"address": self.address}
            _check_reachable(self.address)
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            try:
                ray.init(include_dashboard=False if folder else None, **options, **quiet)
            except Exception as error:  # of many kinds
                raise OSError(
                    f"executor.address={self.address}: no connection to a Ray cluster ({_first_line(error)}); "
                    "`ray start --head` starts one"
                ) from error
            _silence_ray_data()
            yield
        finally:
            ray.shutdown()
            os.environ.clear()
            os.environ.update(environment)
            if folder:
                shutil.rmtree(folder, ignore_errors=True)

    def _gpus_per_tokenizer(self, nodes: dict[str, dict[str, float]]) -> float:
        """Determined once per run: the device may change the last bit of a result."""
        if self.gpus_per_tokenizer is not None:
            return self.gpus_per_tokenizer
        return 1 if self._wants_gpus and any(resources.get("GPU") for resources in nodes.values()) else 0

    def _fleet(self, nodes: dict[str, dict[str, float]], gpus: float) -> Fleet:
        """As many actors as requested, up to what fits: an actor that waits for resources would block the others."""
        cpus = [resources.get("CPU", 0.0) for resources in nodes.values()]
        share = 1.0 if sum(map(math.floor, cpus)) > 1 else 0.5  # a worker and a tokenizer share a single CPU
        room = sum(math.floor(num / share) for num in cpus)
        if gpus:
            gpu_room = sum(math.floor(resources.get("GPU", 0.0) / gpus) for resources in nodes.values())
            if not gpu_room:
                raise ValueError(f"executor.gpus_per_tokenizer={gpus:g}: the cluster has {_described(nodes)}")
            num_tokenizers = min(self.num_tokenizers or gpu_room, gpu_room)
        else:
            num_tokenizers = min(self.num_tokenizers or 1, max(1, room - 1))
            room -= num_tokenizers
        if room < 1:
            raise ValueError(f"executor=ray: no CPU is left for workers; the cluster has {_described(nodes)}")
        return Fleet(min(self.num_workers or room, room), num_tokenizers, share, gpus)


def _outcomes(
    make_encoder: EncoderMaker, clip_ids: Sequence[str], fleet: Fleet, nodes: frozenset[str]
) -> Iterator[Outcome[Encoded]]:
    """One pass over the clips. Ray itself restarts an actor that died, as long as its node is there.

    Raises NodeLost when one of the nodes is lost, RayError for failures that Ray cannot recover from,
    ExecutionTimeoutError after half an hour without progress.
    """
    encode: Any = EncodingActor  # Ray's types want a class; it calls what it is given
    outcomes = _worked_on(make_encoder.preparer, clip_ids, fleet, nodes).map(
        encode,
        fn_constructor_args=(make_encoder, os.getcwd()),
        compute=ray.data.ActorPoolStrategy(size=fleet.num_tokenizers),
        num_cpus=0 if fleet.gpus_per_tokenizer else fleet.cpus_per_actor,
        num_gpus=fleet.gpus_per_tokenizer,
    )
    for row in outcomes.iter_rows():
        yield pickle.loads(row["outcome"])


def _surveys(
    surveyor: Surveyor, clip_ids: Sequence[str], fleet: Fleet, nodes: frozenset[str]
) -> Iterator[Outcome[Survey | Rejection]]:
    """Like `_outcomes`, without networks of pictures and captions."""
    for row in _worked_on(surveyor, clip_ids, fleet, nodes).iter_rows():
        yield Outcome(row["clip"], pickle.loads(row["prepared"]), row["host"])


def _worked_on(work: ClipWork[Any], clip_ids: Sequence[str], fleet: Fleet, nodes: frozenset[str]) -> ray.data.Dataset:
    """Rows {"clip", "prepared", "host"} of all clips, see `PreparingActor`."""
    # Ray's types want classes in both places; it calls what it is given.
    watches: list[Any] = [partial(_NodeWatch, nodes)]
    prepare: Any = PreparingActor
    ray.data.DataContext.get_current().custom_execution_callback_classes = watches
    per_task = max(1, min(_MAX_CLIPS_PER_TASK, len(clip_ids) // (16 * fleet.num_workers)))
    rows = ray.data.from_items(
        [{"clip": clip_id} for clip_id in clip_ids], override_num_blocks=math.ceil(len(clip_ids) / per_task)
    )
    return rows.map(
        prepare,
        fn_constructor_args=(work, os.getcwd()),
        compute=ray.data.ActorPoolStrategy(size=fleet.num_workers),
        num_cpus=fleet.cpus_per_actor,
    )


class _NodeWatch:
    """Ends an execution of Ray Data when a node is lost: it might wait forever for resources for the node's actors.

    nodes: ids of the nodes to watch.
    """

    def __init__(self, nodes: frozenset[str]) -> None:
        self._nodes, self._next_look = nodes, 0.0

    def on_execution_step(self, _: Any) -> None:
        if time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + _SECONDS_BETWEEN_LOOKS
            if lost := self._nodes - _alive().keys():
                raise NodeLost(f"{len(lost)} of {len(self._nodes)} machines lost")

    def before_execution_starts(self, _: Any) -> None: ...

    def after_execution_succeeds(self, _: Any) -> None: ...

    def after_execution_fails(self, _: Any, error: Exception) -> None: ...


def _checked(outcome: Outcome[Encoded], preparer: ClipPreparer) -> Encoded:
    """The result. Raises it where it is an error, and OSError for a clip that only the other machine cannot read."""
    result = outcome.result
    if isinstance(result, Exception):
        raise result
    clip = result.clip
    if isinstance(clip, Unreadable) and not is_death(clip) and _is_readable(clip.clip, preparer):
        raise _unreadable_there(outcome.host, clip)
    return result


def _unreadable_there(host: str, clip: Rejection) -> OSError:
    return OSError(
        f"clip {clip.clip}: {host} cannot read it ({clip.reason}), though this machine can: the source's files, and "
        "the joint files in annotations=…, must be under the same path on all machines. Run the same command again: "
        "finished clips are kept"
    )


def _is_readable(clip_id: str, preparer: ClipPreparer) -> bool:
    prepared = preparer(clip_id)
    if isinstance(prepared, Rejection):
        return not isinstance(prepared, Unreadable)
    try:
        return bool([0 for _ in preparer.pictures(prepared)]) or not prepared.shown
    except ValueError:
        return False


def _actors_die(error: Exception) -> OSError:
    return OSError(
        f"executor=ray: {type(error).__name__}: {_first_line(error)}; is there enough memory for workers=… and "
        "executor.num_tokenizers=…? Run the same command again: finished clips are kept"
    )


def _alive() -> dict[str, dict[str, float]]:
    """Resources ("CPU", "GPU") of each node, by its id."""
    return {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}


def _described(nodes: dict[str, dict[str, float]]) -> str:
    cpus, gpus = (sum(resources.get(kind, 0) for resources in nodes.values()) for kind in ("CPU", "GPU"))
    return f"{len(nodes)} machines, {cpus:g} CPUs, {gpus:g} GPUs"


def _check_reachable(address: str) -> None:
    """Raises OSError within 10 seconds where nothing answers; Ray itself waits much longer."""
    place = urlsplit(address if "://" in address else f"ray://{address}")
    if place.hostname is None or place.port is None:
        return
    try:
        socket.create_connection((place.hostname, place.port), timeout=10).close()
    except OSError as error:
        raise OSError(
            f"executor.address={address}: nothing answers there ({error}); `ray start --head` starts a cluster and "
            "prints its address"
        ) from error


def _silence_ray_data() -> None:
    """Turn off the progress display and the logs of Ray Data; m3 has its own."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = context.enable_auto_log_stats = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def _say(line: str) -> None:
    PlainConsole(stderr=True).print(line, soft_wrap=True)
