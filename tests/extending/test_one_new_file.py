"""Everything that a file can add is added by one new file, and works without an edit elsewhere."""

import json
import re
from importlib import import_module
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from diffusers import UNet2DModel

from facesieve.cli.app import main
from facesieve.errors import GalleryError, InputError, PriorError, SettingError
from facesieve.galleries import create_gallery, open_gallery
from facesieve.galleries.base import RAW, Calibration
from facesieve.identification import CROP, Identifier
from facesieve.images import read_photo
from facesieve.pictures import columns
from facesieve.priors.folder import read_card
from facesieve.priors.importing import import_prior
from facesieve.progress import Progress
from facesieve.purify import preset
from facesieve.recognition.embedders import load_embedder
from facesieve.report.record import load_record
from facesieve.runtime import RUNTIMES
from facesieve.service.run import shield_of
from facesieve.service.settings import Settings
from facesieve.shield import load_shield
from facesieve.specs import DEFAULT_PRESET
from make_people import pictures, write_folders

SOURCE = Path(import_module("facesieve").__file__).parent
ADDED = {  # registry: where it is, what the new file adds
    "ATTACKS": ("facesieve.attacks", "stripes"),
    "DEFENCES": ("facesieve.defences", "dither"),
    "EMBEDDERS": ("facesieve.recognition.embedders", "colours"),
    "FAMILIES": ("facesieve.priors.families", "another"),
    "FORMATS": ("facesieve.jobs.formats", ".zip"),
    "GALLERIES": ("facesieve.galleries", "memory"),
    "MEASURES": ("facesieve.evaluate.measures", "worst person"),
    "PAGES": ("facesieve.report.pages", "plain.txt"),
    "RUNTIMES": ("facesieve.runtime", "blocks"),
}
ELSEWHERE = {  # what has no room of its own is named as module:object
    "OBJECTIVES": ("facesieve.attacks.objectives", "lowest_score:LowestScore"),
    "OPERATORS": ("facesieve.operators", "column_mean:ColumnMean"),
}


def registry_of(name):
    return getattr(import_module((ADDED | ELSEWHERE)[name][0]), name)


def test_every_registry_has_its_exercise():
    found = [name for path in SOURCE.rglob("*.py") for name in re.findall(r"^([A-Z]+): Registry\[", path.read_text(), re.M)]
    assert sorted(found) == sorted(ADDED | ELSEWHERE)


@pytest.mark.parametrize("name", ADDED)
def test_a_file_in_the_room_is_found_when_the_registry_is_asked(name, added):
    registry, entry = registry_of(name), ADDED[name][1]
    with pytest.raises(SettingError, match="there are"):
        registry[entry]
    module = added(registry)
    assert entry in registry
    assert import_module(module).__file__.startswith(str(Path(__file__).parent))


@pytest.mark.parametrize("name", ADDED)
def test_a_file_of_the_users_own_is_found_when_the_environment_names_it(name, extension):
    """Also where no option takes a dotted name."""
    registry, entry = registry_of(name), ADDED[name][1]
    extension(registry)
    assert entry in registry


def test_an_extension_that_cannot_be_imported_is_a_line(extension, monkeypatch):
    extension(RUNTIMES)
    monkeypatch.setenv("FACESIEVE_EXTENSIONS", "blocks, nowhere")
    for _ in range(2):
        with pytest.raises(SettingError, match=r"^FACESIEVE_EXTENSIONS: nowhere cannot be imported"):
            load_shield("robust", runtime="blocks")


@pytest.mark.parametrize("name", ELSEWHERE)
def test_what_lies_elsewhere_is_loaded_by_its_dotted_name_and_never_looked_up_by_it(name, elsewhere):
    registry, spec = registry_of(name), ELSEWHERE[name][1]
    assert registry.load(spec).__name__ == spec.partition(":")[2]
    with pytest.raises(SettingError, match="unknown"):
        registry[spec]


# --- an operator, by a profile ---------------------------------------------------------------------


@pytest.fixture
def profile(tmp_path, elsewhere):
    path = tmp_path / "profile.toml"
    path.write_text('preset = "robust"\n[settings]\noperator = "column_mean:ColumnMean"\nsamples = 1\n')
    return path


