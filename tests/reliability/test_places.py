"""Places are tried before work begins: one line, exit code 2, nothing deleted or overwritten."""

from __future__ import annotations

import os
from pathlib import Path

import click
import pytest

from fusegpt.artifacts import atomic_directory
from fusegpt.cli import run
from fusegpt.cli.guard import guarded
from fusegpt.cli.options import input_path, output_path
from fusegpt.cli.places import FILES, FOLDERS
from fusegpt.errors import ArtifactError
from fusegpt.results import layout as at


def command(verb: str, work: list[Path]) -> click.Command:
    """A verb that notes where it would write."""

    @click.command()
    @click.option("--output", type=output_path)
    @click.option("--model", type=input_path)
    @click.option("--corpus")
    def body(output, model, corpus):
        work.append(output)

    return guarded(verb, body)


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """Everything below a folder with its contents."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


REFUSED = [
    *((verb, "file", "must be a directory, is a file") for verb in FOLDERS),
    *((verb, "below/out", "below must be a directory") for verb in FOLDERS),
    *((verb, "x" * 230, "file name too long") for verb in FOLDERS),
    *((verb, ".", "must not be the working directory") for verb in FOLDERS),
    *((verb, "..", "must not be the working directory") for verb in FOLDERS),
    *((verb, "loop", "is a link to itself") for verb in FOLDERS),
    *((verb, "/proc", "must not be a mount point") for verb in FOLDERS),
    *((verb, "nul\0", "must be a path") for verb in FOLDERS),
    *((verb, "", "must be a path") for verb in FOLDERS),
    *((verb, "model", "must not be or hold what is read") for verb in FOLDERS if verb != "fuse"),
    *((verb, "holds", "must not be or hold what is read") for verb in FOLDERS if verb != "fuse"),
    *((verb, "foreign", "holds 'photo.jpg'") for verb in FOLDERS if verb != "fuse"),
    *((verb, "folder" + suffix, "is a directory") for verb, (suffix, _) in FILES.items()),
    *((verb, "link" + suffix, "is a directory") for verb, (suffix, _) in FILES.items()),
    *(
        (verb, "below/out" + suffix, "below must be a directory")
        for verb, (suffix, _) in FILES.items()
    ),
    *((verb, "x" * 230 + suffix, "file name too long") for verb, (suffix, _) in FILES.items()),
    *((verb, "out.bin", f"must end in {suffix}") for verb, (suffix, _) in FILES.items()),
    *((verb, "m/model.safetensors", "must end in") for verb in FILES),
    *((verb, "read" + suffix, "must not be what is read") for verb, (suffix, _) in FILES.items()),
    *((verb, "pipe" + suffix, "must be a plain file") for verb, (suffix, _) in FILES.items()),
    *((verb, f"m/{name}", "m/") for verb in FILES if verb != "start" for name in at.RECORDS),
    *((verb, "other.json", "holds something else") for verb, (_, keys) in FILES.items() if keys),
]


@pytest.mark.parametrize(("verb", "output", "said"), REFUSED)
def test_a_place_that_cannot_be_is_refused_before_any_work(
    verb, output, said, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    for folder in ("model", "holds", "foreign", "empty", "m"):
        Path(folder).mkdir()
    suffix = FILES.get(verb, ("",))[0]
    Path("file").write_text("mine")
    Path("below").write_text("mine")
    Path("loop").symlink_to("loop")
    Path("model/config.json").write_text("{}")
    Path("m/model.safetensors").write_text("weights")
    Path("foreign/photo.jpg").write_text("mine")
    Path("other.json").write_text('{"mine": 1}')
    Path("holds/read.txt").write_text("corpus")
    if suffix:
        Path("folder" + suffix).mkdir()
        Path("link" + suffix).symlink_to("empty")
        Path("read" + suffix).write_text("{}")
        os.mkfifo("pipe" + suffix)
    before = snapshot(tmp_path)
    work: list[Path] = []
    corpus = "read" + suffix if suffix else "holds/read.txt"
    given = ["--model", "model", "--corpus", corpus, "--output", output]

    assert run(command(verb, work), given) == 2

    lines = capsys.readouterr().err.strip().splitlines()
    assert said in lines[-1] and len(lines) == 1 and not work
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("verb", FOLDERS)
def test_a_link_to_an_empty_directory_is_the_directory(verb, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "out").symlink_to("real")
    work: list[Path] = []

    assert run(command(verb, work), ["--output", str(tmp_path / "out")]) == 0

    assert work == [tmp_path / "real"]
    with atomic_directory(work[0]) as partial:
        (partial / "made").write_text("done")
    assert (tmp_path / "out" / "made").read_text() == "done"


@pytest.mark.parametrize("verb", FILES)
@pytest.mark.parametrize("before", [None, "", '{"half'])
def test_a_free_place_and_a_damaged_file_are_written(verb, before, tmp_path):
    output = tmp_path / f"new{FILES[verb][0]}"
    if before is not None:
        output.write_text(before)
    work: list[Path] = []

    assert run(command(verb, work), ["--output", str(output)]) == 0

    assert work == [output]


def test_a_step_is_written_beside_its_scores_but_not_over_the_step_before(tmp_path):
    work: list[Path] = []
    scores, manifest = tmp_path / "scores.json", tmp_path / "manifest.json"
    scores.write_text("{}")
    manifest.write_text("{}")

    assert run(command("fuse", work), ["--output", str(tmp_path), "--corpus", str(scores)]) == 0
    assert run(command("fuse", work), ["--output", str(tmp_path), "--model", str(manifest)]) == 2
    assert work == [tmp_path]


def test_work_that_finds_its_place_taken_at_the_end_is_kept(tmp_path):
    with (
        pytest.raises(ArtifactError, match=r"holds 'mine'.*what was made is in .*kept-"),
        atomic_directory(tmp_path / "out", last="fusegpt.json") as partial,
    ):
        (partial / "fusegpt.json").write_text("{}")
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "mine").write_text("theirs")

    kept = next(tmp_path.glob("out.kept-*"))
    assert (kept / "fusegpt.json").read_text() == "{}"
    assert os.listdir(tmp_path / "out") == ["mine"]
