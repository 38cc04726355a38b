import importlib.util
import re
from pathlib import Path

from kfp import dsl

from components.ingest.ingest_table import ingest_table
from targets import local, readme


def test_catalogue_in_the_readme_is_current() -> None:
    text = readme.README.read_text(encoding="utf-8")
    assert readme.with_catalogue(text) == text, "run `make readme`"


def test_the_example_component_of_the_readme_runs(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", readme.README.read_text(encoding="utf-8"), re.DOTALL)
    file = tmp_path / "drop_duplicates.py"
    file.write_text(next(block for block in blocks if "def drop_duplicates" in block), encoding="utf-8")
    spec = importlib.util.spec_from_file_location("drop_duplicates", file)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    source = tmp_path / "rows.csv"
    source.write_text("a,b\n1,x\n2,y\n1,x\n")

    @dsl.pipeline(name="example")
    def example() -> None:
        module.drop_duplicates(table=ingest_table(source=str(source)).outputs["table"])

    record = local.run(example, {}, tmp_path / "runs")
    assert record.succeeded, [task.error for task in record.failed]
    assert record.tasks[-1].outputs["Output"] == 1
