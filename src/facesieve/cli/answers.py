"""Faces that were looked up: as JSON, as a table, and in a line what is wrong with one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from facesieve.cli.terminal import errors, out

if TYPE_CHECKING:
    from facesieve.identification import Identified


def plain(face: Identified) -> dict[str, object]:
    """A face, for JSON."""
    return {
        "box": list(map(float, face.face.box)),
        "quality": None if face.quality is None else face.quality.as_dict(),
        "person": face.person,
        "threshold": face.threshold,
        "threshold_from": face.origin,
        "templates": face.templates,
        "matches": [{"person": match.person, "score": match.score} for match in face.matches],
        "unshielded": None if face.unshielded is None else {"person": face.unshielded.person, "score": face.unshielded.score},
        "shield_change": face.change,
        "tamper_score": face.tamper,
        "disagreement": None if face.tampering is None else face.tampering.disagreement,
        "tampered": None if face.tampering is None else face.tampering.tampered,
        "refused": face.refused,
    }


def print_faces(results: dict[str, list[Identified]], shield: str) -> None:
    """A row a face."""
    shielded = shield != "none"
    table = Table(
        "photograph", "face", "name", "best matches", *(["without the shield", "changed by", "tamper score"] if shielded else [])
    )
    for path, faces in results.items():
        for number, face in enumerate(faces, 1):
            matches = "\n".join(f"{match.score:.3f} {match.person}" for match in face.matches)
            row = [path, str(number), _name(face), matches]
            if shielded:
                alone = "-" if face.unshielded is None else f"{face.unshielded.score:.3f} {face.unshielded.person}"
                row += [alone, f"{255 * (face.change or 0):.1f}/255", _tamper(face)]
            table.add_row(*row)
    Console(highlight=False, markup=False, width=None if out.is_terminal else 140).print(table)


def _tamper(face: Identified) -> str:
    found = face.tampering
    return "-" if found is None else f"{found.change:.2f}" + ", tampered" * bool(found.tampered)


def _name(face: Identified) -> str:
    if face.refused is not None:
        return "refused"
    if face.threshold is None:
        return f"{face.matches[0].person}?"
    return face.person or "unknown"


def tampered_lines(results: dict[str, list[Identified]]) -> list[str]:
    """A line for each face that is refused; those that only look tampered with are said at once."""
    refused = []
    for path, faces in results.items():
        for number, face in enumerate(faces, 1):
            where = f"{path}, face {number}"
            if face.refused is not None:
                refused.append(f"{where}: refused: {face.refused}")
            elif face.tampering is not None and face.tampering.tampered:
                errors.print(f"  {where}: {face.tampering.reason}")
    return refused
