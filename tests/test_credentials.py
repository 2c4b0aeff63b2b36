"""Credentials in addresses are removed from everything written, and still reach the stages that connect."""

from __future__ import annotations

import json
import time

import pytest

from slowfast_core.credentials import for_stages, left_out, restored, without_credentials
from slowfast_core.data.versions.remote import Address
from slowfast_core.errors import InputError
from slowfast_core.recipe.load import load_recipe, parse_recipe

PASSWORD = "correct-horse"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://me:correct-horse@host:5000/a?b=c", "http://host:5000/a?b=c"),
        ("no answer from http://me:correct-horse@host/x; start it", "no answer from http://host/x; start it"),
        ("https://token@host/x", "https://host/x"),
        ("postgresql://me:p@ss@host:5432/db", "postgresql://host:5432/db"),
        ("http://me:correct/horse@host:5000", "http://host:5000"),
        ("https://h/x?X-Amz-Signature=abc&n=1&token=def", "https://h/x?X-Amz-Signature=***&n=1&token=***"),
        ("ssh://me:correct-horse@host/x", "ssh://host/x"),
        ("ssh://me@host/x", "ssh://me@host/x"),
        ("http://host:5000/a@b", "http://host:5000/a@b"),
        ("s3://bucket/a@b", "s3://bucket/a@b"),
        ("models:/name@champion", "models:/name@champion"),
        ("sqlite:////a/b@c/mlflow.db", "sqlite:////a/b@c/mlflow.db"),
    ],
)
def test_only_the_credentials_of_addresses_are_removed(text: str, expected: str) -> None:
    assert without_credentials(text) == expected
    assert without_credentials(expected) == expected


@pytest.mark.parametrize("piece", ["a", "://", "a:b://", "?", "?sig", "http://a:", "@"])
def test_run_time_is_bounded_for_any_text(piece: str) -> None:
    started = time.monotonic()
    without_credentials(piece * 100_000)
    assert time.monotonic() - started < 30  # quadratic run time would be minutes


ADDRESSES = ("tracking.uri", "data.remote", "data.endpoint_url", "data.remote_endpoint_url", "train.checkpoint_store",
             "train.checkpoint_endpoint_url", "compute.address", "train.init_from", "data.labels")  # fmt: skip


def test_written_recipes_have_no_credentials_and_stages_get_them_back() -> None:
    overrides = [f"{name}=https://me:{PASSWORD}@host/{name}?token={PASSWORD}" for name in ADDRESSES]
    recipe = load_recipe("demo", overrides)
    assert recipe.tracking.uri == f"https://me:{PASSWORD}@host/tracking.uri?token={PASSWORD}"
    for written in (recipe.to_json(), recipe.to_yaml(), str(recipe.model_dump()), recipe.tracking.model_dump_json()):
        assert PASSWORD not in written
    environment = {"SLOWFAST_CREDENTIALS": for_stages(recipe)}
    assert parse_recipe(restored(json.loads(recipe.to_json()), environment)) == recipe
    assert restored(json.loads(recipe.to_json()), {}) == json.loads(recipe.to_json())
    lines = left_out("the pipeline", recipe)
    assert len(lines) == len(ADDRESSES)
    assert PASSWORD not in "".join(lines)


def test_an_error_message_has_no_credentials() -> None:
    error = InputError("cannot connect", f"http://me:{PASSWORD}@host", f"not http://me:{PASSWORD}@host")
    assert str(error) == "cannot connect (http://host); not http://host"
    assert str(InputError.from_line(f"see http://me:{PASSWORD}@host")) == "see http://host"


def test_a_remote_is_recorded_without_credentials() -> None:
    address = Address(f"webdavs://me:{PASSWORD}@host/dvc", f"https://me:{PASSWORD}@host")
    assert address.recorded == Address("webdavs://host/dvc", "https://host")
