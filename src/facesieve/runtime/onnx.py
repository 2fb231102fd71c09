"""The runtimes of graphs: a quick preset on ONNX Runtime, with NumPy around it. They need no PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from facesieve.errors import PriorError, SettingError, one_line
from facesieve.faces import Crops
from facesieve.files import sha256_of_file
from facesieve.machine import keep, kept, processor
from facesieve.noise import derive_seed, seeded_draws
from facesieve.priors.embedded import embedded_prior_folder
from facesieve.progress import Progress, Report, silent
from facesieve.runtime.card import PurifierCard
from facesieve.runtime.known_answer import is_known, question
from facesieve.runtime.protocol import RUNTIMES, check
from facesieve.runtime.trace import Trace, TraceStep
from facesieve.weights import CARD, check_graph, checked_hash, read_json
from facesieve.weights.graphs import CPU, Session, metadata_of, onnx_runtime

if TYPE_CHECKING:
    from facesieve.purify import Preset
    from facesieve.runtime.torch import TorchRuntime

FASTEST_FIRST = ("TensorrtExecutionProvider", "CUDAExecutionProvider", CPU)

Run = Callable[[Crops, Crops], tuple[Crops, Crops]]  # crops and unit noise to purified and observed crops


class Engine(NamedTuple):
    """What can run a graph."""

    place: str  # where it runs
    dtype: str  # its number format
    opened: Callable[[], Run]  # opens the graph there
    stamp: str = ""  # what else its answer depends on, where the same file always gives the same there; "" asks each time


@dataclass(frozen=True, eq=False)
class GraphRuntime:
    """A graph that is open. ``load`` makes one."""

    card: PurifierCard
    preset: Preset
    prior: Path | None  # the folder of another prior than the preset's own
    device: str  # as it was asked for, and the precision: what the same purifier on PyTorch gets
    precision: str
    step: str  # the name of its one stage
    caption: str  # of what the stage starts from
    _run: Run = field(repr=False)

    def purify(self, crops: Crops, seeds: Sequence[int], report: Report = silent) -> Trace:
        """As ``Runtime.purify``."""
        check(crops, seeds, self.card.size)
        report(Progress(0, 1))
        purified, observed = self._run(*_inputs(crops, [derive_seed(seed, 0) for seed in seeds]))
        return Trace((TraceStep(self.step, purified, observed, self.caption),))

    def in_torch(self) -> TorchRuntime:
        """The same purifier on PyTorch, where it has gradients. Raises ``MissingExtraError`` without PyTorch."""
        from facesieve.runtime.torch import load

        return load(self.preset, prior=self.prior, device=self.device, precision=self.precision)


def _inputs(crops: Crops, seeds: Sequence[int]) -> tuple[Crops, Crops]:
    noise = seeded_draws(seeds, crops.shape[1:])().astype(np.float32)
    return np.ascontiguousarray(crops, np.float32), noise


def graph_of(preset: Preset, prior: Path | str | None) -> Path:
    """Where the graph of a preset lies: beside its prior, or in the folder ``prior``; or ``prior`` itself, an ``.onnx`` file."""
    if prior is not None and Path(prior).suffix == ".onnx":
        return Path(prior)
    return (embedded_prior_folder(preset.prior) if prior is None else Path(prior)) / f"{preset.name}.onnx"


def graph_runtime(
    preset: Preset, engines: Callable[[Path], Sequence[Engine]], *, prior: Path | str | None, device: str, precision: str
) -> GraphRuntime:
    """The graph of a preset, checked against its metadata and its prior's card, on the first engine that knows its answer.

    Raises ``PriorError`` for a graph that is missing, damaged or of another prior, ``SettingError`` for one of other settings.
    """
    file = graph_of(preset, prior)
    if not file.is_file():
        raise PriorError(
            f"there is no graph of preset {preset.name!r}", file, "export it (`facesieve export`), or take the runtime torch"
        )
    about = _about(file)
    if about["preset"]["restorations"] != preset.as_dict()["restorations"]:
        raise SettingError(
            f"the graph does {preset.name!r} with other settings", file, "export it anew, or take the runtime torch"
        )
    hashes = _check_prior(file, about) if (file.parent / CARD).is_file() else ""
    run, dtype, ran_on = _checked(file, engines(file), about, hashes)
    card = PurifierCard(preset.as_dict(), about["size"], about["prior_sha256"], dtype, ran_on)
    folder = None if prior is None else file.parent
    return GraphRuntime(card, preset, folder, device, precision, about["step"], about["caption"], run)


def _about(file: Path) -> Mapping[str, Any]:
    """The metadata that ``export_preset`` wrote."""
    try:
        about = metadata_of(file.read_bytes())
    except OSError as error:
        raise PriorError(f"cannot be read ({one_line(error)})", file) from error
    missing = {"preset", "size", "prior_sha256", "step", "caption", "answer"} - about.keys()
    if missing or about.get("format") != 1:
        raise PriorError("not a graph of a preset, or one of another version", file, "export it with this version")
    return about


def _check_prior(file: Path, about: Mapping[str, Any]) -> str:
    """The hashes of the graph and of the weights that it may take from beside it, which are those of the card."""
    card = read_json(file.parent / CARD, PriorError, "card")
    check_graph(file, card, PriorError)
    if card.get("sha256") != about["prior_sha256"]:
        raise PriorError("the graph is of another prior than the one beside it", file, "export it again")
    weights = [checked_hash(each, card, PriorError) for each in sorted(file.parent.glob("*.safetensors"))]
    return ", ".join([sha256_of_file(file), *weights])


def _checked(file: Path, engines: Sequence[Engine], about: Mapping[str, Any], hashes: str) -> tuple[Run, str, str]:
    """The first engine that knows the graph's answer, its number format, and where it runs, in words.

    With the same ``hashes`` of everything that it reads, an engine with a stamp is asked once on a machine.
    """
    wrong: list[str] = []
    for place, dtype, opened, stamp in engines:
        try:
            run = opened()
            knows = _knows(run, about, f"{stamp}, {hashes}" if stamp and hashes else "")
        except Exception as error:  # an accelerator that cannot run it; their exceptions have no common base
            wrong.append(f"{place} failed: {one_line(error, limit=80)}")
            continue
        if knows:
            inside = about.get("arithmetic", dtype)
            short = {"float32": "fp32", "bfloat16": "bf16"}.get(inside, inside)
            return run, inside, f"{place} {short}" + (f" ({'; '.join(wrong)})" if wrong else "")
        wrong.append(f"{place} gave a wrong answer to a known question")
    raise PriorError(f"cannot be used: {'; '.join(wrong)}", file, "export it again, or take the runtime torch")


def _knows(run: Run, about: Mapping[str, Any], key: str) -> bool:
    """Whether the engine knows the graph's answer. Under a ``key`` that is right once is right again: it is asked once."""
    if key and key in kept("answers"):
        return True
    knows = is_known(run(*question(about["size"]))[0], about["answer"])
    if knows and key:
        keep("answers", key, 1)
    return knows


