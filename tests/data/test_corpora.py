"""Corpora of the user's own text: what is read, how it is divided, and what is said about bad input."""

from __future__ import annotations

import json
import time

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tinygrad_edu.data import hub, sources
from tinygrad_edu.data.corpora import Corpus, load_corpus
from tinygrad_edu.errors import ConfigError, DataError

ROWS = [{"id": i, "text": f"Row {i}, with 'quotes' and\nline breaks, é."} for i in range(20)]
TEXTS = [row["text"] for row in ROWS]


@pytest.fixture(autouse=True)
def _quiet(monkeypatch):
    datasets.disable_progress_bars()


def write_table(path, rows=ROWS):
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n\n" for row in rows))
    elif path.suffix in (".csv", ".tsv"):
        import csv

        with open(path, "w", newline="") as file:
            out = csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",")
            out.writerows([list(rows[0]), *(row.values() for row in rows)])
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".tsv", ".parquet"])
def test_tables_give_every_row(tmp_path, suffix):
    corpus = load_corpus(write_table(tmp_path / f"rows{suffix}"))
    assert list(corpus.documents) == TEXTS
    assert list(corpus.documents) == TEXTS  # a second iteration gives them again
    assert {split: len(part) for split, part in corpus.splits.items()} == {
        "train": 16,
        "validation": 2,
        "test": 2,
    }
    together = [text for part in corpus.splits.values() for text in part]
    assert sorted(together) == sorted(TEXTS)


def test_the_same_texts_hash_alike_whatever_the_format(tmp_path):
    hashes = {load_corpus(write_table(tmp_path / f"rows{s}")).content_hash for s in (".jsonl", ".csv", ".parquet")}
    hashes.add(Corpus.from_texts(TEXTS).content_hash)
    assert len(hashes) == 1
    assert Corpus.from_texts([*TEXTS[:-1], "other"]).content_hash not in hashes
    assert Corpus.from_texts(TEXTS[::-1]).content_hash not in hashes


def test_saved_datasets(tmp_path):
    dataset = datasets.Dataset.from_list([*ROWS, {"id": 20, "text": ""}, {"id": 21, "text": None}])
    dataset.save_to_disk(tmp_path / "flat")
    assert list(load_corpus(tmp_path / "flat").documents) == TEXTS
    parts = {"train": ROWS[:16], "val": ROWS[16:18], "unsupervised": ROWS[18:]}
    datasets.DatasetDict({k: datasets.Dataset.from_list(v) for k, v in parts.items()}).save_to_disk(tmp_path / "dict")
    corpus = load_corpus(tmp_path / "dict")
    assert list(corpus.splits["validation"]) == TEXTS[16:18]
    assert len(corpus.splits["test"]) == 2  # taken from train
    assert set(corpus.splits["test"]) | set(corpus.splits["train"]) == set(TEXTS[:16])


@pytest.mark.parametrize(
    ("names", "named"),
    [
        (("train.jsonl", "valid.jsonl", "test-00000.jsonl"), True),
        (("train/a.jsonl", "dev/b.jsonl", "test/c.jsonl"), True),
        (("train.jsonl", "val.jsonl", "test_plan_notes.jsonl", "notes.jsonl"), False),
    ],
)
def test_files_named_after_splits(tmp_path, names, named):
    for number, name in enumerate(names):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_table(tmp_path / name, [{"text": f"{number} {i}"} for i in range(10)])
    corpus = load_corpus(tmp_path)
    firsts = {split: {text[0] for text in part} for split, part in corpus.splits.items()}
    if named:
        assert firsts == {"train": {"0"}, "validation": {"1"}, "test": {"2"}}
    else:
        assert len(firsts["train"]) == len(names)


def test_equal_documents_stay_together():
    corpus = Corpus.from_texts([f"text {i % 10}" for i in range(100)])
    found = [set(part) for part in corpus.splits.values()]
    assert sum(map(len, found)) == len(set.union(*found)) == 10
    assert all(found)


def test_a_text_file_is_cut_into_documents_at_blank_lines(tmp_path):
    text = "\n\n".join(f"Paragraph {i}. " + "word " * 30 + "end." for i in range(200))
    path = tmp_path / "book.txt"
    path.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    documents = list(load_corpus(path).documents)
    assert 50 <= len(documents) <= 200
    assert all(part.startswith("Paragraph") and part.endswith("end.") for part in documents)
    assert "\n\n".join(documents) == text


