"""Make zero_shot.json by lm-eval's own command line: make_zero_shot.py MODEL_DIR DATA_DIR.

Nothing of fusegpt: task files include the standard ones and read parquet, as lm-eval's
documentation says, and the command that ran is stored beside the values.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import lm_eval
import yaml

LIMIT = 50
TASKS = {
    "piqa": ("piqa/piqa.yaml", {"validation": "piqa/validation.parquet"}),
    "winogrande": ("winogrande/default.yaml", {"validation": "winogrande/validation.parquet"}),
    "hellaswag": ("hellaswag/hellaswag.yaml", {"validation": "hellaswag/validation.parquet"}),
    "arc_easy": ("arc/arc_easy.yaml", {"test": "arc_easy/test.parquet"}),
    "arc_challenge": ("arc/arc_challenge.yaml", {"test": "arc_challenge/test.parquet"}),
}


def main(directory: str, data: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name, (standard, files) in TASKS.items():
            write_task(Path(folder), name, standard, files, Path(data))
        arguments = ["run", "--model", "hf", "--tasks", ",".join(f"local_{x}" for x in TASKS)]
        arguments += ["--batch_size", "8", "--device", "cpu", "--limit", str(LIMIT)]
        paths = ["--include_path", folder, "--output_path", f"{folder}/out"]
        model = ["--model_args", f"pretrained={directory},dtype=float32"]
        subprocess.run([sys.executable, "-m", "lm_eval", *arguments, *paths, *model], check=True)
        (file,) = Path(folder).glob("out/**/results_*.json")
        results = json.loads(file.read_text())["results"]
    values = {
        name: {
            metric: results[f"local_{name}"][f"{metric},none"]
            for metric in ("acc", "acc_norm")
            if f"{metric},none" in results[f"local_{name}"]
        }
        for name in TASKS
    }
    command = "lm_eval " + " ".join([*arguments, "--model_args pretrained=MODEL,dtype=float32"])
    content = {"command": command, "limit": LIMIT, "dtype": "float32", "values": values}
    target = Path(__file__).with_name("zero_shot.json")
    target.write_text(json.dumps(content, indent=1) + "\n")


def write_task(folder: Path, name: str, standard: str, files: dict[str, str], data: Path) -> None:
    content = {
        "include": str(Path(lm_eval.__file__).parent / "tasks" / standard),
        "task": f"local_{name}",
        "tag": None,
        "dataset_path": "parquet",
        "dataset_name": None,
        "dataset_kwargs": {
            "data_files": {split: str(data / path) for split, path in files.items()}
        },
    }
    for split in ("training", "validation", "test"):
        content[f"{split}_split"] = split if split in files else None
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))


if __name__ == "__main__":
    main(*sys.argv[1:])
