"""Many hosts at once, written straight into the tables: lists are the subject, not how hosts come."""

from __future__ import annotations

from cloudsched import clock
from cloudsched.store import centres, nodes
from cloudsched.store.db import Tx, write


def many_hosts(centre_key: str, count: int) -> None:
    """`count` hosts of a centre."""
    centre = centres.centre(centre_key)
    assert centre is not None

    def insert(tx: Tx) -> None:
        at = clock.now()
        for number in range(count):
            ip = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
            node = nodes.insert(tx, {"name": f"h{number}", "cloud_id": centre.cloud_id, "state": "running"}, at=at)
            centres.insert(tx, "centre_host", {
                "key": f"host-{number:016d}", "node_id": node, "centre_key": centre_key, "name": f"host {number}", "ip": ip,
                "adminuser": "root", "adminpwd": "sealed:1:" + "x" * 100, "enable_date": "2025-01-01",
                "export_date": "9999-12-31",
                "external_ip": "未设置", "created_at": at, "updated_at": at})

    write(insert)