def test_an_operator(profile, tmp_path, sample_paths, facesieve):
    shield = load_shield(str(profile))
    assert shield.card.label != load_shield("robust").card.label
    before = shield.cut(read_photo(sample_paths[0]))
    titles = [column.title for column in columns(before.crops, shield.runtime.purify(before.crops, before.seeds(1)))]
    assert titles == ["input", "mean of 2 pixels of a column", "restoration", "difference x 8"]
    done = facesieve("purify", sample_paths[0], "-o", tmp_path / "out", "--preset", profile, "--scale", 4)
    assert done.code == 0, done.err
    (sidecar,) = (tmp_path / "out").glob("*.json")
    (restoration,) = json.loads(sidecar.read_text())["made_from"]["preset"]["restorations"]
    assert restoration["operator"] == "mean of 4 pixels of a column"


# --- what an experiment names: attack, objective, defence, recogniser, measure; and a page ---------


@pytest.fixture(scope="module")
def source(sample_paths, tmp_path_factory):
    root = tmp_path_factory.mktemp("people") / "source"
    write_folders(root, pictures(sample_paths, 5))
    return root


EXPERIMENT = """
[data]
minimum = 5
people = 4
train = 3
test = 2

[recogniser]
embedder = "colours"
templates = 3

[[attacks]]
method = "stripes"
eps = 24
iterations = 30
objective = "lowest_score:LowestScore"

[[defences]]
baseline = "dither"
settings = { levels = 4 }

[run]
measures = ["worst person"]
"""


def test_what_an_experiment_names_and_a_page_of_its_report(added, elsewhere, source, tmp_path, facesieve):
    for name in ("ATTACKS", "DEFENCES", "EMBEDDERS", "MEASURES", "PAGES"):
        added(registry_of(name))
    (tmp_path / "experiment.toml").write_text(EXPERIMENT)
    done = facesieve("evaluate", tmp_path / "experiment.toml", "--source", source, "-o", tmp_path / "run")
    assert done.code == 0, done.err
    record = load_record(tmp_path / "run")
    assert [attack.method for attack in record.attacks] == ["stripes"]
    assert [(defence.baseline, defence.draws_noise) for defence in record.defences] == [("dither", True)]
    assert record.environment["recogniser"].startswith("colours")
    clean, attacked = (record.cell(name, "uint8", "none") for name in ("none", "stripes, eps 24/255"))
    assert np.mean(np.subtract(clean.genuine, attacked.genuine)) > 0  # the attack lowers the score that it is told to lower
    assert record.cell("stripes, eps 24/255", "uint8", "dither").genuine != attacked.genuine
    (worst,) = record.measures.values()
    assert worst["worst person, none, uint8, none"].value == 1
    assert facesieve("report", tmp_path / "run").code == 0
    lines = (tmp_path / "run" / "plain.txt").read_text().splitlines()
    assert lines[0] == "none | none | 1.000"
    assert len(lines) == 6


def test_a_mistake_in_a_setting_of_a_new_defence_is_one_line(added, tmp_path, source, facesieve):
    for name in ("ATTACKS", "DEFENCES", "EMBEDDERS", "MEASURES"):
        added(registry_of(name))
    (tmp_path / "experiment.toml").write_text(
        EXPERIMENT.replace("lowest_score:LowestScore", "margin").replace("levels = 4", "levels = 1")
    )
    done = facesieve("evaluate", tmp_path / "experiment.toml", "--source", source, "-o", tmp_path / "run")
    assert done.code == 2
    assert "levels 1 must be 2 or more" in done.err


def test_an_embedder_in_front_of_a_gallery(added, tmp_path, sample_paths, facesieve):
    added(registry_of("EMBEDDERS"))
    common = ["--gallery", tmp_path / "gallery", "--embedder", "colours", "--shield", "none"]
    named = {path.stem: path for path in sample_paths}
    for person in ("collins-1", "hopper-1"):
        assert facesieve("enrol", person, named[person], *common).code == 0
    done = facesieve("identify", named["hopper-1"], *common, "--json")
    assert json.loads(done.out)[str(named["hopper-1"])][0]["matches"][0]["person"] == "hopper-1"


def test_an_embedder_by_its_dotted_name(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent / "new" / "recognition")
    registry = registry_of("EMBEDDERS")
    monkeypatch.setattr(registry, "_things", dict(registry._things))
    assert load_embedder("colours:load").rows(np.full((2, 3, 32, 32), 0.2, np.float32)).shape == (2, 192)


# --- a gallery back end ----------------------------------------------------------------------------


