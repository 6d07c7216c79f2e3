"""What Snakemake itself would take without a word is refused while the graph is built."""

from __future__ import annotations

import pytest

from fusegpt.errors import ConfigError
from fusegpt.workflow.alike import check_devices
from fusegpt.workflow.experiment import check_directories, make_plan
from tests.reliability.test_settings import RECIPES
from tests.workflow.conftest import configuration
from tests.workflow.test_snakefile import ROOT, said, snakemake

TWICE = """
experiments:
  study: {models: [smollm2-135m], recipes: [dense], sparsities: [0], evaluations: [short]}
  study: {models: [smollm2-135m], recipes: [dense], sparsities: [0], evaluations: [short]}
evaluations:
  short: {eval: perplexity, corpus: python_docs}
"""


@pytest.mark.parametrize("device", ["tpu", "mps", "cuda:", "cuda:x", "", "CPU", "gpu0", "cpu:0"])
def test_a_profile_names_a_device_that_rules_know(device):
    with pytest.raises(ConfigError, match="device of rule score must be cpu, cuda or cuda:N, got"):
        check_devices({"fuse": {"mem_mb": 5}, "score": {"device": device}})


@pytest.mark.parametrize("device", ["cpu", "cuda", "cuda:12", "pick(attempt)", 3, print])
def test_devices_that_are_known_or_computed_are_taken(device):
    check_devices({"score": {"device": device}})


def test_several_devices_are_for_rules_that_share_work_and_reserve_as_many():
    check_devices({"fuse": {"device": "cudax2", "gpu": 2}})
    check_devices({"fuse": {"device": "cpux2"}, "evaluate_demo": {"device": "cpux2"}})
    with pytest.raises(ConfigError, match=r"rule fuse works on 2 GPUs .* got 1; set gpu=2"):
        check_devices({"fuse": {"device": "cudax2"}})
    with pytest.raises(ConfigError, match=r"works in one process, got 'cudax2'; give cuda"):
        check_devices({"score": {"device": "cudax2", "gpu": 2}})
    with pytest.raises(ConfigError, match=r"at least one process, got 'cudax0'"):
        check_devices({"fuse": {"device": "cudax0", "gpu": 0}})


def test_snakemake_refuses_a_device_of_the_command_line_and_a_key_that_stands_twice(tmp_path):
    demo = str(ROOT / "config" / "demo.yaml")
    asked = ("-n", "--cores", "1", "--configfile", demo)
    done = snakemake(tmp_path, *asked, "--set-resources", "score:device=tpu")
    assert done.returncode and "device of rule score must be cpu, cuda" in "\n".join(said(done))

    (tmp_path / "twice.yaml").write_text(TWICE)
    done = snakemake(tmp_path, "-n", "--cores", "1", "--configfile", "twice.yaml")
    assert done.returncode and "key 'study' stands twice" in "\n".join(said(done))
    assert "Traceback" not in done.stderr

    more = ["score:device=cuda", "fuse:device=cudax2", "fuse:gpu=2"]
    done = snakemake(tmp_path, *asked, "-p", "--resources", "gpu=2", "--set-resources", *more)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "--device cudax2" in done.stdout + done.stderr


@pytest.mark.parametrize("place", ["/nope", "nope", "../nope", "./a/b", "zen.txt"])
def test_a_directory_that_is_not_there_is_refused_unless_the_model_was_fetched(place, tmp_path):
    (tmp_path / "zen.txt").write_text("a file")
    config = configuration()
    config["models"]["tiny"]["source"] = f"dir:{place}"
    plan = make_plan(config, RECIPES)

    with pytest.raises(ConfigError, match=r"models\.tiny\.source: must lead to a directory, got"):
        check_directories(plan, tmp_path)

    fetched = tmp_path / "results" / "models" / "tiny"
    fetched.mkdir(parents=True)
    (fetched / "source.json").write_text("{}")
    check_directories(plan, tmp_path)
