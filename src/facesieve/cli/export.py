"""The command `export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from facesieve.cli.options import PresetName, PriorFolder
from facesieve.cli.terminal import out, progress_bar
from facesieve.errors import InputError
from facesieve.files import check_folder
from facesieve.specs import DEFAULT_PRESET


def export(
    target: Annotated[Path, typer.Argument(help="The graph, a new .onnx file.")],
    preset: PresetName = DEFAULT_PRESET,
    prior: PriorFolder = None,
    embedder: Annotated[
        str | None, typer.Option(help="Export a recogniser in place of a preset: sface or dlib, aligned pixels of 0..255 in.")
    ] = None,
    quantise: Annotated[
        Path | None,
        typer.Option(help="Compute in 8 bits, with ranges from the faces in this folder and below: faster, a little less exact."),
    ] = None,
) -> None:
    """Write a quick preset, or a recogniser, as one ONNX graph for other programs and languages."""
    if target.suffix != ".onnx":
        raise InputError("a graph is an .onnx file", target, f"write {target.with_suffix('.onnx').name}")
    if target.exists():
        raise InputError("exists already", target, "choose another name, or move this one away")
    if not target.parent.is_dir():
        raise InputError("there is no such folder", target.parent, "make it first")
    check_folder(target.parent)
    if embedder is not None:
        if quantise is not None:
            raise InputError("only presets are computed in 8 bits", advice="leave --quantise out")
        from facesieve.recognition.export import export_embedder

        with progress_bar("exporting"):
            difference, sha256 = export_embedder(embedder, target)
        out.print(f"{target}: {embedder}, at most {difference:.1e} from PyTorch, sha256 {sha256[:16]}")
        return
    from facesieve.purify import chosen_preset

    if quantise is not None:
        from facesieve.runtime.quantise import export_in_8_bits

        with progress_bar("exporting"):
            made, other = export_in_8_bits(chosen_preset(preset), target, quantise, prior=prior), "fp32"
    else:
        from facesieve.runtime.export import export_preset

        with progress_bar("exporting"):
            made, other = export_preset(chosen_preset(preset), target, prior=prior), "PyTorch"
    distance = f"at most {made.difference:.1e} from {other}, cosine {made.cosine:.6f}"
    out.print(f"{target}: {preset}, {distance}, sha256 {made.sha256[:16]}")
