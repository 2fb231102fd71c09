"""The settings of each training, one model each; written into checkpoints and cards."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from facesieve.errors import SettingError
from facesieve.files import first_problem
from facesieve.recognition.facenet import SIDE


class Training(BaseModel):
    """The settings of one training."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    before: ClassVar[dict[str, Any]] = {}  # what runs did that began before there was a setting


Settings = TypeVar("Settings", bound=Training)

# Of training in all, over every call: where it is set, the learning rate and the end follow it, and not the images or steps.
Minutes = Annotated[float | None, Field(None, gt=0)]


class PriorTraining(Training):
    """A face prior from random weights."""

    before = {"views": False}

    size: int = 128
    patch: int = 2  # pixels folded into channels: a quarter of the cost at 2
    channels: tuple[int, ...] = (48, 64, 128, 192)
    layers: int = 1
    attention_levels: int = 1  # self-attention at this many of the coarsest levels
    images: int = Field(79_000, gt=0)  # seen in all; the learning rate falls over the last part
    batch: int = Field(16, gt=0)
    learning_rate: float = Field(8e-4, gt=0)
    warmup_steps: int = 100
    decay_fraction: float = Field(0.3, ge=0, le=1)
    ema_decay: float = Field(0.998, gt=0, lt=1)
    views: bool = True  # mirrored, turned, moved, zoomed, and as other cameras would have them; without: as max_zoom says
    max_zoom: float = Field(1.25, ge=1)  # without views: mirrored, and half of the crops cut up to this much tighter
    log_sigma_mean: float = -0.4
    log_sigma_std: float = 1.4
    uniform_time_fraction: float = 0.15  # the rest of the noise levels: uniform over the steps
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # of the network's products while training
    minutes: Minutes = None
    held_out: int = 512  # as many as a purifier's, and with the same seed the same ones
    seed: int = 0


# --- on views of unlabelled faces --------------------------------------------------------------------


class ViewTraining(Training):
    """What the trainings on views of unlabelled faces share."""

    steps: int = Field(4000, gt=0)
    batch: int = Field(16, gt=0)
    size: int = Field(128, ge=32)  # pixels of the views
    sharpness: float = Field(2.0, ge=0)  # half of the views have up to this many times their fine detail added
    learning_rate: float = Field(1e-3, gt=0)  # after the warm-up it falls to 0 along a half cosine
    warmup_steps: int = Field(100, ge=0)
    held_out: int = Field(64, gt=0)  # faces that are never trained on
    seed: int = 0


class DdsaTraining(ViewTraining):
    """The denoising sparse autoencoder's."""

    patch: int = Field(64, ge=8)  # pixels of the squares that are cut out of the views
    noise: float = Field(0.06, gt=0)  # standard deviation of the strongest noise, images in [0, 1]
    active: float = Field(0.05, gt=0, lt=1)  # the wanted mean of a unit of the code
    sparsity_weight: float = Field(1e-2, ge=0)

    def model_post_init(self, _: object) -> None:
        """Settings that contradict each other."""
        if self.patch % 4 or self.patch > self.size:
            raise SettingError(f"patch {self.patch} must be a multiple of 4, and at most size {self.size}")


class FaceGuardTraining(ViewTraining):
    """FaceGuard's."""

    steps: int = Field(1000, gt=0)
    batch: int = Field(24, gt=0)
    recognised: int = Field(4, gt=0)  # of the batch: those that go through the recogniser, which is most of the cost
    warmup_steps: int = Field(30, ge=0)
    width: int = Field(32, gt=0)  # channels of the finest level
    eps: float = Field(8 / 255, gt=0)  # the strongest perturbation, images in [0, 1]
    gradient_share: float = Field(0.5, ge=0, le=1)  # of the perturbed images: the gradient's sign in place of the generator's
    diversity_weight: float = Field(0.1, ge=0)
    identity_weight: float = Field(0.5, ge=0)
    bonafide_weight: float = Field(0.02, ge=0)


