"""Weight files: tensors on disk, and a card that names their SHA-256. What ships with the package lies in this folder.

    ddsa.safetensors    weights, fp16
    ddsa.card.json      what they are, where they come from, their limits

Weights are read without running code from them, compared with their card, and fill a network only if
every tensor fits. Whatever raises takes the kind of error to raise: that of the room which asks.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from facesieve.errors import FacesieveError, InputError, one_line
from facesieve.files import make_folder, sha256_of, sha256_of_file, write_atomic

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

Kind = type[FacesieveError]
Network = TypeVar("Network", bound="nn.Module")

FOLDER = Path(__file__).parent  # what ships with the package
AGAIN = "get it again"
CARD = "card.json"  # in a folder that holds one network


def shipped(name: str) -> Path:
    """The path of the weights of that name that ship with the package."""
    return FOLDER / f"{name}.safetensors"


# --- cards and hashes --------------------------------------------------------------------------------


def card_path(weights: Path) -> Path:
    """``ddsa.card.json`` for ``ddsa.safetensors``."""
    return weights.with_suffix(".card.json")


def read_card(weights: Path, kind: Kind = InputError) -> dict[str, Any]:
    """The card next to a file of weights. Raises ``kind`` if it cannot be read."""
    return read_json(card_path(weights), kind, "card")


def read_json(path: Path, kind: Kind = InputError, what: str = "JSON object") -> dict[str, Any]:
    """A JSON object from a UTF-8 file. Raises ``kind`` for one that cannot be read or holds anything else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise kind(f"cannot be read ({one_line(error)})", path, AGAIN) from error
    except (ValueError, RecursionError) as error:
        raise kind("not a readable JSON file", path, AGAIN) from error
    if not isinstance(content, dict):
        raise kind(f"not a {what}: it holds no JSON object", path, AGAIN)
    return content


def json_text(content: Mapping[str, Any]) -> bytes:
    """A card or a config as the bytes of its file."""
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


def file_hash(path: Path, kind: Kind = InputError) -> str:
    """The SHA-256 of a file, in hexadecimal. Raises ``kind`` if it cannot be read."""
    try:
        return sha256_of_file(path)
    except OSError as error:
        raise kind(f"cannot be read ({one_line(error)})", path, AGAIN) from error


def checked_hash(path: Path, card: Mapping[str, Any], kind: Kind = InputError) -> str:
    """The SHA-256 of a file of weights, which has to be the one that its card names. Raises ``kind``."""
    digest = file_hash(path, kind)
    if digest != card.get("sha256"):
        raise kind("not the weights that the card names by their SHA-256", path, "get weights and card again")
    return digest


def check_graph(path: Path, card: Mapping[str, Any], kind: Kind = InputError) -> None:
    """Raises ``kind`` for a graph whose SHA-256 is not the one that ``card`` names; it need not name one."""
    named = card.get("graphs", {}).get(path.name)
    if named is not None and file_hash(path, kind) != named:
        raise kind("not the graph that the card names by its SHA-256", path, "get graph and card again")


# --- reading -----------------------------------------------------------------------------------------


def read_state(path: Path, kind: Kind = InputError) -> dict[str, Tensor]:
    """The named tensors of a ``.safetensors`` file, or of a pickled one. Raises ``kind`` for anything else."""
    from torch import Tensor

    state = _read_safetensors(path, kind) if path.suffix == ".safetensors" else read_pickled(path, kind)
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise kind("holds more than named tensors", path)
    return unwrapped({str(name): value for name, value in state.items()})