@pytest.fixture
def memory(added):
    added(registry_of("GALLERIES"))
    import_module("facesieve.galleries.memory").MADE.clear()
    return create_gallery("memory://here", embedder="toy", dimensions=16)


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def test_a_gallery_searches_exactly(memory):
    rng = np.random.default_rng(0)
    people = {
        f"person {n}": {RAW: unit(rng.standard_normal((3, 16))), "robust": unit(rng.standard_normal((1, 16)))} for n in range(40)
    }
    memory.enrol_all(people)
    probes = unit(rng.standard_normal((5, 16)))
    for probe, found in zip(probes, memory.search(probes, kind="robust", count=4), strict=True):
        best = {p: float((templates["robust"] @ probe).max()) for p, templates in people.items()}
        wanted = sorted(best, key=lambda person: -best[person])[:4]
        assert [match.person for match in found] == wanted
    assert [t.person for t in memory.export()] == sorted(p for p in people for _ in range(4))
    memory.calibrate(Calibration(0.4, 0.01, RAW, 10))
    memory.calibrate(Calibration(0.5, 0.01, RAW, 10))
    assert [c.threshold for c in memory.calibrations()] == [0.5]
    assert memory.remove("person 7") == 4
    assert len(memory.people()) == 39
    assert len(open_gallery("memory://here").people()) == 39


@pytest.mark.parametrize(
    ("do", "words"),
    [
        (lambda g: g.enrol("Ann", {RAW: np.eye(16)[:1]}), "Ann is enrolled already"),
        (lambda g: g.enrol("Bob", {RAW: np.ones((1, 16))}), "finite rows of norm 1"),
        (lambda g: g.remove("Bob"), "nobody called Bob"),
        (lambda g: g.templates_of("Bob"), "nobody called Bob"),
        (lambda g: g.search(np.eye(15)[:1]), "rows of shape"),
        (lambda g: g.check_made_with("other", 16), "made with toy"),
        (lambda _: open_gallery("memory://nowhere"), "no gallery here"),
        (lambda _: open_gallery("shared://nowhere"), "is not known"),
        (lambda g: (g.close(), g.people()), "closed"),
    ],
)
def test_its_callers_mistakes_are_found_by_the_base(memory, do, words):
    memory.enrol("Ann", {RAW: np.eye(16)[:1]})
    with pytest.raises((GalleryError, InputError), match=words):
        do(memory)


def test_a_gallery_on_the_command_line(added, sample_paths, facesieve):
    added(registry_of("GALLERIES"))
    named = {path.stem: path for path in sample_paths}
    for person in ("obama-1", "hopper-1"):
        assert facesieve("enrol", person, named[person], "--gallery", "memory://line").code == 0
    done = facesieve("identify", named["obama-3"], "--gallery", "memory://line", "--shield", "none", "--json")
    assert json.loads(done.out)[str(named["obama-3"])][0]["matches"][0]["person"] == "obama-1"


# --- a checkpoint family ---------------------------------------------------------------------------


@pytest.fixture
def checkpoint(tmp_path):
    config = import_module("facesieve.priors.families").FAMILIES["another"].convert({})[0]
    torch.manual_seed(0)
    network = UNet2DModel(**config).eval()
    torch.save({"ema": {f"denoiser.{key}": value for key, value in network.state_dict().items()}}, tmp_path / "their.pt")
    return network


@torch.no_grad()
def test_a_checkpoint_family(added, tmp_path, request):
    added(registry_of("FAMILIES"))
    network = request.getfixturevalue("checkpoint")
    prior = import_prior(tmp_path / "their.pt", tmp_path / "prior")
    assert (prior.shape, prior.prediction) == ((3, 16, 16), "v_prediction")
    x, time = torch.randn(1, 3, 16, 16), torch.tensor([400.0])
    torch.testing.assert_close(prior.output(x, time), network(x, time).sample, rtol=1e-4, atol=1e-4)
    assert read_card(tmp_path / "prior")["what"].endswith("converted from a checkpoint of another program")


def test_without_it_its_checkpoints_are_not_known_and_with_it_a_message_names_it(added, tmp_path):
    torch.save({"denoiser.conv_in.weight": torch.ones(1)}, tmp_path / "their.pt")
    with pytest.raises(PriorError, match="neither of the code of DDPM and DDIM nor of guided-diffusion"):
        import_prior(tmp_path / "their.pt", tmp_path / "prior")
    added(registry_of("FAMILIES"))
    torch.save({"weight": torch.ones(1)}, tmp_path / "their.pt")
    with pytest.raises(PriorError, match="nor of another program; it begins with weight"):
        import_prior(tmp_path / "their.pt", tmp_path / "prior")


