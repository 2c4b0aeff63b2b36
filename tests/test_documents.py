"""YAML and JSON that would never end, exhaust memory or raise unexpected errors give a one-line InputError."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.kubernetes.settings import load_cluster
from slowfast_core.documents import read_json, read_json_object, read_yaml
from slowfast_core.errors import LONGEST, InputError
from slowfast_core.recipe.load import load_recipe

TINY = "name: tiny\ndata: {name: motion}\n"


def doubled(line: str) -> str:
    """Repeat `line` so that each contains the one before twice: 2^60 values, or a mapping of 2^60 keys."""
    return "a0: &a0 {x: 1}\n" + "\n".join(line.format(n=n, b=n - 1) for n in range(1, 60))


LINES = {
    TINY + "seed: " + "1" * 5000: "a number of thousands of digits",
    TINY + "seed: 0x" + "f" * 3000: "an integer of more than 19 digits",
    TINY + "seed: " + "[" * 5000: "not YAML: nested too deeply",
    TINY + "seed: &a [*a]": "nested more than 50 levels",
    TINY + doubled("a{n}: &a{n} [*a{b}, *a{b}]"): "nested more than 50 levels",
    TINY + doubled("a{n}: &a{n} {{<<: [*a{b}, *a{b}]}}"): "",
    TINY + "seed: {<<: [" + "{a: 1}, " * 200 + "]}": "more than 100 merged mappings",
    TINY + "seed: !!bool x": "wrong value 'x'",
    TINY + "seed: !!int ''": "wrong value ''",
    TINY + "seed: [" + "1," * 40_000 + "]": "characters; at most 65,536 are allowed",
    "name: tiny\ndata: {name: a, holdout: 2001-13-45}": "wrong value '2001-13-45': month must be in 1..12",
    "name: tiny\ndata: {name: a, holdout: 2001-11-05}": "data.holdout: must be a number, is a date, 2001-11-05",
    TINY + "model: {beta: 1e999999999}": "model.beta: must be a finite number",
    TINY + "train: {learning_rate: .inf}": "train.learning_rate: must be a finite number",
    TINY + "1: 2": "1: has a key that is not text",
    TINY + "extends: " + "x" * 5000: "no recipe 'xxx",
    TINY + "finetune: " + "x/" * 5000: "no recipe 'x/x",
    TINY + 'extends: "a\\nb\\e[31m"': r"no recipe 'a\nb\x1b[31m'",
}


@pytest.mark.parametrize("text", LINES, ids=range(len(LINES)))
def test_malformed_recipes_are_refused_in_one_line(text: str, tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(text)
    started = time.monotonic()
    with pytest.raises(InputError) as error:
        load_recipe(str(path))
    assert time.monotonic() - started < 20
    assert LINES[text] in str(error.value)
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 3 * LONGEST


@pytest.mark.parametrize("text", ["a: &b {c: 1}\nd: *b", "a: &b {c: 1}\nd: {<<: *b, e: 2}", "a: [[[[[[[[1]]]]]]]]"])
def test_ordinary_anchors_and_nesting_are_read(text: str) -> None:
    assert read_yaml(text, "x")["a"]


def test_an_error_in_an_override_names_the_override(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(TINY)
    with pytest.raises(InputError, match=r"the value of 'seed' is not YAML.*\(--set\)"):
        load_recipe(str(path), ["seed=" + "1" * 5000])
    with pytest.raises(
        InputError, match=r"must be a whole number, is 'x' \(--set train={epochs: x}\); correct the value"
    ):
        load_recipe(str(path), ["seed=3", "train={epochs: x}"])


@pytest.mark.parametrize("address", ["https:/example.com", "http:example.com", "s3:/bucket", "https://", "s3:// x"])
@pytest.mark.parametrize(
    "key", ["tracking.uri", "data.source", "data.remote", "data.endpoint_url", "train.checkpoint_store"]
)
def test_a_mistyped_address_is_refused_and_not_used_as_a_folder(key: str, address: str, tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(TINY)
    with pytest.raises(InputError, match=rf"{key}: an address starts with \w+:// and a name, is '{address}'"):
        load_recipe(str(path), [f'{key}="{address}"'])


def test_nesting_of_cluster_settings_is_limited(tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text("host: " + "[" * 5000)
    with pytest.raises(InputError, match=r"nested too deeply \(.*cluster\.yaml\); correct the settings"):
        load_cluster(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "not JSON: nested too deeply (x); correct"),
        ("1" * 5000, "not JSON: a number of thousands of digits (x); correct"),
        ('{\n"a": 1,\n}', "not JSON: Expecting property name enclosed in double quotes (x:3); correct"),
    ],
)
def test_malformed_json_is_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        read_json(text, "x")
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    "write",
    [
        lambda path: None,
        lambda path: path.mkdir(),
        lambda path: path.write_bytes(b"\xff\xfe"),
        lambda path: path.write_text("[1]"),
        lambda path: path.write_text("{" + '"a":{' * 50_000),
    ],
)
def test_unreadable_records_are_refused(write: Callable[[Path], object], tmp_path: Path) -> None:
    write(tmp_path / "record.json")
    with pytest.raises(InputError, match=r"record\.json.*; write it$"):
        read_json_object(tmp_path / "record.json", "no record", "write it")