def unwrapped(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state under its network's own names, where ``DataParallel`` put ``module.`` before each."""
    parallel = bool(state) and all(name.startswith("module.") for name in state)
    return {name.removeprefix("module.") if parallel else name: value for name, value in state.items()}


def _read_safetensors(path: Path, kind: Kind) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise kind("damaged, or not a safetensors file", path, AGAIN) from error


def read_pickled(path: Path, kind: Kind = InputError) -> object:
    """What a PyTorch checkpoint holds, on the CPU; code in it is never run. Raises ``kind`` if it cannot be read."""
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise kind(f"cannot be read ({one_line(error)})", path, AGAIN) from error
    except Exception as error:  # a damaged pickle can raise anything
        raise kind(
            "not a PyTorch file of tensors alone that can be opened safely "
            "(damaged, of another kind, or with code in it, which is not run)",
            path,
        ) from error


# --- networks ----------------------------------------------------------------------------------------


def load_network(
    build: Callable[[Mapping[str, Tensor]], Network],
    weights: Path,
    kind: Kind = InputError,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> tuple[Network, str]:
    """The network that ``build`` makes for these weights, frozen, in evaluation mode, float32; and their SHA-256.

    Raises ``kind`` for weights that are missing, damaged, not those that the card next to them names,
    or of another network.
    """
    import torch

    digest = checked_hash(weights, read_card(weights, kind), kind)
    state = read_state(weights, kind)
    try:
        network = empty(lambda: build(state))
    except (KeyError, IndexError) as error:  # what the size would be read from is not there
        raise kind("the weights are of another network", weights) from error
    fill(network, state, weights, kind, device=device, dtype=dtype or torch.float32)
    return network.eval().requires_grad_(False), digest


def empty(build: Callable[[], Network]) -> Network:
    """A network on the meta device: no time, no memory and no global random numbers for weights that are replaced."""
    import torch

    with torch.device("meta"):
        return build()


def fill(
    network: nn.Module,
    state: Mapping[str, Tensor],
    where: object,
    kind: Kind = InputError,
    *,
    what: str | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> None:
    """Give a network that is ``empty`` its weights: every one, each once, of its shape, finite.

    Floats become ``dtype``, or stay as they are. Raises ``kind``, with ``where`` the weights come from
    and ``what`` network was wanted.
    """
    import torch

    wanted = network.state_dict()
    # Batch normalisation's counters, which older files lack: nothing that is computed depends on them.
    counters = {name: torch.zeros((), dtype=value.dtype) for name, value in wanted.items() if name.endswith("batches_tracked")}
    state = {**counters, **state}
    check_fit(wanted, state, where, kind, what)
    with torch.inference_mode(False):  # weights made in inference mode could never carry an attack's gradient
        converted = {
            name: value.to(device, dtype if value.is_floating_point() else None, copy=value.is_inference())
            for name, value in state.items()
        }
        network.load_state_dict(converted, assign=True)
    if any(buffer.is_meta for buffer in network.buffers()):
        raise kind("the network has blocks with fixed filters, which are not supported", where)


def check_fit(wanted: Mapping[str, Tensor], state: Mapping[str, Tensor], where: object, kind: Kind, what: str | None) -> None:
    """Raises ``kind`` unless ``state`` has every tensor that is wanted, no other, each of its shape and finite."""
    differ = [name for name, value in wanted.items() if name in state and state[name].shape != value.shape]
    shapes = [f"{name} has shape {tuple(state[name].shape)}, not {tuple(wanted[name].shape)}" for name in differ[:1]]
    troubles = {
        "missing": _some([name for name in wanted if name not in state and not name.endswith("batches_tracked")]),
        "unknown": _some([name for name in state if name not in wanted]),
        "of another shape": _some(shapes + differ[1:], shown=1),
    }
    if any(troubles.values()):
        other = "another network" if what is None else f"another network, not {what}"
        listed = "; ".join(f"{trouble}: {names}" for trouble, names in troubles.items() if names)
        raise kind(f"the weights do not fit and are of {other}; {listed}", where)
    bad = [
        name
        for name, value in state.items()
        if value.is_floating_point() != wanted[name].is_floating_point() or not bool(value.float().isfinite().all())
    ]
    if bad:
        raise kind(f"weights that are not finite numbers, in {_some(bad)}", where, AGAIN)


def _some(names: list[str], shown: int = 3) -> str:
    rest = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + rest


def state_bytes(state: Mapping[str, Tensor]) -> bytes:
    """Names and numbers of a state, whatever their order: what a hash of it is made of."""
    return b"".join(name.encode() + state[name].cpu().contiguous().numpy().tobytes() for name in sorted(state))


def on(network: Network, device: torch.device) -> Network:
    """The network on that device; it stays there."""
    import torch

    with torch.inference_mode(False):
        return network.to(device)


# --- writing -----------------------------------------------------------------------------------------


def state_to_write(network: nn.Module, where: object, kind: Kind = InputError, *, dtype: torch.dtype) -> dict[str, Tensor]:
    """The weights of a network as they are written: on the CPU, floats in ``dtype``.

    Raises ``kind`` for weights that are not finite or too large for ``dtype``.
    """
    state = {
        name: value.detach().to("cpu", dtype if value.is_floating_point() else None).contiguous()
        for name, value in network.state_dict().items()
    }
    bad = [name for name, value in state.items() if not bool(value.isfinite().all())]
    if bad:
        raise kind(f"not written, weights are not finite or too large for {dtype}, in {_some(bad)}", where)
    return state


def save_weights(network: nn.Module, weights: Path, card: Mapping[str, Any], *, card_file: Path | None = None) -> None:
    """Write weights (fp16) and card, each atomically; the card's ``file``, ``sha256`` and ``parameters`` are filled in.

    The card lies next to the weights unless ``card_file`` says where. Raises ``InputError``.
    """
    import torch
    from safetensors.torch import save

    state = state_to_write(network, weights, dtype=torch.float16)
    data = save(state)
    filled = {"file": weights.name, "sha256": sha256_of(data), "parameters": sum(value.numel() for value in state.values())}
    make_folder(weights.parent)
    write_atomic(weights, data)
    write_atomic(card_file or card_path(weights), json_text({**card, **filled}))
