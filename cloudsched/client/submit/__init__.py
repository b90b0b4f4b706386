"""How does a HTCondor submit description become jobs of ours?

`read` takes a file, `read_text` a text; both answer a `Submission`. Standard library only: this runs where
the user types ``cloudsched submit job.sub``.
"""

from cloudsched.client.submit.description import Submission, read, read_text
from cloudsched.client.submit.errors import Place, SubmitError
from cloudsched.client.submit.quoting import join_arguments, split_arguments, split_environment

__all__ = [
    "Place",
    "Submission",
    "SubmitError",
    "join_arguments",
    "read",
    "read_text",
    "split_arguments",
    "split_environment",
]
