"""The model card of a checkpoint: what it is, how it was made, what was measured, its limits."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from fusegpt.reports.front_matter import front_matter
from fusegpt.reports.text import code, escaped, ranges
from fusegpt.results.exports import weight_bytes
from fusegpt.results.models import Checkpoint, Row, Slice
from fusegpt.results.recovered import undone_of

__all__ = ["card"]


def card(
    record: Checkpoint,
    rows: Sequence[Row] = (),
    papers: Sequence[str] = (),
    dense: Sequence[Row] = (),
) -> str:
    """Write the README.md of a merged or a sliced model, with the hub's front matter.

    Args:
        record: What ``fusegpt.json`` says of it.
        rows: Measured results.
        papers: Where the recipe's methods are published.
        dense: Results of the dense model; those of the same protocol stand beside the others.

    Returns:
        The whole file as text.
    """
    about = _sliced(record) if isinstance(record, Slice) else _pruned(record)
    parts = [front_matter(record, rows), *about, _loading(record), _licence(record)]
    parts += [_results(rows, dense), _recipe(record, papers), _limits(record)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _pruned(record: Checkpoint) -> list[str]:
    """Title and facts of a model without some of its blocks or sublayers."""
    total = record.num_blocks
    counts = Counter(unit.kind for unit in record.removed)
    if set(counts) <= {"block"}:
        title = f"{total - counts['block']} of {total} blocks"
        what = f"{counts['block']} of {total} decoder blocks ({counts['block'] / total:.1%})"
    else:
        sublayers = {kind: f"{counts[kind]} of {total} {kind}s" for kind in sorted(counts)}
        title = f"without {' and '.join(sublayers.values())}"
        what = " and ".join(
            f"{words} ({counts[kind] / total:.1%})" for kind, words in sublayers.items()
        )
    opening = f"Depth-pruned from {_base(record)}: {what} were removed."
    facts = [
        "## What was removed",
        "Indices are positions in the dense model, counted from 0.",
        "",
        f"- removed, in order: {', '.join(map(str, record.removed)) or 'none'}",
        f"- remaining blocks: {ranges(record.kept) or 'none'}",
        *([f"- asked for: {escaped(record.target)}"] if record.target else []),
        *(
            f"- fused into {target if ' ' in target else f'block {target}'}:"
            f" {', '.join(map(str, donors))}"
            for target, donors in record.fused.items()
            if donors
        ),
        *(f"- {escaped(sentence)}" for sentence in record.differs),
        *_finished(record),
        *_undone(record),
    ]
    return [_titled(record, title, opening), "\n".join(facts)]


def _finished(record: Checkpoint) -> list[str]:
    """What the finish of a recipe did."""
    finish = record.finish
    if finish is None or not (record.recipe or {}).get("finish"):
        return []
    losses = f"loss {finish.first_loss:.4g} to {finish.last_loss:.4g}"
    losses += " (undone)" if finish.undone else ""
    return [
        f"- then trained as a whole ({finish.method}) on {finish.tokens or 0:,} tokens: {losses}"
    ]


def _undone(record: Checkpoint) -> list[str]:
    """Say how many trainings and fits made things worse, if any did."""
    undone, trainings = undone_of([*record.steps, *([record.finish] if record.finish else [])])
    if isinstance(record, Slice):
        undone, trainings = record.undone, record.trainings or 0
    return [f"- tunings undone because their loss rose: {undone} of {trainings}"] * bool(undone)


def _shared(record: Slice) -> list[str]:
    """Title and facts of a model some of whose blocks compute with other blocks' weights."""
    count, of, gone = len(record.shared), record.num_blocks, record.num_blocks - len(record.kept)
    opening = f"Made from {_base(record)}: "
    if gone:
        opening += f"{gone} of {of} blocks {'is' if gone == 1 else 'are'} gone, and {count}"
    else:
        opening += f"{count} of {of} blocks"
    opening += (
        " compute with the weights of another block and little of their own. Every block that is"
        " there runs, so sharing saves no arithmetic."
    )
    stored = "once" if record.needs else "for each block anew, so the files are as large as before"
    pairs = ", ".join(f"{index} with those of {source}" for index, source in record.shared.items())
    facts = [
        "## What was shared",
        *([f"- remaining blocks: {ranges(record.kept)}"] if gone else []),
        f"- blocks: {pairs}",
        f"- asked for: {record.sparsity} of the blocks",
        f"- shared matrices are stored {stored}",
    ]
    facts += [*(f"- {escaped(sentence)}" for sentence in record.differs), *_undone(record)]
    return [_titled(record, f"{count} of {of} blocks shared", opening), "\n".join(facts)]