# --- a runtime -------------------------------------------------------------------------------------


def test_a_runtime(added, sample_photo):
    added(RUNTIMES)
    shield = load_shield("robust", runtime="blocks")
    before = shield.cut(sample_photo)
    assert (before.size, shield.card.name) == (64, "robust")
    after = shield.restore(before)
    assert np.unique(after.crops[0, 0, :4, :4]).size == 1
    assert not np.array_equal(after.paste(), sample_photo)
    told = []
    shield.runtime.purify(before.crops, before.seeds(0), told.append)
    assert told == [Progress(0, 1)]
    identifier = Identifier(load_embedder("sface"), shield.card.label)
    templates = identifier.templates(before.at(CROP), after, "both")
    assert list(templates) == [RAW, shield.card.label]


@pytest.fixture
def a_runtime_elsewhere(monkeypatch):
    """The runtime lies in no room of the package."""
    monkeypatch.setattr(RUNTIMES, "_things", dict(RUNTIMES._things))
    monkeypatch.syspath_prepend(Path(__file__).parent / "new" / "runtime")


@pytest.mark.usefixtures("a_runtime_elsewhere")
def test_a_runtime_by_its_dotted_name():
    assert load_shield("robust", runtime="blocks:load").card.ran_on == "NumPy"
    with pytest.raises(SettingError, match="cannot be imported"):
        load_shield("robust", runtime="blocks:nothing")
    with pytest.raises(SettingError, match="unknown runtime 'nothing'; there are "):
        load_shield("robust", runtime="nothing")


@pytest.mark.usefixtures("a_runtime_elsewhere")
def test_a_runtime_by_the_command_line_and_the_services_settings(monkeypatch, sample_paths, tmp_path, capsys):
    call = ["facesieve", "purify", str(sample_paths[0]), "-o", str(tmp_path), "--runtime", "blocks:load"]
    monkeypatch.setattr("sys.argv", call)
    with pytest.raises(SystemExit) as end:
        main()
    assert (end.value.code, "gentle on NumPy" in capsys.readouterr().out) == (0, True)
    assert shield_of(Settings(runtime="blocks:load")).card.ran_on == "NumPy"


@pytest.mark.usefixtures("a_runtime_elsewhere")
def test_another_runtime_has_no_gradients_and_takes_no_other_preset():
    shield = load_shield("robust", runtime="blocks:load")
    for needs_torch in (lambda: shield.purifier, lambda: shield.with_preset(preset("paper"))):
        with pytest.raises(SettingError, match=r"^shield robust: its runtime, on NumPy, has no gradients .*; load it"):
            needs_torch()


# --- a shard format --------------------------------------------------------------------------------


@pytest.fixture
def archive(tmp_path, sample_paths):
    with ZipFile(tmp_path / "shard.zip", "w") as archive:
        archive.write(sample_paths[0], "one.jpg")
        archive.writestr("notes.txt", "kept")
    return tmp_path / "shard.zip"


def check_shard(out):
    with ZipFile(out / "shard.zip") as made:
        assert made.namelist() == ["one.png", "one.facesieve.json", "notes.txt"]
        assert made.read("notes.txt") == b"kept"
        record = json.loads(made.read("one.facesieve.json"))
        assert read_photo(made.read("one.png")).shape[-1] == 3
    assert (len(record["faces"]), record["preset"]) == (1, DEFAULT_PRESET)
    assert json.loads((out / "shard.zip.json").read_text())["photographs"] == 1


def test_a_shard_format(added, archive, tmp_path, facesieve):
    added(registry_of("FORMATS"))
    done = facesieve("purify", archive, "-o", tmp_path / "out", "--seed", 1)
    assert done.code == 0, done.err
    check_shard(tmp_path / "out")
    written = (tmp_path / "out" / "shard.zip").stat().st_mtime_ns
    assert facesieve("purify", archive, "-o", tmp_path / "out", "--seed", 1).code == 0
    assert (tmp_path / "out" / "shard.zip").stat().st_mtime_ns == written  # resumed: it was there


def test_a_damaged_shard_of_it_is_a_line(added, tmp_path, facesieve):
    added(registry_of("FORMATS"))
    (tmp_path / "shard.zip").write_bytes(b"no archive")
    done = facesieve("purify", tmp_path / "shard.zip", "-o", tmp_path / "out")
    assert done.code == 1
    assert "shard.zip: not a zip archive, or a damaged one; copy it again" in done.err
