"""A page's own files, and work that is stopped."""

import pytest

from facesieve.errors import InputError
from facesieve.page.own import Own, Stops


@pytest.fixture
def own(tmp_path):
    (tmp_path / "uploads").mkdir()
    (tmp_path / "sample.jpg").write_bytes(b"a sample")
    return Own(frozenset({tmp_path / "sample.jpg"}), lambda: str(tmp_path / "uploads"))


@pytest.mark.parametrize("place", ["other.jpg", "uploads/../other.jpg", "uploads2/x.jpg", "", "a\0b", 7, None, ["x"]])
def test_any_other_file_is_refused(own, tmp_path, place):
    path = f"{tmp_path}/{place}" if isinstance(place, str) else place
    with pytest.raises(InputError, match="not a photograph that was given to this page") as refused:
        own.path({"path": path})
    assert str(tmp_path) not in str(refused.value)


@pytest.mark.parametrize("photo", [{}, None, "", []])
def test_nothing_is_nothing(own, photo):
    assert own.path(photo) is None


@pytest.mark.parametrize("photo", ["text", {"url": "file:///etc/passwd"}, [1]])
def test_another_form_of_request_is_refused(own, photo):
    with pytest.raises(InputError, match="not a photograph"):
        own.path(photo)


def test_a_link_out_of_the_uploads_is_refused_and_a_ring_of_links_too(own, tmp_path):
    (tmp_path / "uploads" / "link.jpg").symlink_to(tmp_path / "private.jpg")
    (tmp_path / "uploads" / "ring").symlink_to(tmp_path / "uploads" / "ring")
    with pytest.raises(InputError):
        own.path({"path": str(tmp_path / "uploads" / "link.jpg")})
    (tmp_path / "uploads" / "own.jpg").write_bytes(b"")
    assert own.path({"path": str(tmp_path / "uploads" / "own.jpg")}) == tmp_path / "uploads" / "own.jpg"
    assert own.path({"path": str(tmp_path / "sample.jpg")}) == tmp_path / "sample.jpg"


def test_a_result_is_kept_below_the_uploads(own, tmp_path):
    kept = own.keep("purified.zip", b"zip", 600)
    assert own.path({"path": kept}).read_bytes() == b"zip"


def test_work_is_stopped_by_its_own_visitor_alone_and_only_once():
    stops = Stops()
    mine, other = stops.check_for("mine"), stops.check_for("other")
    mine()
    stops.stop("mine")
    with pytest.raises(InputError, match="stopped"):
        mine()
    other()
    stops.check_for("mine")()
