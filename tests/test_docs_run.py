"""What the documents tell one to run, run: on a tiny model, or planned where it takes hours."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import shutil
from typing import Any

import pytest

from fusegpt.cli import fusegpt_command, run
from fusegpt.data.shape import block_shape
from fusegpt.data.window_files import read_windows
from fusegpt.pruning.target import read_target
from fusegpt.workflow.files import plan_of
from tests import forked
from tests.planned import passed_on
from tests.quick import each
from tests.test_docs import FENCE, ROOT, commands

ELSEWHERE = {
    "make demo": "workflow/test_demo.py::test_the_demo_removes_a_middle_block",
    "make test-slurm": "slurm/test_slurm.py::test_the_workflow_runs_is_cancelled",
    "make export-tools": "workflow/test_exports.py::test_a_missing_tool_is_named",
    "fusegpt export": "export/test_runtimes.py::test_an_export_was_loaded",
    "fusegpt evaluate --model work/small": "export/test_runtimes.py::test_llama_cpp_measures",
    "fusegpt export work/pruned --to gptq4": "export/test_gptq.py::test_gptq_writes_what_int4",
    "fusegpt export work/pruned --to int4": "export/test_quantised.py::test_a_directory_of_four",
    "fusegpt evaluate --model work/eight": "export/test_quantised.py::test_a_directory_of_four",
    "fusegpt evaluate --model work/four_bits": "export/test_quantised.py::test_a_directory_of_four",
    "fusegpt info work/small": "export/test_runtimes.py::test_an_export_was_loaded",
    "make gptq-tools": "export/test_gptq.py::test_a_missing_llm_compressor_is_named",
    "make test-export": "export/test_runtimes.py::test_llama_cpps_converter_takes_it",
    "python benchmarks/step.py": (
        "importance/test_step_benchmark.py::test_both_ways_of_scoring_agree"
    ),
    "python benchmarks/draft.py": "test_after.py::test_a_draft_changes_no_token",
    "fusegpt card": "test_after.py::test_the_card_that_is_published_has_the_dense_value",
    "python benchmarks/graph.py": "workflow/test_scale.py::test_a_large_sweep_is_planned",
    "python benchmarks/sublayers.py": (
        "evaluation/test_sublayers_benchmark.py::test_only_removal_saves_weights"
    ),
    "python benchmarks/steady.py": (
        "recovery/test_steady_benchmark.py::test_it_tells_the_error_of_ordinary_tokens"
    ),
    "python benchmarks/export.py": "export/test_runtimes.py::test_vllm_loads_it",
    "fusegpt check": "cli/test_check.py::test_yes_with_every_check",
    "python examples/small_llava/build_llava.py": (
        "examples/test_small_llava.py::test_the_workflow_leaves_a_model"
    ),
    "fusegpt compare": "evaluation/test_comparison.py::test_the_verb_prints_which",
    "fusegpt evaluate --model MODEL --eval generation": (
        "evaluation/test_generation.py::test_it_is_measured_by_the_verb"
    ),
    "fusegpt evaluate --model MODEL --eval zero_shot": (
        "evaluation/test_zero_shot.py::test_a_task_measured_once_is_read_back"
    ),
    "fusegpt evaluate --model MODEL --eval classification": (
        "evaluation/test_classification.py::test_the_command_line_stores"
    ),
    "fusegpt evaluate --model PRUNED --dense DENSE --eval speed": (
        "evaluation/test_speed.py::test_the_verb_measures_memory"
    ),
    "fusegpt evaluate --model work/model --eval generation": (
        "evaluation/test_generation.py::test_it_is_measured_by_the_verb"
    ),
    "fusegpt evaluate --model work/model --eval perplexity": (
        "golden/test_perplexity.py::test_dense_smollm_has_its_perplexity"
    ),
    "fusegpt run": "workflow/test_run.py::test_an_experiment_runs_to_its_page",
    "fusegpt recipes": "workflow/test_settings.py::test_a_changed_setting_is_shown",
    "fusegpt plan": "workflow/test_outlook.py::test_the_plan_of_a_longer_sweep",
    "fusegpt gc": "workflow/test_garbage.py::test_a_smaller_experiment_leaves",
    "fusegpt verify": "workflow/test_verify.py::test_whole_results_have_no_problem",
    "fusegpt watch": "reports/test_progress.py::test_watch_knows_what_an_experiment_plans",
    "fusegpt watch results --once --tensorboard": (
        "reports/test_events.py::test_losses_times_and_values_are_there"
    ),
    "fusegpt evaluate --model work/sliced": (
        "slicegpt/test_checkpoint.py::test_every_verb_measures_it"
    ),
    "fusegpt slice": "slicegpt/test_checkpoint.py::test_every_verb_measures_it",
    "fusegpt answers": "pruning/test_finish.py::test_one_process_and_the_verbs_leave_the_same_bits",
    "fusegpt finish": "pruning/test_finish.py::test_one_process_and_the_verbs_leave_the_same_bits",
    "fusegpt generate": "test_docs_run.py::test_the_commands_about_data_run_as_they_stand",
    "fusegpt merge --model results/runs/.../step-008/manifest.json": (
        "pruning/test_sublayers.py::test_one_process_and_the_chain"
    ),
    "fusegpt prune --model work/model --recipe macro_influence --until": (
        "pruning/test_quality.py::test_it_ends_before_the_first_step"
    ),
    "fusegpt prune --model work/model --blocks": (
        "pruning/test_given.py::test_the_verb_removes_what_it_is_told"
    ),
    "python benchmarks/approximate.py": (
        "importance/test_approximate_benchmark.py::test_it_counts_the_orders"
    ),
    "fusegpt score --model MODEL --calibration windows.parquet": (
        "pruning/test_score_jobs.py::test_parts_add_up"
    ),
    "fusegpt push": "reports/test_push.py::test_one_commit_holds_the_listed_files",
    "fusegpt table study.yaml --partial": "workflow/test_partial.py::test_what_is_there_becomes",
    "fusegpt table --show": "reports/test_tables.py::test_the_text_has_blocks",
    "fusegpt figure": "reports/test_page.py::test_the_figure_is_an_svg",
    "fusegpt report": "reports/test_page.py::test_the_page_loads_nothing",
    "snakemake --profile config/profiles/default --configfile config/demo.yaml --unlock": (
        "crash/test_kills.py::test_a_run_killed_at_random_moments"
    ),
}
"""How commands begin, and the test where each runs, or what it stands for."""

NOT_RUN = {
    "make test": "this is it",
    "make check": "this is beside it",
    "make settings": "workflow/test_settings.py compares what it writes with what is there",
    "make docs": ".ci/run builds the site; test_site.py tests its parts",
    "make venv": "the environment that this runs in",
    "pip wheel": "test_packaging.py builds one with --slow",
    "pip install": "changes the environment; make installs from the same file",
    "python3 -m venv work/vllm": "3 GB; docs/models.md says what was run by hand",
    "PYTHONPATH=.venv/export python -m cyllama": "a conversation; run by hand on a file of 4 bits",
    "transformers serve": "a server of transformers' own; docs/after.md says it was not run",
    "vllm serve": "docs/after.md says it was not run; docs/models.md what was, in vLLM",
    "work/vllm/bin/": "3 GB; docs/models.md says what was run by hand",
    "snakemake --profile config/profiles/default --configfile config/demo.yaml --report": (
        "Snakemake's own report needs the finished demo"
    ),
}
"""How commands begin that no test runs, and why."""

ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}
BY_HAND = ("fetch", "sample", "score", "prune", "evaluate", "info")


def blocks(document: str, language: str) -> list[str]:
    text = (ROOT / document).read_text()
    return [block for found, block in FENCE.findall(text) if found == language]


def section(title: str) -> list[list[str]]:
    """The shell lines of a section of README, as words."""
    text = (ROOT / "README.md").read_text().partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    found = "".join(block for language, block in FENCE.findall(text) if language == "sh")
    return [shlex.split(line, comments=True) for line in found.splitlines()]


@pytest.fixture(scope="module")
def lines():
    """The commands of README's section "On the command line", in order."""
    return section("On the command line")


