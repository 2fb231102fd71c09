"""An objective."""

from dataclasses import dataclass

from torch import Tensor

from facesieve.attacks.objectives import Scores


@dataclass(frozen=True, eq=False)
class LowestScore:
    """The correct person's score is to fall, whoever rises."""

    scores: Scores
    labels: Tensor

    def __call__(self, images):
        return -self.scores(images).gather(1, self.labels[:, None])[:, 0]
