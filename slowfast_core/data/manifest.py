"""The manifest, a Parquet file that all stages read: one row per clip (Kinetics) or key frame (AVA)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from slowfast_core.errors import InputError
from slowfast_core.files import whole_file

SCHEMA = pa.schema(
    [
        ("id", pa.string()),  # unique in the manifest, safe as a file name
        ("video", pa.string()),  # the source video
        ("path", pa.string()),  # relative to the manifest's folder; empty if the file is missing
        ("split", pa.string()),
        ("labels", pa.list_(pa.int32())),  # class indices from 0; AVA: union over all boxes
        ("start", pa.float64()),  # seconds of the segment in the file
        ("end", pa.float64()),  # NaN means the end of the file
        ("frames", pa.int64()),  # of the segment; null until the file is decoded, like the next three
        ("fps", pa.float64()),
        ("width", pa.int64()),
        ("height", pa.int64()),
        ("bytes", pa.int64()),
        ("sha256", pa.string()),
        ("second", pa.int64()),  # AVA: timestamp in the annotation, else null
        ("key", pa.float64()),  # AVA: seconds of the key frame in the file, else NaN
        ("boxes", pa.list_(pa.list_(pa.float64()))),  # AVA: [x1, y1, x2, y2] in [0, 1], else null
        ("box_labels", pa.list_(pa.list_(pa.int32()))),  # AVA: class indices of each box
        ("proposals", pa.list_(pa.list_(pa.float64()))),  # AVA: detected people, [x1, y1, x2, y2, score]
        ("spans", pa.list_(pa.list_(pa.float64()))),  # multi-label: [class, start, end] in seconds of the file
    ]
)
MOST_ROWS = 50_000_000
LARGEST = 2**34  # bytes after decompression
DAMAGED = (pa.ArrowException, OSError, LookupError, ArithmeticError, TypeError, ValueError, RecursionError)
REWRITE = "run the stage that writes it again"
OPTIONAL = ("proposals", "spans")  # omitted if no row has them: the bytes of other data sets must not change


@dataclass(frozen=True)
class Manifest:
    """Rows and class names: `labels[c]` is the name of class c, empty if the label map omits its id."""

    rows: pd.DataFrame
    labels: tuple[str, ...]

    def split(self, name: str) -> Manifest:
        return Manifest(self.rows[self.rows["split"] == name].reset_index(drop=True), self.labels)

    def write(self, path: Path) -> None:
        absent = [name for name in OPTIONAL if name not in self.rows or self.rows[name].isna().all()]
        schema = pa.schema([field for field in SCHEMA if field.name not in absent])
        table = pa.Table.from_pandas(self.rows[schema.names], schema=schema, preserve_index=False)
        table = table.replace_schema_metadata({"labels": json.dumps(self.labels)})
        with whole_file(path) as temporary:
            pq.write_table(table, temporary)


def read_manifest(path: Path) -> Manifest:
    """Read a manifest. Raises InputError if the file is missing or not a manifest."""
    if not path.is_file():
        raise InputError("no manifest", path, "run the stage that writes it first")
    try:
        with pq.ParquetFile(path) as file:
            check_size(file.metadata)
            table = file.read()
        labels = json.loads(table.schema.metadata[b"labels"])
        for name in OPTIONAL:
            if name not in table.column_names:
                table = table.append_column(SCHEMA.field(name), pa.nulls(len(table), SCHEMA.field(name).type))
        table = table.select(SCHEMA.names).cast(SCHEMA)
        table.validate(full=True)  # a damaged file may have offsets outside its data
        rows = table.to_pandas()
    except DAMAGED as error:
        raise InputError(f"not a manifest: {' '.join(str(error).split())}", path, REWRITE) from None
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise InputError("not a manifest: its labels are not names", path, REWRITE)
    return Manifest(rows, tuple(labels))


def check_size(metadata: pq.FileMetaData) -> None:
    """Raises ValueError if the header claims an excessive size."""
    groups = (metadata.row_group(number) for number in range(metadata.num_row_groups))
    size = sum(group.total_byte_size for group in groups)
    if not 0 <= metadata.num_rows <= MOST_ROWS or not 0 <= size <= LARGEST:
        raise ValueError(f"it claims {metadata.num_rows:,} rows and {size:,} bytes")
