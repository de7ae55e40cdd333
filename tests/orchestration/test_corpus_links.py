"""What a folder may not smuggle into the lake, and which of its files are found whatever they are called."""

import os
from pathlib import Path

import pytest

from datalake import Lake
from orchestration.corpus.add import add_corpus
from orchestration.corpus.files import find_files
from orchestration.errors import CorpusError

TEXTS = [f"Text {number} " + "of a few words " * (number % 5 + 3) for number in range(40)]
LEAVING = "links that leave the folder"
SPECIAL = "special files (pipes, sockets, devices)"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "in"
    root.mkdir()
    for number, text in enumerate(TEXTS):
        (root / f"{number:02}.txt").write_text(text)
    return root


def test_links_that_leave_and_special_files_are_counted(folder, tmp_path):
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "key.txt").write_text("a private key")
    (folder / "env.md").symlink_to("/proc/self/environ")
    (folder / "key.txt").symlink_to("../secrets/key.txt")
    (folder / "inside.txt").symlink_to("00.txt")
    (folder / "nowhere.txt").symlink_to("none")
    (folder / "loop").symlink_to("loop")
    (folder / "more").symlink_to(secrets)
    os.mkfifo(folder / "pipe.txt")
    result = add_corpus(Lake.open(str(tmp_path / "lake")), "texts", folder, seq_len=16, heldout_fraction=0.3)
    assert (result.documents, result.duplicates) == (40, 1)
    assert result.left_out[LEAVING] == 2
    assert sorted(result.first_left_out[LEAVING]) == ["env.md", "key.txt"]
    assert result.left_out[SPECIAL] == 1
    assert any(f"2 {LEAVING} (first: " in note for note in result.notes())
    followed = find_files(folder, follow_links=secrets)
    assert {"key.txt", "more/key.txt"} <= followed.keys()
    assert "env.md" not in followed
    assert followed.left.counts[LEAVING] == 1
    with pytest.raises(CorpusError, match=r"pipe\.txt is neither a file nor a folder"):
        find_files(folder / "pipe.txt")


def test_links_to_folders_end(folder):
    (folder / "again").symlink_to(folder)
    (folder / "part").mkdir()
    (folder / "part" / "a.txt").write_text("a")
    (folder / "other").symlink_to(folder / "part")
    (folder / "part" / "up").symlink_to("..")
    assert len(find_files(folder)) == 41
    assert len(find_files(folder, follow_links=folder)) == 42


def test_only_links_that_leave_is_said(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").symlink_to("/proc/self/environ")
    with pytest.raises(CorpusError, match=r"no file matches \* in .*; 1 links that leave the folder passed over"):
        find_files(tmp_path / "in")


def test_names_of_every_sort_are_found_and_shown(tmp_path):
    names = [b"c#/a.txt", b"[D]/b.txt", b"c d.txt", b"day=1%2F/e.txt", b"new\nline.txt", b"caf\xe9.txt", b"a*b?.txt"]
    root = os.fsencode(tmp_path / "in")
    for name, text in zip(names, TEXTS, strict=False):
        path = os.path.join(root, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as file:
            file.write(text)
    with open(os.path.join(root, b"zz-\xff.txt"), "w") as file:
        file.write(TEXTS[0])
    result = add_corpus(Lake.open(str(tmp_path / "lake")), "texts", tmp_path / "in", seq_len=8, heldout_fraction=0.4)
    assert (result.documents, result.duplicates) == (7, 1)
    for note in result.notes():
        assert note.encode().decode().isprintable()
    assert len(find_files(tmp_path / "in" / "[D]")) == 1


def test_the_given_split_is_kept_and_its_texts_are_not_trained_on(folder, tmp_path):
    lake = Lake.open(str(tmp_path / "lake"))
    other = tmp_path / "validation"
    other.mkdir()
    for number, text in enumerate(TEXTS[:8]):
        (other / f"v{number}.txt").write_text(text)
    arguments = {"seq_len": 16, "heldout_paths": [other]}
    result = add_corpus(lake, "given", folder, **arguments)
    assert (result.split, result.documents, result.duplicates) == ("given", 40, 8)
    held = lake.datasets.manifest(result.heldout)
    assert held.tokens == sum(len(text) + 1 for text in TEXTS[:8]) // 16 * 16
    again = add_corpus(lake, "given", [*sorted(folder.iterdir(), reverse=True)], **arguments)
    assert (again.train.digest, again.heldout.digest) == (result.train.digest, result.heldout.digest)


def test_nothing_need_be_held_out(folder, tmp_path):
    lake = Lake.open(str(tmp_path / "lake"))
    result = add_corpus(lake, "all", folder, seq_len=16, heldout_fraction=0)
    assert (result.heldout, list(result.tokens)) == (None, ["train"])
    assert [version.name for version in lake.datasets.list()] == ["all"]
    with pytest.raises(CorpusError, match="nothing of all@1 is held out"):
        result.both()


@pytest.mark.parametrize("tokenizer", ["bytes", "bpe:300"])
@pytest.mark.parametrize("packing", ["concat", "best-fit"])
def test_one_document_is_split_by_position(tmp_path, tokenizer, packing):
    lake = Lake.open(str(tmp_path / "lake"))
    text = "".join(f"{number} {word}\n" for number, word in enumerate(TEXTS * 5))
    for number in range(3):  # one document, three times
        (tmp_path / f"input{number}.txt").write_text(text)
    result = add_corpus(
        lake, "one", [tmp_path / f"input{n}.txt" for n in range(3)], seq_len=16, tokenizer=tokenizer, packing=packing
    )
    assert (result.split, result.documents, result.duplicates) == ("position", 1, 2)
    assert any("the last share of each is held out" in note for note in result.notes())
    assert any("2 exact duplicates dropped" in note for note in result.notes())
    share = result.tokens["heldout"] / sum(result.tokens.values())
    assert 0.03 < share < 0.08