# --- ONNX Runtime -----------------------------------------------------------------------------------


def load(preset: Preset, *, prior: Path | str | None, device: str, precision: str) -> GraphRuntime:
    """As ``graph_runtime``, on ONNX Runtime. Raises ``SettingError``, too, for what ONNX Runtime does not offer here."""
    if precision not in ("auto", "fp32"):
        raise SettingError(f"the runtime onnx has no precision {precision!r}", advice="'fp32' and 'auto' it has")
    providers = providers_of(device)
    if not providers:
        raise SettingError(f"device {device!r} cannot be used by ONNX Runtime here", advice="'cpu' always can")

    def engine(file: Path, provider: str) -> Engine:
        stamp = f"{processor()}, onnxruntime {onnx_runtime('the runtime onnx').__version__}" if provider == CPU else ""
        return Engine(f"onnx {provider.removesuffix('ExecutionProvider')}", "float32", lambda: _opened(file, provider), stamp)

    return graph_runtime(
        preset, lambda file: [engine(file, each) for each in providers], prior=prior, device=device, precision=precision
    )


def providers_of(device: str) -> list[str]:
    """ONNX Runtime's execution providers for a device, the fastest first; none where it does not offer the device here."""
    there = onnx_runtime("the runtime onnx").get_available_providers()
    wanted = {"auto": FASTEST_FIRST, "cpu": (CPU,), "cuda": FASTEST_FIRST[:2]}.get(device.partition(":")[0], ())
    return [name for name in wanted if name in there]


@dataclass(frozen=True, eq=False)
class _Opened:
    """A graph on ONNX Runtime, as ``Run``."""

    session: Session

    def __call__(self, crops: Crops, noise: Crops) -> tuple[Crops, Crops]:
        purified, observed = self.session.run(["purified", "observed"], {"crops": crops, "noise": noise})
        return purified, observed


def _opened(file: Path, provider: str) -> Run:
    return _Opened(Session(file, [provider], feature="the runtime onnx", beside=file.parent))


RUNTIMES.register("onnx", load)
