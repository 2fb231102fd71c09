"""Export the graphs that ship with the package, beside the weights that they take from there, and name them in the cards.

    python experiments/ship_graphs.py

To be run whenever weights that ship change; a test holds the graphs against PyTorch.
"""

from __future__ import annotations

import json
from pathlib import Path

from facesieve.files import sha256_of_file, write_atomic
from facesieve.priors.embedded import embedded_prior_folder
from facesieve.purify import PRESETS
from facesieve.recognition.export import export_embedder
from facesieve.recognition.sface import SFace
from facesieve.runtime.export import export_preset
from facesieve.weights import CARD, card_path, json_text, shipped


def name_in(card: Path, graph: Path) -> None:
    content = json.loads(card.read_text(encoding="utf-8"))
    content["graphs"] = {**content.get("graphs", {}), graph.name: sha256_of_file(graph)}
    write_atomic(card, json_text(content))


def main() -> None:
    for preset in PRESETS.values():
        if preset.evaluations == 1:
            folder = embedded_prior_folder(preset.prior)
            exported = export_preset(preset, folder / f"{preset.name}.onnx", linked=True)
            name_in(folder / CARD, exported.file)
            print(exported)
    weights = shipped(SFace.name)
    graph = weights.with_suffix(".onnx")
    print(graph, export_embedder("sface", graph, linked=True))
    name_in(card_path(weights), graph)


if __name__ == "__main__":
    main()
