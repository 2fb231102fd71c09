"""The batcher in front of a cluster: each face goes to a replica of the model, which batches those of all its callers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from facesieve.faces import Crops
from facesieve.runtime import Trace
from facesieve.service.batcher import Admission, BusyError, Limits
from facesieve.service.metrics import Metrics

TRIES = 3  # of a face whose replica dies
WITHOUT_MODEL = 10  # seconds after which to ask again where no replica can be started


class RayBatcher:
    """A queue in front of replicas; see ``Batcher``. ``model`` is the handle of their deployment.

    How long a face takes depends on how many replicas there are, so nobody is refused for time: waiting faces
    are what makes Ray start another replica.
    """

    def __init__(self, model: Any, limits: Limits, metrics: Metrics) -> None:
        self._model = model
        self.admission = Admission(limits, metrics, pace=0.0)
        self._started = False

    async def start(self) -> None:
        """Faces are taken from now on."""
        self._started = True

    async def stop(self) -> None:
        """Refuse what comes from now on, and finish what was accepted."""
        self.admission.close()
        await self.admission.empty()

    @property
    def waiting(self) -> int:
        """How many faces wait for their result."""
        return self.admission.waiting

    @property
    def ready(self) -> bool:
        """Whether faces are taken."""
        return self._started and not self.admission.closed

    async def purify(self, crops: Crops, seeds: Sequence[int]) -> Trace:
        """See ``Batcher``; a face whose replica dies is handed to another."""
        self.admission.enter(len(crops))
        faces = [asyncio.ensure_future(self._face(crop, seed)) for crop, seed in zip(crops, seeds, strict=True)]
        try:
            async with self.admission.deadline():
                return Trace.joined(await asyncio.gather(*faces))
        finally:
            for face in faces:
                face.cancel()
            self.admission.leave(len(crops))

    async def _face(self, crop: Crops, seed: int) -> Trace:
        from ray.exceptions import RayActorError
        from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

        for left in reversed(range(TRIES)):
            try:
                trace: Trace = await self._model.purify.remote(crop, seed)
                return trace
            except BackPressureError as error:
                raise BusyError("the replicas of the model have no room") from error
            except DeploymentUnavailableError as error:  # none can be started, such as where its file is gone
                raise BusyError("there is no replica of the model now", WITHOUT_MODEL) from error
            except RayActorError:  # the same seed gives the same result, whoever computes it
                if not left:
                    raise
        raise AssertionError
