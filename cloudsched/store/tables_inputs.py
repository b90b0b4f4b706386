"""What is kept of the input files of jobs? Each content once, in pieces, and which job has which. Beside those of tables.py."""

from __future__ import annotations

from peewee import BigAutoField, BigIntegerField, BlobField, CompositeKey, IntegerField, TextField

from cloudsched.store.tables import Table


class Content(Table):
    """Bytes that any number of jobs share. `digest`: their SHA-256 in hex."""

    id = BigAutoField()
    digest = TextField(unique=True)
    size = BigIntegerField()


class ContentPiece(Table):
    """A part of a content."""

    content_id = BigIntegerField()
    offset = BigIntegerField()
    size = IntegerField()
    data = BlobField()

    class Meta:
        primary_key = CompositeKey("content_id", "offset")


class JobInput(Table):
    """An input file of a job; small ones, and those of old databases, are `in/NAME` of job_data instead."""

    job_id = BigIntegerField()
    name = TextField()
    content_id = BigIntegerField()

    class Meta:
        primary_key = CompositeKey("job_id", "name")


ALL: tuple[type[Table], ...] = (Content, ContentPiece, JobInput)

INDEXES = ("CREATE INDEX job_input_content ON job_input (content_id)",)
