"""The same images, judged by templates of photographs as they are: beside those of people who are enrolled behind a defence.

Only where an attack aimed at the recogniser alone: one that aimed at the templates behind a defence says nothing of others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from facesieve.errors import InputError
from facesieve.evaluate.defend import Defence, defend
from facesieve.evaluate.measures import MEASURES
from facesieve.evaluate.recogniser import Trial, judge
from facesieve.metrics.intervals import Estimate, Means, of_difference
from facesieve.metrics.rates import threshold_at_far

if TYPE_CHECKING:
    from facesieve.evaluate.run import Run


def raw_templates(run: Run) -> dict[str, Estimate]:
    """For each defence ``accuracy``, clean and under each oblivious attack, ``clean accuracy lost`` and ``FRR`` at the run's FAR.

    The threshold is of the clean images behind the same defence, too few of which leave it out.
    """
    settings = run.experiment.recogniser.model_copy(update={"enrolled": "raw"})
    recogniser, found = run.recognisers.named(settings, None), {}

    def judged(defence: Defence, images: Tensor) -> Trial:
        return judge(recogniser, defend(defence, images, run.context).images, run.labels[: len(images)])

    bare = _hits(judge(recogniser, run.images, run.labels), run)
    for defence, n in run.plan.faced_by(None):
        clean, means = judged(defence, run.images[:n]), Means(run.labels[:n])
        found[f"accuracy, {defence.name}"] = means.share(_hits(clean, run))
        lost = means.of(bare[:n]) - means.of(_hits(clean, run))
        found[f"clean accuracy lost, {defence.name}"] = of_difference(means.estimate(lost))
        try:
            threshold = threshold_at_far(clean.impostor, run.settings.far).value
        except InputError:
            continue
        found[f"FRR, {defence.name}"] = means.share(np.array(clean.genuine) < threshold)
    for attack in run.attacks:
        if run.plan.is_oblivious(attack):
            for defence, n in run.plan.faced_by(attack):
                means = Means(run.labels[:n])
                hits = _hits(judged(defence, run.faced(attack, defence, n)), run)
                found[f"accuracy, {defence.name}, {attack.name}"] = means.share(hits)
    return found


def _hits(trial: Trial, run: Run) -> NDArray[np.float64]:
    hits: NDArray[np.float64] = (np.array(trial.predicted) == run.labels[: len(trial.predicted)]).astype(np.float64)
    return hits


MEASURES.register("raw_templates", raw_templates)
