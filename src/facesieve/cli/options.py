"""What commands share: options, and how they open what they need."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from facesieve.cli.terminal import errors
from facesieve.errors import InputError
from facesieve.limits import cosine
from facesieve.specs import EMBEDDER, RUNTIME

if TYPE_CHECKING:
    from facesieve.galleries.base import Gallery
    from facesieve.identification import Given, Identifier
    from facesieve.images import Encoding
    from facesieve.shield import Shield
    from facesieve.tamper_policy import TamperPolicy

PRESET = "A preset (see `facesieve presets`), or a profile of `facesieve choose-scale`"
PresetName = Annotated[str, typer.Option("--preset", "--shield", help=f"{PRESET}.")]
Scale = Annotated[int | None, typer.Option(help="Resolution scale: 2, 4 or 8.")]
Seed = Annotated[int | None, typer.Option(help="Makes results repeatable; leave it out where an attacker might guess it.")]
Precision = Annotated[str, typer.Option(help="auto, fp32 or bf16.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
RuntimeName = Annotated[str, typer.Option("--runtime", help=f"What runs the network: {RUNTIME}.")]
AsJson = Annotated[bool, typer.Option("--json", help="As JSON.")]

Location = Annotated[
    str, typer.Option("--gallery", envvar="FACESIEVE_GALLERY", help="A gallery's folder, or postgresql://user@host/database.")
]
Embedding = Annotated[str, typer.Option("--embedder", help=f"The recogniser: {EMBEDDER}.")]
ShieldName = Annotated[
    str, typer.Option("--shield", "--preset", help=f"What is in front of the recogniser: none, or as in purify. {PRESET}.")
]
Threshold = Annotated[
    str | None,
    typer.Option(
        help="Cosine below which nobody is named, or none to see the nearest whatever it is; without it what the gallery was "
        "calibrated to, or the recogniser's default for this shield.",
        metavar="COSINE|none",
    ),
]

OnTampering = Annotated[
    str,
    typer.Option("--on-tamper", help="A face that looks tampered with: purify (as every other), flag (and say so) or refuse."),
]
ByScore = Annotated[
    str,
    typer.Option(
        "--tamper-score", help="By what: change, how far the shield moved it; disagreement of two recognisers; or both."
    ),
]
TamperLimit = Annotated[
    str | None,
    typer.Option(
        "--tamper-threshold",
        help="Score above which a face looks tampered with; two with a comma for both. The default for this recogniser and "
        "preset, at 1 % of false alarms, if not given.",
        metavar="SCORE",
    ),
]

# Of `purify`.
Inputs = Annotated[
    list[str],
    typer.Argument(help="Photographs and folders of photographs, or one clip; - reads a photograph from standard input."),
]
Results = Annotated[str, typer.Option("-o", "--output", help="Folder for the results; - writes the picture to standard output.")]
Steps = Annotated[
    int | None, typer.Option(help="Evaluations of the prior in each restoration, times its samples where it averages.")
]
Eta = Annotated[float | None, typer.Option(help="Share of fresh noise in each step, 0 to 1.")]
SigmaY = Annotated[float | None, typer.Option(help="Noise level assumed in the photograph, for images in [-1, 1].")]
Aligned = Annotated[bool, typer.Option("--aligned", help="The inputs are already aligned face crops.")]
Paste = Annotated[bool, typer.Option("--paste/--no-paste", help="Put faces back into the photo, or write the aligned crops.")]
FinishName = Annotated[
    str,
    typer.Option(
        "--face",
        help="secure: a face is only what the purifier made. detail: for people, with fine detail from the photograph, and so "
        "with an attacker's fine perturbation; never put it before a recogniser.",
    ),
]
Grid = Annotated[bool, typer.Option("--grid", help="Also write grid.png: each face, each stage, the amplified difference.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Remake results that already exist.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Faces that are purified together, across photographs.")]
PriorFolder = Annotated[Path | None, typer.Option(help="Folder of another prior.")]
ImageColumn = Annotated[
    str | None, typer.Option(help="Of shards: the column, or the suffix of the members, that holds the images.")
]
OnFailure = Annotated[
    str | None,
    typer.Option(help="Of shards: drop a photograph that cannot be purified (the default), or keep it as it was."),
]
ResultFormat = Annotated[str | None, typer.Option("--format", help="Of results: png (the default), jpeg or webp.")]
Quality = Annotated[int | None, typer.Option(help="Of results in jpeg or webp, 1 to 100; 95 if not given.")]
KeepExif = Annotated[bool, typer.Option("--keep-exif", help="Keep the dates in a photograph's EXIF, and say upright.")]
Tamper = Annotated[
    bool, typer.Option("--tamper", help="Each face's tamper score in its record: how far the shield moved it for SFace.")
]
MaxPixels = Annotated[int, typer.Option(help="The largest photograph that is read; a side may have 32,768 pixels.")]
Strict = Annotated[
    bool,
    typer.Option("--strict", help="Exit code 1 also where there may be a face that was not found for certain, nor purified."),
]
ShardFormats = Annotated[
    list[str] | None,
    typer.Option(
        "--shard-format", help="A further format of shards, as .suffix=package.module:object. It is code that will run."
    ),
]
Cluster = Annotated[
    str | None, typer.Option(help="Purify on a Ray cluster: its address, auto for the one running here, or local.")
]
Workers = Annotated[int | None, typer.Option(min=1, help="Workers on the cluster; as many as fit if not given.")]

# Of `data select`.
DataSource = Annotated[
    Path,
    typer.Argument(help="A folder with one folder per person, train.rec with train.idx, or a saved Hugging Face data set."),
]
LabelColumn = Annotated[
    str | None, typer.Option("--label", help="The column of a Hugging Face data set that says who is shown.", metavar="COLUMN")
]
ManifestFile = Annotated[Path, typer.Option("-o", "--output", help="The manifest, a .json file.")]
SelectionFile = Annotated[Path | None, typer.Option(help="A TOML file with a [data] table, as in experiments/.")]
Minimum = Annotated[int | None, typer.Option(help="Images that a person must have.")]
People = Annotated[int | None, typer.Option(help="How many people, at random.")]
TrainImages = Annotated[int | None, typer.Option(help="Training images of each person.")]
TestImages = Annotated[int | None, typer.Option(help="Test images of each person.")]
SelectionSeed = Annotated[int | None, typer.Option(help="The same seed makes the same choice.")]
AlignedData = Annotated[bool | None, typer.Option(help="The images are already aligned face crops.")]
Beyond = Annotated[
    Path | None,
    typer.Option(help="A manifest: its people, and in place of its test images the next of each, to choose settings on."),
]


def load_identifier(
    embedder: str,
    shield: str,
    scale: int | None = None,
    runtime: str = "auto",
    prior: Path | None = None,
    policy: TamperPolicy | None = None,
) -> tuple[Identifier, Shield | None]:
    """The embedder's identifier, and the shield of that name that faces go through; ``none`` for no shield.

    Raises ``SettingError`` for a policy without a threshold, or without a shield.
    """
    from facesieve.identification import Identifier
    from facesieve.recognition.embedders import load_embedder, second_beside
    from facesieve.tamper_policy import PURIFY

    loaded, policy = load_embedder(embedder, gradients=False), policy or PURIFY
    second = second_beside(loaded, policy)
    if shield == "none":
        return Identifier(loaded, policy=policy, second=second), None
    from facesieve.purify import chosen_preset
    from facesieve.shield import load_shield

    front = load_shield(chosen_preset(shield).changed(scale=scale), prior=prior, runtime=runtime)
    return Identifier(loaded, front.card.label, policy, second), front


def policy_of(on_tamper: str, score: str, threshold: str | None) -> TamperPolicy:
    """What ``--on-tamper`` and its like say. Raises ``SettingError`` for what they do not know."""
    from facesieve.tamper_policy import TamperPolicy

    return TamperPolicy(on_tamper, score, threshold)  # type: ignore[arg-type]


def threshold_of(text: str | None) -> Given:
    """What ``--threshold`` says. Raises ``SettingError`` for what is neither none nor a cosine."""
    if text is None:
        return None
    if text == "none":
        return "none"
    try:
        return cosine(float(text), "--threshold")
    except ValueError:
        return cosine(text, "--threshold")


@contextmanager
def opened(location: str, identifier: Identifier | None = None, *, create: bool = False) -> Iterator[Gallery]:
    """The gallery, closed afterwards; with ``create`` it is made if there is none."""
    from facesieve.galleries import create_gallery, open_gallery

    if create and identifier is not None:
        gallery = create_gallery(location, embedder=identifier.embedder.name, dimensions=identifier.embedder.dimensions)
    else:
        gallery = open_gallery(location)
    try:
        if identifier is not None:
            identifier.check(gallery)
        yield gallery
    finally:
        gallery.close()


def everyone_in(person: str, photos: list[Path], folders: bool) -> dict[str, list[Path]]:
    """Photographs by person: those of one person, or with ``folders`` of everyone who has a folder in ``person``."""
    if not folders:
        if not photos:
            raise InputError(f"no photographs of {person}: facesieve enrol {person!r} PHOTO... (or --folders with a folder)")
        from facesieve.galleries.checks import new_name

        return {new_name(person): photos}
    if photos:
        raise InputError("--folders takes one folder; everything in it is enrolled under its folders' names")
    from facesieve.folders import Passed, below, folders_in, passed_over

    if not Path(person).is_dir():
        raise InputError("no such folder", person)
    found = {folder.name: below(folder) for folder in folders_in(Path(person))}
    if not found:
        raise InputError("no folders in it; --folders expects one folder a person", person)
    passed = Passed()
    for each in found.values():
        passed.include(each.passed)
    if passed:
        errors.print(f"passed over in {person}: {passed_over(passed)}")
    # What cannot be taken is in it, too: reading it says why.
    return {name: [path for path, *_ in one.files] + [path for path, *_ in one.troubles] for name, one in found.items()}


def nobodys(folder: Path) -> list[str]:
    """A line for each photograph that lies beside the people's folders, and so is nobody's."""
    from facesieve.folders import images_in

    return [f"{path}: left out: it lies in no person's folder" for path in images_in(folder)]


def encoding_of(format: str | None, quality: int | None, keep_exif: bool, output: Path) -> Encoding:
    """How results are written: as the format says, or the name of the one result. Raises ``InputError`` where both disagree."""
    from facesieve.images import Encoding
    from facesieve.images.writing import FORMATS, SUFFIXES
    from facesieve.jobs.plan import names_a_file

    if format is not None and "=" in format:
        raise InputError("a format of shards is given by --shard-format", f"--format {format}")
    named = FORMATS.get(output.suffix.lower()) if names_a_file(output) else format or "png"
    if named is None or format not in {None, named}:
        wanted = SUFFIXES.get(format or "png", ".png")
        raise InputError(
            f"a result cannot be written as {format or output.suffix}", f"-o {output}", f"name it {output.stem}{wanted}"
        )
    return Encoding(named, quality, keep_exif)  # type: ignore[arg-type]