def _sliced(record: Slice) -> list[str]:
    """Title and facts of a model with a smaller hidden size."""
    if record.shared:
        return _shared(record)
    width, hidden = record.width, record.hidden_size
    if width is None or hidden is None:
        title, hidden_states = f"sliced at {record.sparsity}", []
        opening = f"Width-pruned from {_base(record)}: every block remains."
    else:
        title = f"width {width} of {hidden}"
        opening = (
            f"Width-pruned from {_base(record)}: {hidden - width} of {hidden} dimensions of the"
            f" hidden states ({1 - width / hidden:.1%}) were cut; every block remains."
        )
        head = "" if record.head_width is None else f"; before the head {record.head_width}"
        hidden_states = [f"- hidden states: {width} of {hidden} dimensions{head}"]
    facts = [
        "## What was cut",
        *hidden_states,
        f"- asked for: a sparsity of {record.sparsity} of the hidden size",
        f"- blocks: {len(record.kept)} of {record.num_blocks}",
    ]
    facts += [f"- {escaped(sentence)}" for sentence in record.differs]
    if record.kept_energy:
        worst = min(record.kept_energy, key=record.kept_energy.__getitem__)
        facts.append(
            "- energy of the calibration signal that was kept: at least"
            f" {record.kept_energy[worst]:.2%} ({worst})"
        )
    return [_titled(record, title, opening), "\n".join(facts)]


def _titled(record: Checkpoint, title: str, opening: str) -> str:
    if record.parameters:
        size = weight_bytes(record.files)
        files = "" if size is None else f", in files of {size / 1e6:,.1f} MB"
        opening += f" {record.parameters:,} parameters remain{files}."
    return f"# {escaped(record.base_name)}, {title}\n\n{opening}"


def _base(record: Checkpoint) -> str:
    return code(record.base_model or "a language model")


def _licence(record: Checkpoint) -> str:
    base = _base(record)
    if not record.licence:
        return (
            f"## Licence\nThe licence of {base}, on which this checkpoint is based, is not on"
            " record; find it before you use this checkpoint or pass it on."
        )
    return (
        f"## Licence\n{escaped(record.licence)}, the licence of {base}. This checkpoint is derived"
        " from it, so its terms apply here too."
    )


def _loading(record: Checkpoint) -> str:
    """What must be installed and imported, and two lines that load the model."""
    if record.needs is None:
        needs = "An ordinary checkpoint; no code besides transformers is needed."
        if record.zeroed:
            needs += (
                " Removed sublayers are still there, full of zeros: it computes the same as without"
                " them, and saves neither time nor memory."
            )
    else:
        needs = (
            "No class of transformers knows this structure. Install the package `fusegpt` from a"
            " clone of its repository (`pip install .` inside it) or from a wheel built there (`pip"
            " install fusegpt-*.whl`); it is on no package index. One import then teaches the Auto"
            " classes."
        )
        if any(unit.kind != "block" for unit in record.removed):
            needs += (
                " For programs that know only the base architecture, `fusegpt merge --zeroed`"
                " writes an equal checkpoint with zeros in the removed sublayers."
            )
    if record.stored_dtypes:
        needs += f" Weights are stored in {' and '.join(record.stored_dtypes)}"
        needs += f"; the method computed in {record.dtype}." if record.dtype else "."
    return "\n".join(
        [
            "## How to load",
            needs,
            "",
            "```python",
            *([] if record.needs is None else [record.needs]),
            "from transformers import AutoModelForCausalLM, AutoTokenizer",
            "",
            'model = AutoModelForCausalLM.from_pretrained("PATH")',
            'tokenizer = AutoTokenizer.from_pretrained("PATH")',
            "```",
        ]
    )


def _results(rows: Sequence[Row], dense: Sequence[Row]) -> str:
    if not rows:
        return "## Results\nNothing was measured when this checkpoint was written."
    before = {_measured(row): f"{row.value:.4g}" for row in dense}
    beside = any(_measured(row) in before for row in rows)
    lines = [
        "## Results",
        f"| task | metric | value |{' dense |' * beside} samples | protocol |",
        f"|---|---|---|{'---|' * beside}---|---|",
    ]
    for row in rows:
        protocol = ", ".join(
            f"{key} {_plain(value)}" for key, value in row.protocol.items() if value is not None
        )
        values = [f"{row.value:.4g}", *[before.get(_measured(row), "-")] * beside]
        cells = [row.task, row.metric, *values, row.num_samples, protocol]
        lines.append("| " + " | ".join(map(escaped, cells)) + " |")
    return "\n".join(lines)


def _measured(row: Row) -> str:
    """What a row measured and how; equal texts, comparable values."""
    return json.dumps([row.task, row.metric, row.protocol], sort_keys=True, default=str)


def _plain(value: Any) -> str:
    """A value as one line; text that is more than words is quoted."""
    words = isinstance(value, str) and re.fullmatch(r"[\w./:@ -]*\S", value)
    return str(value) if words else json.dumps(value, ensure_ascii=False, default=str)


def _recipe(record: Checkpoint, papers: Sequence[str]) -> str:
    if not record.recipe:
        return ""
    text = json.dumps(record.recipe, indent=1, default=str).replace("`", r"\u0060")
    methods = "".join(f"- {escaped(paper)}\n" for paper in papers)
    return (
        "## How it was made\n"
        + (f"The methods are published:\n\n{methods}\n" if papers else "")
        + f"The settings, complete with defaults:\n\n```json\n{text}\n```"
    )


def _limits(record: Checkpoint) -> str:
    what = "Cutting the hidden size" if isinstance(record, Slice) else "Removing blocks"
    return "\n".join(
        [
            "## Limits",
            f"- {what} costs quality, and perplexity hides part of it: reasoning, long"
            " contexts and rare knowledge suffer more. Measure the task you need.",
            "- Whatever limits, biases and conditions of use the base model has, this one has too.",
            "- Recovery saw only the text named above; other languages and domains may have lost"
            " more.",
        ]
    )