def test_end_of_text_marks_and_long_texts_without_blank_lines(tmp_path):
    (tmp_path / "a.txt").write_text("one\n<|endoftext|>\ntwo\n\ntwo\n <|endoftext|> \n\n\nthree")
    assert list(load_corpus(tmp_path / "a.txt").documents) == ["one", "two\n\ntwo", "three"]
    lines = [f"line {i}" for i in range(1000)]
    (tmp_path / "b.txt").write_text("\n".join(lines))
    documents = list(load_corpus(tmp_path / "b.txt").documents)
    assert "\n".join(documents).split("\n") == lines
    assert 3 <= len(documents) <= 20


BAD_FILES = {
    "bad UTF-8": (
        "a.txt",
        b"fine\nso f\xffr",
        r"a\.txt, line 2: byte 0xff at offset 9 of the file is not UTF-8",
    ),
    "bad UTF-8 behind a mark": ("a.txt", b"\xef\xbb\xbfab\xff", r"line 1: byte 0xff at offset 5 of the file"),
    "UTF-16": ("a.txt", "hello".encode("utf-16"), r"line 1: NUL byte at offset 3 .* it looks like UTF-16"),
    "empty file": ("a.txt", b"", r"no examples in .*a\.txt"),
    "only newlines": ("a.txt", b"\n\r\n\n \n", r"no examples in .*a\.txt"),
    "only newlines, JSON": ("a.jsonl", b"\n\n\n", r"no examples in .*a\.jsonl"),
    "only a header": ("a.csv", b"text,id\n", r"no examples in .*a\.csv"),
    "long line": ("a.txt", b"x\n" + b"y" * 50_000_000, r"a\.txt, line 2: longer than 16,777,216 bytes"),
    "NUL": ("a.txt", b"one\ntwo\0three\n", r"a\.txt, line 2: NUL byte at offset 7 of the file"),
    "NUL in JSON": (
        "a.jsonl",
        b'{"text": "a\\u0000b"}',
        r"line 1, column 'text': NUL character at position 1",
    ),
    "surrogate": (
        "a.jsonl",
        b'{"text": "ab\\ud800"}',
        r"line 1, column 'text': unpaired surrogate '\\ud800' at",
    ),
    "broken JSON": ("a.jsonl", b'{"text": "a"}\n\n{"text": }\n', r"a\.jsonl, line 3, column 10: broken JSON"),
    "cut off JSON": ("a.jsonl", b'{"text": "a"}\n{"te', r"a\.jsonl, line 2, column 2: broken JSON"),
    "deep JSON": ("a.jsonl", b"[" * 200_000, r"a\.jsonl, line 1.*: broken JSON"),
    "huge integer": (
        "a.jsonl",
        b'{"text": ' + b"9" * 5000 + b"}",
        r"a\.jsonl, line 1: broken JSON: .*digits",
    ),
    "no object": ("a.jsonl", b'{"text": "a"}\n["b"]\n', r"line 2: list '\[\"b\"\]', wanted an object"),
    "mixed types": (
        "a.jsonl",
        b'{"text": "a"}\n{"text": 5}\n',
        r"line 2, column 'text': the text is int '5', wanted",
    ),
    "wrong type first": ("a.jsonl", b'{"text": [1]}\n', r"line 1, column 'text': the text is list '\[1\]'"),
    "missing later": (
        "a.jsonl",
        b'{"text": "a"}\n{"txt": "b"}',
        r"line 2: no column 'text'.* Did you mean 'txt'\?",
    ),
    "which column": (
        "a.jsonl",
        b'{"a": "x", "b": "y"}',
        r"several columns hold text \('a', 'b'\).*text_column=",
    ),
    "no text column": ("a.jsonl", b'{"a": 1}', r"line 1: no column holds text"),
    "ragged CSV": ("a.csv", b"id,text\n1,a\n2,b,c\n", r"a\.csv, line 3: 3 fields, wanted 2 \(id, text\)"),
    "ragged after a long field": ("a.csv", b'id,text\n1,"a\nb"\n2\n', r"a\.csv, line 4: 1 fields, wanted 2"),
    "open quote": ("a.csv", b'id,text\n1,a\n2,"b\n', r"a\.csv, line 3: broken CSV: unexpected end of data"),
    "stray quote": ("a.csv", b'id,text\n1,"a" b\n', r"a\.csv, line 2: broken CSV"),
    "column twice": ("a.csv", b"text,text\na,b\n", r"a\.csv, line 1: columns named twice: \['text'\]"),
    "no parquet": ("a.parquet", b"PAR1 this is not parquet", r"a\.parquet: cannot be read as parquet"),
    "empty parquet": ("a.parquet", b"", r"a\.parquet: cannot be read as parquet"),
    "unknown kind": ("a.docx", b"PK", r"a\.docx: cannot read a '\.docx' file; wanted \.txt"),
    "too few": (
        "a.jsonl",
        b'{"text": "a"}\n' * 9,
        r"1 different documents; wanted at least 3, so that train and ",
    ),
}


