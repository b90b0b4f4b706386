"""Does every text and object come out the same on SQLite and on PostgreSQL?"""

from __future__ import annotations

from flask.testing import FlaskClient

from . import test_golden_json as objects
from . import test_golden_text as texts
from .pool import FixedPool


def test_all_views(info: FlaskClient, pool: FixedPool) -> None:
    for path, method, args, expected in texts.BOTH:
        texts.test_the_same_in_both_layouts(info, path, method, args, expected)
    for path, method, args, r, x in texts.DIFFERENT:
        texts.test_each_in_its_layout(info, path, method, args, r, x)
    for which in texts.LISTS:
        texts.test_job_lists(info, which)
    texts.test_shares(info)
    texts.test_shared_objects_has_five_blocks(info)
    for name in texts.JOBS:
        texts.test_one_job(info, pool, name)
    texts.test_job_of_an_external_queue_shows_its_own_status(info, pool)
    objects.test_vm(info)
    objects.test_spot_request_not_filled_yet(info)
    objects.test_cluster_and_pool(info)
    objects.test_job_of_the_built_in_queue(info, pool)
    objects.test_job_of_an_external_queue(info, pool)
    objects.test_job_pool_holds_strings(info)
    texts.test_the_shadow_is_listed_last_and_counts_nowhere(info, pool)
