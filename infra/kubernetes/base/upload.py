"""Uploads a file to PREFIX/<UTC time>-<name> in $SLOWFAST_BUCKET and checks the size of the stored object."""

import os
import sys
from datetime import UTC, datetime
from pathlib import Path

import boto3


def main(file: Path, prefix: str) -> None:
    key = f"{prefix}/{datetime.now(UTC):%Y-%m-%dT%H%M%SZ}-{file.name}"
    bucket = os.environ["SLOWFAST_BUCKET"]
    s3 = boto3.client("s3")
    s3.upload_file(str(file), bucket, key)
    stored = s3.head_object(Bucket=bucket, Key=key)["ContentLength"]
    if stored != file.stat().st_size:
        raise SystemExit(f"s3://{bucket}/{key} has {stored} of {file.stat().st_size} bytes")
    print(f"s3://{bucket}/{key}: {stored} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