@pytest.mark.parametrize("row", BAD_FILES)
def test_bad_files(tmp_path, row):
    name, content, message = BAD_FILES[row]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_corpus(path)
    assert list(tmp_path.iterdir()) == [path]  # nothing is left beside it


def test_damage_in_the_middle_of_parquet_and_arrow(tmp_path):
    rows = [{"text": f"{i} " * 50} for i in range(5000)]
    path = write_table(tmp_path / "a.parquet", rows)
    raw = bytearray(path.read_bytes())
    raw[1000:1100] = bytes(100)
    path.write_bytes(raw)
    with pytest.raises(DataError, match=r"a\.parquet"):
        load_corpus(path)
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved")
    for file in (tmp_path / "saved").glob("*.arrow"):
        file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(DataError, match=r"saved: cannot be read as a saved data set"):
        load_corpus(tmp_path / "saved")


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_missing_column(tmp_path, suffix):
    path = write_table(tmp_path / f"rows{suffix}", [{"textbook": "a", "other": "b"}])
    with pytest.raises(DataError, match=r"no column 'textbok'; it has 'textbook', 'other'\. Did you mean 'textbook'\?"):
        load_corpus(path, text_column="textbok")


def test_a_column_of_numbers(tmp_path):
    path = write_table(tmp_path / "rows.parquet")
    with pytest.raises(DataError, match=r"column 'id' does not hold text; text is in \['text'\]"):
        load_corpus(path, text_column="id")


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        (
            {"dataset": "pyhton-docs"},
            DataError,
            r"neither 'python-docs', nor a file.* Did you mean 'python-docs'\?",
        ),
        ({"dataset": ""}, ConfigError, "dataset: is empty"),
        ({"dataset": "./nothing-here"}, DataError, r"\./nothing-here: no such file or folder"),
        ({"dataset": "x" * 5000}, DataError, "cannot be looked at"),
        ({"dataset": "a\0b.txt"}, DataError, "no such file or folder"),
        (
            {"use_subset": True},
            ConfigError,
            r"subset_size: None with use_subset=True; wanted an integer of at least 1",
        ),
        ({"use_subset": True, "subset_size": 0}, ConfigError, "subset_size: 0 "),
        ({"use_subset": True, "subset_size": 2.5}, ConfigError, "subset_size: 2.5 "),
        ({"seed": -1}, ConfigError, "seed: -1; wanted an integer of at least 0"),
    ],
)
def test_bad_arguments(arguments, kind, message):
    with pytest.raises(kind, match=message):
        load_corpus(**arguments)


def test_a_misspelt_path_names_the_file_beside_it(tmp_path):
    write_table(tmp_path / "stories.jsonl")
    with pytest.raises(DataError, match=r"no such file or folder\. Did you mean 'stories\.jsonl'\?"):
        load_corpus(tmp_path / "storeis.jsonl")


def test_folders_without_text(tmp_path):
    (tmp_path / "image.png").write_bytes(b"x")
    (tmp_path / ".hidden.txt").write_text("hidden")
    with pytest.raises(DataError, match=r"no examples in .*: it holds no \.txt"):
        load_corpus(tmp_path)


