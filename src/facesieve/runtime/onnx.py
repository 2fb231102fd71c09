"""The runtime on ONNX Runtime: a quick preset as one graph, with NumPy around it. It needs no PyTorch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from facesieve.errors import PriorError, SettingError, one_line
from facesieve.faces import Crops
from facesieve.noise import derive_seed, seeded_draws
from facesieve.priors.embedded import embedded_prior_folder
from facesieve.progress import Progress, Report, silent
from facesieve.runtime.card import PurifierCard
from facesieve.runtime.known_answer import CROPS, SEEDS, is_known, smooth_crops
from facesieve.runtime.protocol import RUNTIMES
from facesieve.runtime.trace import Trace, TraceStep
from facesieve.weights import check_graph, checked_hash, read_json
from facesieve.weights.graphs import CPU, METADATA, onnx_runtime, open_session

if TYPE_CHECKING:
    from facesieve.purify import Preset
    from facesieve.runtime.torch import TorchRuntime

FASTEST_FIRST = ("TensorrtExecutionProvider", "CUDAExecutionProvider", CPU)


@dataclass(frozen=True, eq=False)
class OnnxRuntime:
    """A graph that is open. ``load`` makes one."""

    card: PurifierCard
    preset: Preset
    prior: Path | None  # the folder of another prior than the preset's own
    step: str  # the name of its one stage
    caption: str  # of what the stage starts from
    _session: Any = field(repr=False)

    def purify(self, crops: Crops, seeds: Sequence[int], report: Report = silent) -> Trace:
        """As ``Runtime.purify``. Raises ``SettingError`` for crops of another shape, or not a seed for each."""
        size = self.card.size
        if crops.shape[1:] != (3, size, size) or len(seeds) != len(crops):
            raise SettingError(f"{len(seeds)} seeds for crops of shape {crops.shape}: one a (3, {size}, {size}) crop is needed")
        report(Progress(0, 1))
        noise = seeded_draws([derive_seed(seed, 0) for seed in seeds], (3, size, size))()
        return Trace((TraceStep(self.step, *_run(self._session, crops, noise), self.caption),))

    def in_torch(self) -> TorchRuntime:
        """The same purifier on PyTorch, where it has gradients. Raises ``MissingExtraError`` without PyTorch."""
        from facesieve.runtime.torch import load_runtime

        return load_runtime(self.preset, prior=self.prior)


def _run(session: Any, crops: Crops, noise: Any) -> tuple[Crops, Crops]:
    feed = {"crops": np.ascontiguousarray(crops, np.float32), "noise": noise.astype(np.float32)}
    purified, observed = session.run(["purified", "observed"], feed)
    return purified, observed


def graph_of(preset: Preset, prior: Path | str | None) -> Path:
    """Where the graph of a preset lies: beside its prior, or in the folder ``prior``; or ``prior`` itself, an ``.onnx`` file."""
    if prior is not None and Path(prior).suffix == ".onnx":
        return Path(prior)
    return (embedded_prior_folder(preset.prior) if prior is None else Path(prior)) / f"{preset.name}.onnx"


def load(preset: Preset, *, prior: Path | str | None, device: str, precision: str) -> OnnxRuntime:
    """The graph of a preset, checked against its metadata, its prior's card and its known answer.

    Raises ``PriorError`` for a graph that is missing, damaged or of another prior, ``SettingError`` for one of other
    settings and for a device or precision that this runtime does not have.
    """
    if precision not in ("auto", "fp32"):
        raise SettingError(f"the runtime onnx has no precision {precision!r}", advice="'fp32' and 'auto' it has")
    file = graph_of(preset, prior)
    if not file.is_file():
        raise PriorError(
            f"there is no graph of preset {preset.name!r}", file, "export it (`facesieve export`), or take the runtime torch"
        )
    session, providers = _opened(file, device)
    about = _about(session, file)
    if about["preset"]["restorations"] != preset.as_dict()["restorations"]:
        raise SettingError(
            f"the graph does {preset.name!r} with other settings", file, "export it anew, or take the runtime torch"
        )
    if (file.parent / "card.json").is_file():
        _check_prior(file, about)
    session, ran_on = _checked(session, providers, about, file)
    card = PurifierCard(preset.as_dict(), about["size"], about["prior_sha256"], "float32", ran_on)
    folder = None if prior is None else file.parent if Path(prior).suffix == ".onnx" else Path(prior)
    return OnnxRuntime(card, preset, folder, about["step"], about["caption"], session)


def _opened(file: Path, device: str) -> tuple[Any, list[str]]:
    providers = providers_of(device)
    if not providers:
        raise SettingError(f"device {device!r} cannot be used by ONNX Runtime here", advice="'cpu' always can")
    return _session(file, providers), providers


def providers_of(device: str) -> list[str]:
    """ONNX Runtime's execution providers for a device, the fastest first; none where it does not offer the device here."""
    there = onnx_runtime("the runtime onnx").get_available_providers()
    wanted = {"auto": FASTEST_FIRST, "cpu": (CPU,), "cuda": FASTEST_FIRST[:2]}.get(device.partition(":")[0], ())
    return [name for name in wanted if name in there]


def _session(file: Path, providers: Sequence[str]) -> Any:
    try:
        return open_session(file.read_bytes(), providers, feature="the runtime onnx", beside=file.parent)
    except Exception as error:  # ONNX Runtime's exceptions have no common base
        raise PriorError(f"ONNX Runtime cannot open it ({one_line(error)})", file, "export it again") from error


def _about(session: Any, file: Path) -> dict[str, Any]:
    """The metadata that ``export_preset`` wrote."""
    try:
        about = json.loads(session.get_modelmeta().custom_metadata_map[METADATA])
        missing = {"preset", "size", "prior_sha256", "step", "caption", "answer"} - about.keys()
    except (KeyError, ValueError, AttributeError):
        missing = {"metadata"}
    if missing or about.get("format") != 1:
        raise PriorError("not a graph of a preset, or one of another version", file, "export it with this version")
    return dict(about)


def _check_prior(file: Path, about: dict[str, Any]) -> None:
    """The graph, and the weights that it may take from beside it, are those of the card."""
    card = read_json(file.parent / "card.json", PriorError, "card")
    check_graph(file, card, PriorError)
    if card.get("sha256") != about["prior_sha256"]:
        raise PriorError("the graph is of another prior than the one beside it", file, "export it again")
    for weights in file.parent.glob("*.safetensors"):
        checked_hash(weights, card, PriorError)


def _checked(session: Any, providers: Sequence[str], about: dict[str, Any], file: Path) -> tuple[Any, str]:
    """A session that knows the answer, and in words where it runs: this one, or one on the processor where this one is wrong."""
    size = about["size"]
    question = smooth_crops(CROPS, size), seeded_draws(SEEDS, (3, size, size))()

    def knows(session: Any) -> bool:
        try:
            return is_known(_run(session, *question)[0], about["answer"])
        except Exception:  # an accelerator that cannot run it at all
            return False

    if knows(session):
        return session, f"onnx {session.get_providers()[0].removesuffix('ExecutionProvider')} fp32"
    if providers[0] != CPU:
        plain = _session(file, [CPU])
        if knows(plain):
            return (
                plain,
                f"onnx CPU fp32 ({providers[0].removesuffix('ExecutionProvider')} gave a wrong answer to a known question)",
            )
    raise PriorError("gives a wrong answer to a known question: the file is damaged, or ONNX Runtime is", file, "export it again")


RUNTIMES.register("onnx", load)
