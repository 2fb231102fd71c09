"""Mix the weights of two priors that have the same beginning: the one of `balanced` between those that ship.

    python experiments/mix_priors.py ONE OTHER --share 0.5 -o FOLDER --summary TEXT

ONE and OTHER are folders or the names of priors that ship. A network and one that was trained on from it can be mixed weight by
weight, and what lies between is a network, too (Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022). The
mixture's card says what was mixed, and has the data and terms of both.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from facesieve.priors.embedded import EMBEDDED, embedded_prior_folder
from facesieve.priors.folder import load_prior, read_card, save_prior


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("one")
    parser.add_argument("other")
    parser.add_argument("--share", type=float, default=0.5, help="of the first")
    parser.add_argument("-o", "--output", type=Path, required=True, help="a new folder")
    parser.add_argument("--name", required=True)
    parser.add_argument("--what", required=True, help="what it is for")
    args = parser.parse_args()
    folders = [embedded_prior_folder(spec) if spec in EMBEDDED else Path(spec) for spec in (args.one, args.other)]
    priors, cards = [load_prior(folder) for folder in folders], [read_card(folder) for folder in folders]
    mixed = priors[0]
    theirs = priors[1].network.state_dict()
    with torch.no_grad():
        for name, weight in mixed.network.state_dict().items():
            weight.lerp_(theirs[name], 1 - args.share)
    if cards[0]["parts"] != cards[1]["parts"]:
        raise SystemExit("error: the two were trained on different data")
    shared = {key: cards[1][key] for key in ("data", "terms", "attribution", "parts", "limits")}
    card = {
        "name": args.name, "what": args.what, **shared,
        "mixed": [
            {"share": share, "name": card["name"], "sha256": card["sha256"]}
            for share, card in zip((args.share, round(1 - args.share, 6)), cards, strict=True)
        ],
        "history": "Not trained: the mean, weight by weight, of the two that it names, of which the second was trained from the "
        "same beginning as the first.",
    }  # fmt: skip
    save_prior(mixed, args.output, card=card)


if __name__ == "__main__":
    main()