@pytest.mark.skipif("not hasattr(__import__('os'), 'mkfifo')")
def test_pipes_and_dangling_links_in_a_folder(tmp_path):
    import os

    write_table(tmp_path / "rows.jsonl")
    os.mkfifo(tmp_path / "pipe.txt")
    assert len(load_corpus(tmp_path).documents) == 20
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"link\.jsonl: cannot be read: No such file"):
        load_corpus(tmp_path)


def test_plain_text_has_no_columns(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(DataError, match="plain text has no columns, so text_column='body' cannot be found"):
        load_corpus(tmp_path / "a.txt", text_column="body")


def test_a_file_changed_while_in_use(tmp_path):
    path = write_table(tmp_path / "rows.jsonl")
    corpus = load_corpus(path)
    write_table(path, ROWS[:-1])
    with pytest.raises(DataError, match=r"rows\.jsonl: changed while it was in use; load the corpus again"):
        list(corpus.documents)
    path.unlink()
    with pytest.raises(DataError, match=r"rows\.jsonl: cannot be read: No such file"):
        list(corpus.splits["train"])


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", "saved"])
def test_subsets_of_files(tmp_path, suffix):
    path = tmp_path / f"rows{suffix}"
    if suffix == "saved":
        datasets.Dataset.from_list(ROWS).save_to_disk(path)
    else:
        write_table(path)
    few = load_corpus(path, use_subset=True, subset_size=10, seed=3)
    chosen = np.sort(np.random.default_rng(3).choice(20, 10, replace=False))
    assert list(few.documents) == [TEXTS[i] for i in chosen]
    assert len(load_corpus(path, use_subset=True, subset_size=1000).documents) == 20
    assert len(load_corpus(path, use_subset=False, subset_size=10).documents) == 20


def test_large_files_are_not_held_in_memory(tmp_path):
    import tracemalloc

    path = tmp_path / "large.jsonl"
    line = json.dumps({"text": "word " * 2000})
    with open(path, "w") as file:
        file.writelines(line.replace("word", f"w{i}", 1) + "\n" for i in range(2000))  # 20 MB
    tracemalloc.start()
    try:
        corpus = load_corpus(path)
        assert sum(len(text) for text in corpus.documents) > 19_000_000
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


def test_an_unreachable_hub_is_said_without_long_waits(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    waits = []
    monkeypatch.setattr(time, "sleep", waits.append)
    with pytest.raises(
        DataError,
        match=r"'nampdn-ai/tiny-textbooks': the hub cannot be reached.*'python-docs' is built in",
    ):
        load_corpus("nampdn-ai/tiny-textbooks", text_column="textbook", use_subset=True, subset_size=100)
    assert sum(waits) < 10
    after = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    assert after == before


def test_what_the_hub_client_gives_is_read(monkeypatch):
    asked = []

    def load_dataset(name, configuration):
        asked.append((name, configuration))
        if name == "no/such":
            raise FileNotFoundError("doesn't exist on the Hub")
        rows = [{"textbook": row["text"], "topic": "x"} for row in ROWS]
        return datasets.DatasetDict({"train": datasets.Dataset.from_list(rows)})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(hub, "hub_answers", lambda: True)
    corpus = load_corpus("owner/name:small", text_column="textbook")
    assert list(corpus.documents) == TEXTS and asked == [("owner/name", "small")]
    with pytest.raises(DataError, match=r"hub data set 'owner/name': several columns hold text"):
        load_corpus("owner/name")
    with pytest.raises(DataError, match=r"'no/such': doesn't exist on the Hub \(FileNotFoundError\); .*python-docs"):
        load_corpus("no/such")


def test_given_splits_without_train(tmp_path):
    write_table(tmp_path / "test.jsonl")
    write_table(tmp_path / "val.jsonl")
    with pytest.raises(DataError, match="no documents for training, only held-out ones"):
        load_corpus(tmp_path)


def test_the_line_limit_is_for_lines_not_files(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "MAX_LINE_BYTES", 10)
    (tmp_path / "a.txt").write_bytes(b"0123456789\n" * 5)
    assert [line for _, line in sources.read_lines(tmp_path / "a.txt")] == ["0123456789"] * 5
    (tmp_path / "a.txt").write_bytes(b"0123456789\n0123456789a\n")
    with pytest.raises(DataError, match="line 2: longer than 10 bytes"):
        list(sources.read_lines(tmp_path / "a.txt"))
