"""Tasks as targets: made once, found again, told by name or by file, refused with what is allowed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from datalake import DatasetReader, Lake
from generator import SpecError
from orchestration.cli import main
from orchestration.corpus.tasks import NAMED, add_task, task_spec
from orchestration.errors import CorpusError


def test_a_task_is_made_once_and_its_parts_differ(tmp_path: Path) -> None:
    lake = Lake.open(str(tmp_path / "lake"))
    spec = task_spec({"family": "markov", "seq_len": 20, "answers_from": 4})
    train, heldout = add_task(lake, "chains", spec, 100, heldout_sequences=30)
    assert (train.ref, heldout.ref) == ("chains@1", "chains-heldout@1")
    assert (train.sequences, heldout.sequences) == (100, 30)
    assert train.params == "chains@1"
    assert add_task(lake, "chains", spec, 100, heldout_sequences=30) == (train, heldout)
    larger, same = add_task(lake, "chains", spec, 150, heldout_sequences=30)
    assert same == heldout
    rows = [
        DatasetReader(lake.store, lake.datasets.manifest(each)).rows(range(30)).tolist()
        for each in (train, larger, heldout)
    ]
    assert rows[0] == rows[1]
    assert not {tuple(row) for row in rows[0]} & {tuple(row) for row in rows[2]}


def test_tasks_have_names_files_and_fields(tmp_path: Path) -> None:
    (tmp_path / "small.toml").write_text('family = "procedural"\ntask = "union"\nlength = 5\nseq_len = 40\n')
    assert task_spec("needle").seq_len == 32
    assert task_spec("reverse").task == "reverse"
    assert task_spec("sorting") == task_spec("sort")
    for task in NAMED:
        assert task_spec(task).answer_mask().any()
    assert task_spec("small.toml", tmp_path).length == 5
    for wrong in ("nca", "procedural", "sorted", ""):
        with pytest.raises(
            CorpusError, match=r"task: .*unknown; allowed are identity, reverse, .*markov, needle, .* choose one"
        ):
            task_spec(wrong)
    with pytest.raises(CorpusError, match="'dyck' asks for no answers"):
        task_spec({"family": "dyck"})
    with pytest.raises(SpecError, match="states"):
        task_spec({"family": "markov", "states": 1000})


def test_the_command_adds_a_task_and_refuses_a_mixture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["corpus", "add", *arguments, "--lake", str(tmp_path / "lake")])
        said = capsys.readouterr()
        return ended.value.code, said.out, said.err

    code, out, err = run("hay", "--task", "needle", "--sequences", "50", "--heldout-sequences", "20", "--json")
    assert code == 0, err
    assert json.loads(out)["heldout"]["sequences"] == 20
    for arguments, says in (
        (("hay", "folder", "--task", "needle"), "paths: 'folder' beside task"),
        (("hay",), "paths: none given"),
        (("hay", "--task", "needles"), "task: 'needles' is unknown"),
        (("hay", "--task", "needle", "--sequences", "0"), "sequences = 0"),
        (("hay", "--task", "needle", "--seed", "-1"), "seed = -1"),
        (("hay", "--task", str(tmp_path / "none.toml")), "none.toml"),
    ):
        code, _, err = run(*arguments)
        assert code == 2
        assert says in err
