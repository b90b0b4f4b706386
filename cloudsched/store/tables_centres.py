"""What is kept of compute centres, their hosts and labels? Their tables, beside those of tables.py.

A centre is a cloud of kind `Centre`, a host is a node of it; what only the kboss dialect knows of them is here.
"""

from __future__ import annotations

from peewee import BigAutoField, BigIntegerField, DoubleField, IntegerField, TextField

from cloudsched.store.tables import Table, number, text


class Centre(Table):
    """A compute centre. `api_pwd` is a sealed token; `removed_at`: kept as history since then."""

    id = BigAutoField()
    key = TextField(unique=True)
    cloud_id = IntegerField(unique=True)
    name = TextField()
    org = text()
    pcapi_url = text()
    api_user = text()
    api_pwd = text()
    enable_date = text()
    expire_date = text()
    contactname = text()
    contactphone = text()
    expiry_noted = text()
    created_at = DoubleField()
    updated_at = DoubleField()
    removed_at = DoubleField(null=True)


class CentreHost(Table):
    """A machine of a centre. `cluster_key` is empty while it is in none; `node_status` 0: idle, 1: occupied."""

    id = BigAutoField()
    key = TextField(unique=True)
    node_id = BigIntegerField(unique=True)
    centre_key = TextField()
    name = TextField()
    cluster_key = text()
    node_status = text("0")
    ip = TextField()
    devicetype = text("0")
    sshport = number(22)
    adminuser = text()
    adminpwd = text()
    enable_date = text()
    export_date = text()
    external_ip = text()
    cpu_model = text("STANDARD")
    cpu_stock = number()
    memory_model = text("STANDARD")
    memory_stock = number()
    sysdisk_stock = number()
    datadisk_stock = number()
    gpu_model = text("STANDARD")
    gpu_stock = number()
    role = text()
    options = text("{}")
    created_at = DoubleField()
    updated_at = DoubleField()
    removed_at = DoubleField(null=True)


class CentreLabel(Table):
    """A label that an organisation uses: `labeltype` 0 for instances (`:`), 1 for nodes (`=`)."""

    id = BigAutoField()
    key = TextField(unique=True)
    name = text()
    org = text()
    labeltype = text("0")
    label_key = TextField()
    label_value = text()
    updated_at = DoubleField()


class CentreRequest(Table):
    """A request of a managing server that began an operation here: said again, it begins none."""

    reference = TextField(primary_key=True)
    operation_id = BigIntegerField()
    at = DoubleField()


ALL: tuple[type[Table], ...] = (Centre, CentreHost, CentreLabel, CentreRequest)

INDEXES: tuple[str, ...] = (
    "CREATE INDEX centre_org ON centre (org, id)",
    "CREATE INDEX centre_host_centre ON centre_host (centre_key, id) WHERE removed_at IS NULL",
    "CREATE INDEX centre_host_cluster ON centre_host (cluster_key, id) WHERE cluster_key <> ''",
    "CREATE UNIQUE INDEX centre_host_address ON centre_host (centre_key, ip, sshport) WHERE removed_at IS NULL",
    "CREATE INDEX centre_label_org ON centre_label (org, id)",
)