class PurifierTraining(Training):
    """A purifier that is trained through itself."""

    steps: int = Field(12_000, gt=0)
    batch: int = Field(12, gt=0)
    attacked: int = Field(9, ge=0)  # of the batch; the rest stays clean
    size: int = Field(128, ge=32)  # pixels of the views, the prior's
    learning_rate: float = Field(1.5e-4, gt=0)  # after the warm-up it falls to 0 along a half cosine
    warmup_steps: int = Field(100, ge=0)
    ema_decay: float = Field(0.998, gt=0, lt=1)
    sigma: float = Field(0.1, ge=0, lt=10)  # noise level that the restoration begins with, images in [-1, 1]
    scale: int = Field(2, ge=1)  # of the block mean that it begins from
    eps_low: float = Field(1.0, gt=0)  # levels of 255; each attacked face draws its own, evenly in the logarithm
    eps_high: float = Field(10.0, gt=0)
    inner_steps: int = Field(1, ge=1)  # of the attack, of one eps each (of 0.75 eps where there are several)
    clean_weight: float = Field(2.0, ge=0)  # of a clean face's distance; an attacked one's has 1
    naming_weight: float = Field(0.3, ge=0)  # of the cross-entropy over oneself and the held-out faces
    margin: float = Field(0.2, ge=0)  # by which the cosine with oneself must lead there
    pixel_weight: float = Field(1.0, ge=0)
    other_views: bool = False  # the rows to reach are those of other views of the faces behind the purifier
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # of the networks' products while training
    minutes: Minutes = None
    held_out: int = Field(512, gt=0)  # faces that are never trained on; they are the crowd
    measured: int = Field(32, gt=0)  # of those, for the held-out figures
    seed: int = 0

    def model_post_init(self, _: object) -> None:
        """Settings that contradict each other."""
        if self.eps_low > self.eps_high:
            raise SettingError("eps_low must not be above eps_high")
        if self.attacked > self.batch:
            raise SettingError(f"attacked {self.attacked} must be at most batch {self.batch}")


# --- of the recogniser -------------------------------------------------------------------------------


class RecogniserTraining(Training):
    """What the recogniser's two trainings share."""

    batch: int = Field(64, gt=1)
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.05, ge=0)
    dropout: float = Field(0.4, ge=0, lt=1)
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    teacher_weight: float = Field(4.0, ge=0)  # of 1 - cosine with the teacher, next to the cross-entropy
    warmup_steps: int = Field(200, ge=0)
    seed: int = 0


class Distilling(RecogniserTraining):
    """Imitating a teacher's embedding, on faces without labels."""

    epochs: int = Field(4, gt=0)
    size: int = Field(96, ge=75)  # pixels; small images cost less and teach most of what can be learned
    dropout: float = Field(0.0, ge=0, lt=1)


class Classifying(RecogniserTraining):
    """Telling the people of a data set apart; batch and epochs are the published ones."""

    epochs: int = Field(30, gt=0)
    sizes: tuple[int, ...] = (96, 128, SIDE)  # pixels, one after the other
    size_shares: tuple[float, ...] = (0.6, 0.2, 0.2)  # of the steps
    validation: int = Field(2, ge=1)  # training images of each person held out, to keep the best weights by

    def model_post_init(self, _: object) -> None:
        """Settings that contradict each other."""
        if len(self.sizes) != len(self.size_shares) or min(self.sizes) < 75 or self.sizes[-1] != SIDE:
            raise SettingError(f"sizes {self.sizes}: one share each, at least 75 pixels, the last {SIDE}")


# --- as texts ----------------------------------------------------------------------------------------


def parse_settings(model: type[Settings], pairs: list[str]) -> Settings:
    """``model`` with what ``pairs`` say, as in ``["batch=32", "sizes=96,160"]``.

    Raises ``SettingError``, at the pair, for a setting that does not exist or does not fit.
    """
    given: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or name not in model.model_fields:
            raise SettingError(f"expected name=value with a name of {', '.join(model.model_fields)}", pair)
        many = str(model.model_fields[name].annotation).startswith("tuple")
        given[name] = value.split(",") if many else value
    try:
        return model.model_validate(given)
    except ValidationError as error:
        place, what = first_problem(error)
        name = place.split(".")[0]
        last = next((pair for pair in reversed(pairs) if pair.partition("=")[0] == name), name)
        raise SettingError(what.lower(), last) from error