def test_the_first_commands_lead_from_conversations_to_the_asked_size(
    tiny_llama_dir, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_llama_dir, tmp_path / "mine")
    (tmp_path / "mine/chat_template.jinja").write_text(
        "{% for m in messages %}{{ m.role }}: {{ m.content }}</s>{% endfor %}"
    )
    asked = {"role": "user", "content": "now?"}
    rows = [{"messages": [asked, {"role": "assistant", "content": f"in {n}"}]} for n in range(16)]
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    dense = block_shape(tiny_llama_dir, 6)
    wanted = f"parameters={dense.total - dense.block}"
    small = {"smollm2-135m": "mine", "file_size=250MB": wanted, "256": "16"}

    for words in section("Your model, your conversations, your size")[:3]:
        assert run(fusegpt_command, [small.get(word, word) for word in words[1:]]) == 0, words

    record = json.loads((tmp_path / "work/smaller/fusegpt.json").read_text())
    assert (record["target"], len(record["removed"])) == (read_target(wanted).text, 1)


def test_the_readmes_commands_run_as_they_stand(lines, tiny_llama_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert tuple(words[1] for words in lines) == BY_HAND
    small = {"smollm2-135m": str(tiny_llama_dir)}  # the one thing that differs
    for words in lines:
        assert run(fusegpt_command, [small.get(word, word) for word in words[1:]]) == 0, words
    evaluated = json.loads((tmp_path / "work/pruned.json").read_text())
    assert evaluated["rows"][0]["metric"] == "perplexity"
    record = json.loads((tmp_path / "work/pruned/fusegpt.json").read_text())
    assert len(record["removed"]) == 1
    assert (record["recipe"]["dtype"], record["recipe"]["recovery"]["rank"]) == ("float32", 16)


def test_the_commands_about_data_run_as_they_stand(tiny_llama_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "work").mkdir()
    (tmp_path / "work/model").symlink_to(tiny_llama_dir)
    for words in (words for name, words in commands() if name == "docs/data.md"):
        assert run(fusegpt_command, words[1:]) == 0, words
    assert read_windows(tmp_path / "work/windows.parquet").shape == (4, 24)


def test_the_readmes_python_prunes_and_loads_with_plain_transformers(
    tiny_llama_dir, tmp_path, monkeypatch
):
    (code,) = blocks("README.md", "python")
    small = code.replace('"smollm2-135m"', repr(str(tiny_llama_dir)))
    assert small != code
    lines = [line for line in code.splitlines() if line and not re.match("import|from", line)]
    assert len(lines) == 6
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(small, names)
    pruned = names["pruned"]
    assert pruned.config.num_hidden_layers == 3
    assert type(pruned).__module__ == "transformers.models.llama.modeling_llama"


def test_the_sweep_that_was_killed_is_the_one_whose_output_is_shown(tmp_path):
    (text,) = (block for block in blocks("docs/workflow.md", "yaml") if "study:" in block)
    (tmp_path / "study.yaml").write_text(text)
    made = plan_of([str(tmp_path / "study.yaml")])
    (recipe,) = made.recipes
    shown = "".join(blocks("docs/workflow.md", "text"))
    assert set(re.findall(r"\bfusegpt-[0-9a-f]{8}\b", shown)) == {recipe}
    assert made.steps("study", "smollm2-135m") == {"0.03": 1, "0.06": 2}


def starts_snakemake(words: list[str]) -> bool:
    run = words[0] == "snakemake" or words[:2] == ["fusegpt", "run"]
    return run and not {"--unlock", "--report"} & set(words)


PLANNED = sorted({tuple(words) for _, words in commands() if starts_snakemake(words)})
README = {tuple(words) for name, words in commands() if name == "README.md"}


def together(lines) -> list[list[str]]:
    """Lines of snakemake that differ by cores, or targets after ``--``, as one with all targets."""
    found: dict[str, list[str]] = {}
    for words in map(list, lines):
        if words[0] == "snakemake" and "--cores" in words:
            del words[(at := words.index("--cores")) : at + 2]
        options = [word for word in words if word not in ("-n", "--dry-run")]
        several = words[0] == "snakemake" and "--" in options
        cut = options.index("--") + 1 if several else len(options)
        found.setdefault(shlex.join(options[:cut]), []).extend(options[cut:])
    return [[*shlex.split(options), *targets] for options, targets in found.items()]


def test_lines_that_differ_by_cores_or_targets_are_planned_at_once():
    one = "snakemake"
    lines = [f"{one} --cores 1 -- x", f"{one} --cores 2 -- y", f"{one} --cores 2", f"{one} -n"]
    assert together(line.split() for line in [*lines, "fusegpt run a -- b"]) == [
        [one, "--", "x", "y"],
        [one],
        ["fusegpt", "run", "a", "--", "b"],
    ]


@pytest.mark.parametrize(
    "words",
    each(together(PLANNED), quick=together(README.intersection(PLANNED))),
    ids=lambda words: " ".join(words)[-60:],
)
def test_a_line_that_starts_the_workflow_can_be_planned(words, tmp_path, monkeypatch):
    if "slurm" in " ".join(words) and not importlib.util.find_spec(
        "snakemake_executor_plugin_slurm"
    ):
        pytest.skip("snakemake-executor-plugin-slurm is not installed")
    (tmp_path / "my-data.yaml").write_text("tasks: {}\n")
    (tmp_path / "study.yaml").write_text(blocks("README.md", "yaml")[0])
    for name in ("config", "examples", "rules", "Snakefile"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    if words[0] == "fusegpt":
        line = passed_on("--dry-run", *words[2:])
    else:
        own = [] if {"-s", "--snakefile"} & set(words) else ["-s", str(ROOT / "Snakefile")]
        line = [*own, "-n", "--quiet", "rules", "--cores", "2", *words[1:]]
    done = forked.run(line, tmp_path, ENVIRONMENT)
    assert done.returncode == 0, done.stderr[-2000:] + done.stdout[-2000:]


def test_every_other_command_runs_in_a_test_or_is_said_not_to():
    starts = (*ELSEWHERE, *NOT_RUN, *(f"fusegpt {verb}" for verb in BY_HAND if verb != "evaluate"))
    by_hand = {" ".join(words) for name, words in commands() if name == "README.md"}
    for words in (words for _, words in commands() if tuple(words) not in PLANNED):
        line = " ".join(words)
        assert line.startswith(starts) or (line in by_hand and words[1] in BY_HAND), line


@pytest.mark.parametrize(("start", "where"), ELSEWHERE.items())
def test_the_test_that_runs_a_command_exists(start, where):
    file, name = where.split("::")
    assert f"def {name}" in (ROOT / "tests" / file).read_text()
    assert any(" ".join(words).startswith(start) for _, words in commands())
