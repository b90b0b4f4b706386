"""Which commands of compute centres are there? One row each: its words, its path in the API, what it takes and shows."""

from __future__ import annotations

from typing import Any, NamedTuple


class Take(NamedTuple):
    """Something on the command line: `flag` as --NAME or a NAME by position, and the API's parameter it becomes.

    `kind`: text, flag, whole, file (the option's value is a file that holds it; `-`: standard input), days, fields (NAME=VALUE),
    device, occupied (words for the API's numbers).
    """

    flag: str
    param: str
    help: str
    kind: str = "text"
    needed: bool = False


class Command(NamedTuple):
    """`columns`: heading -> member of a row; without them what was changed is said. `long`: it is followed to its end."""

    words: str
    text: str
    path: str
    takes: tuple[Take, ...] = ()
    columns: tuple[tuple[str, str], ...] = ()
    long: bool = False
    changes: bool = False
    fixed: tuple[tuple[str, Any], ...] = ()
    ask: str = ""


_DEV = "/dev/cpcc"
_CENTRE = Take("CENTRE", "cpcid", "id of a compute centre")
_CLUSTER = Take("CLUSTER", "clusterid", "id of a cluster")
_ID = Take("ID", "id", "its id")
_ORG = Take("--org", "orgid", "organisation (an administrator's choice)")
_FORCE = Take("--force", "force", "even when something is in the way", "flag")
_PAGE = (Take("--page", "page", "page, from 1", "whole"), Take("--rows", "rows", "rows of a page", "whole"),
         Take("--sort", "sort", "NAME or -NAME"))
_CENTRE_FACTS = (
    Take("--url", "pcapi_url", "address of its pcapi; nothing or `local`: this server"),
    Take("--api-user", "api_user", "user name at its pcapi"),
    Take("--api-password-file", "api_pwd", "file that holds the password at its pcapi", "file"),
    Take("--contact", "contactname", "whom to ask"), Take("--phone", "contactphone", "and how"),
    Take("--from", "enable_date", "first day, YYYY-MM-DD"), Take("--until", "expire_date", "last day"))
_HOST_FACTS = (
    Take("--port", "sshport", "port of SSH (22)", "whole"), Take("--user", "adminuser", "account"),
    Take("--password-file", "adminpwd", "file that holds its password, or a private key in PEM", "file"),
    Take("--type", "devicetype", "virtual or physical (0 or 1)", "device"),
    Take("--occupied", "node_status", "yes or no (1 or 0)", "occupied"),
    Take("--external-ip", "external_ip", "address from outside"), Take("--cpu-model", "cpu_model", "model of its CPUs"),
    Take("--cores", "cpu_stock", "cores", "whole"),
    Take("--memory-model", "memory_model", "model of its memory"),
    Take("--memory-gi", "memory_stock", "memory in Gi", "whole"),
    Take("--system-gi", "sysdisk_stock", "system disk in Gi", "whole"),
    Take("--data-gi", "datadisk_stock", "data disk in Gi", "whole"), Take("--gpu-model", "gpu_model", "model of its GPUs"),
    Take("--gpus", "gpu_stock", "GPU cards", "whole"), Take("--options", "options", "JSON: how it is set up for installations"),
    Take("--from", "enable_date", "first day, YYYY-MM-DD"), Take("--until", "export_date", "last day"))
_FIELDS = Take("FIELD", "", "NAME=VALUE as the API calls it (source_name=..., source_cpurate=500m, ...)", "fields")
_PASSWORD = Take("--password-file", "source_authpasswd", "file that holds the account's password in it", "file")
_CENTRES = (("ID", "id"), ("NAME", "name"), ("ORG", "orgid"), ("PCAPI", "pcapi_url"), ("FROM", "enable_date"),
            ("UNTIL", "expire_date"), ("CONTACT", "contactname"))
_HOSTS = (("ID", "id"), ("NAME", "name"), ("ADDRESS", "ip"), ("PORT", "sshport"), ("STATE", "node_status_text"),
          ("ROLE", "role"), ("CLUSTER", "cluster_name"), ("CORES", "cpu_stock"), ("MEMORY GI", "memory_stock"),
          ("GPUS", "gpu_stock"), ("GPU", "gpu_model"))
_CLUSTERS = (("ID", "id"), ("NAME", "name"), ("KIND", "clustertype_text"), ("READY", "ready"), ("STATE", "state"),
             ("CONTROLLER", "controllerid_text"), ("FROM", "enable_date"), ("UNTIL", "export_date"))
_PODS = (("NAMESPACE", "pod_namespace"), ("NAME", "pod_name"), ("READY", "pod_ready"), ("STATE", "pod_running"),
         ("RESTARTS", "pod_restart"), ("AGE", "pod_age"), ("NODE", "pod_node"), ("CPU", "pod_cpurate"), ("MEMORY", "pod_memrate"))
_NODES = (("NAME", "node_name"), ("STATE", "node_status"), ("ROLE", "node_role"), ("AGE", "node_age"),
          ("VERSION", "node_version"), ("ADDRESS", "node_internalip"), ("CPU", "node_cpurate"), ("MEMORY", "node_memrate"),
          ("FREE CPU", "available_cpu"), ("FREE MEMORY", "available_memory"), ("FREE GPUS", "available_gpu"))
_INSTANCES = (("ID", "id"), ("NAME", "source_name"), ("ENGINE", "source_podengine"), ("REPLICAS", "source_replicasetnum"),
              ("IMAGE", "pod_imagepath"), ("CPU", "source_cpurate"), ("MEMORY", "source_memrate"), ("PORT", "source_outsideport"),
              ("NAMESPACE", "namespace_name"))
_PARTS = (("ID", "id"), ("TYPE", "type"), ("MODEL", "model"), ("PRICE", "unit_price"), ("MONEY", "account_unit"),
          ("PER", "charge_unit"), ("UNIT", "resource_unit"), ("STOCK", "stock"), ("CONSUMED", "consumed"))
_LABELS = (("ID", "id"), ("NAME", "name"), ("TYPE", "labeltype"), ("KEY", "label_key"), ("VALUE", "label_value"),
           ("ORG", "orgid"))
_USAGE = (("TIME", "time"), ("ORG", "orgid"), ("INSTANCE", "id"), ("CLUSTER", "clusterid"), ("CORE HOURS", "core_hours"),
          ("GI HOURS", "memory_gi_hours"), ("DISK GI HOURS", "disk_gi_hours"), ("GPU HOURS", "gpu_hours"), ("COST", "cost"))
_BUDGETS = (("ORG", "orgid"), ("MONTH", "month"), ("AMOUNT", "amount"), ("SPENT", "spent"), ("WARN %", "warn"), ("HARD", "hard"),
            ("STOPS", "stop"), ("OVER", "over"))
_AUDIT = (("ID", "id"), ("TIME", "time"), ("USER", "user"), ("ORG", "orgid"), ("ACTION", "action"), ("OBJECT", "object"))
_SPAN = (Take("--month", "month", "YYYY-MM"), Take("--from", "from", "first day"), Take("--to", "to", "last day"),
         Take("--centre", "cpcid", "of this centre"), Take("--cluster", "clusterid", "of this cluster"),
         Take("--instance", "id", "of this instance"))

COMMANDS: tuple[Command, ...] = (
    Command("list", "list compute centres", f"{_DEV}/cpclist/get_cpclist.dspy", (_ORG, *_PAGE), _CENTRES),
    Command("add", "add a compute centre", f"{_DEV}/cpclist/add_cpclist.dspy",
            (Take("NAME", "name", "its name"), *_CENTRE_FACTS, _ORG), changes=True),
    Command("set", "change a compute centre", f"{_DEV}/cpclist/update_cpclist.dspy",
            (_ID, Take("--name", "name", "its name"), *_CENTRE_FACTS), changes=True),
    Command("remove", "remove a compute centre that is empty", f"{_DEV}/cpclist/delete_cpclist.dspy", (_ID,), changes=True,
            ask="remove the compute centre"),
    Command("hosts list", "list the hosts of a centre", f"{_DEV}/cpcnode/get_cpcnode.dspy", (_CENTRE, *_PAGE), _HOSTS),
    Command("hosts idle", "list hosts that are idle", f"{_DEV}/cpcnode/get_cpcidle_device.dspy", (_CENTRE,), _HOSTS[:4]),
    Command("hosts add", "add a host", f"{_DEV}/cpcnode/add_cpcnode.dspy", (
        _CENTRE, Take("NAME", "name", "its name"), Take("ADDRESS", "ip", "IP address or host name"), *_HOST_FACTS), changes=True),
    Command("hosts set", "change a host", f"{_DEV}/cpcnode/update_cpcnode.dspy", (
        _ID, Take("--name", "name", "its name"), Take("--address", "ip", "IP address or host name"), *_HOST_FACTS), changes=True),
    Command("hosts remove", "remove a host that is idle", f"{_DEV}/cpcnode/delete_cpcnode.dspy", (_ID,), changes=True,
            ask="remove the host"),
    Command("clusters list", "list the clusters of a centre", f"{_DEV}/cpccluster/get_cpccluster.dspy", (
        _CENTRE, Take("--all", "all", "also those that have ended", "flag")), _CLUSTERS),
    Command("clusters new", "make a cluster with an idle host as its controller", f"{_DEV}/cpccluster/new_cluster.dspy", (
        _CENTRE, Take("HOST", "ctl_nodeid", "id of an idle host"), Take("NAME", "cluster_name", "its name"),
        Take("--kind", "cluster_type", "kubernetes or slurm", needed=True), Take("--options", "options", "JSON: what to install"),
        Take("--from", "enable_date", "first day"), Take("--until", "export_date", "last day")), long=True, changes=True),
    Command("clusters set", "change name or days of a cluster", f"{_DEV}/cpccluster/update_cpccluster.dspy", (
        _ID, Take("--name", "name", "its name"), Take("--from", "enable_date", "first day"),
        Take("--until", "export_date", "last day")), changes=True),
    Command("clusters remove", "take a cluster apart; its hosts become idle", "/computing/cpcluster_delete.dspy", (_ID, _FORCE),
            long=True, changes=True, ask="take the cluster apart"),
    Command("clusters grow", "make an idle host a worker", f"{_DEV}/cpcworker/new_cpcworker.dspy", (
        _CLUSTER, Take("HOST", "worker_nodeid", "id of an idle host"),
        Take("--options", "options", "JSON: what to install")), long=True, changes=True),
    Command("clusters shrink", "drain a worker and take it out", f"{_DEV}/cpcworker/delete_cpcworker.dspy", (
        _CLUSTER, Take("HOST", "worker_nodeid", "id, name or node name of a worker"), _FORCE), long=True, changes=True,
            ask="take the worker out"),
    Command("clusters nodes", "what the nodes of a cluster do now", f"{_DEV}/cpcworker/get_cpcworker.dspy",
            (_CENTRE, _CLUSTER), _NODES),
    Command("clusters pods", "what runs in a cluster now", f"{_DEV}/cpcpod/get_cpcpod.dspy", (_CENTRE, _CLUSTER), _PODS),
    Command("clusters cordon", "let a node take nothing new", f"{_DEV}/cpcworker/switch_cpcworker.dspy", (
        _CLUSTER, Take("NODE", "worker_node", "name of a node"),
        Take("--drain", "drain", "what runs there goes elsewhere", "flag")),
            changes=True, fixed=(("state", "cordon"),)),
    Command("clusters uncordon", "let a node take work again", f"{_DEV}/cpcworker/switch_cpcworker.dspy", (
        _CLUSTER, Take("NODE", "worker_node", "name of a node")), changes=True, fixed=(("state", "uncordon"),)),
    Command("clusters label", "set a label of a node", f"{_DEV}/cpclabel/setup_cpclabel.dspy", (
        _CENTRE, _CLUSTER, Take("NODE", "worker_node", "name of a node"), Take("LABEL", "label", "KEY=VALUE")), changes=True,
            fixed=(("opt", "label"),)),
    Command("clusters unlabel", "take a label from a node", f"{_DEV}/cpclabel/setup_cpclabel.dspy", (
        _CENTRE, _CLUSTER, Take("NODE", "worker_node", "name of a node"), Take("LABEL", "label", "KEY or KEY=VALUE")),
            changes=True, fixed=(("opt", "unlabel"),)),
    Command("labels list", "list labels", f"{_DEV}/cpclabel/get_cpclabel.dspy", (_ORG,), _LABELS),
    Command("labels add", "add a label", f"{_DEV}/cpclabel/add_cpclabel.dspy", (
        Take("NAME", "name", "its name"), Take("KEY", "label_key", "key"), Take("VALUE", "label_value", "value"),
        Take("--type", "labeltype", "0: of instances, 1: of nodes", needed=True), _ORG), changes=True),
    Command("labels remove", "remove a label", f"{_DEV}/cpclabel/delete_cpclabel.dspy", (_ID,), changes=True),
    Command("instances list", "list resource instances", f"{_DEV}/cpcpodyaml/get_cpcpodyaml.dspy",
            (_CENTRE, _CLUSTER, _ORG), _INSTANCES),
    Command("instances new", "make a resource instance", f"{_DEV}/cpcpodyaml/new_cpcpodyaml.dspy",
            (_CLUSTER, _FIELDS, _PASSWORD, _ORG), changes=True),
    Command("instances set", "change a resource instance", f"{_DEV}/cpcpodyaml/update_cpcpodyaml.dspy", (
        _CENTRE, _CLUSTER, _ID, _FIELDS, _PASSWORD, _ORG), changes=True),
    Command("instances stop", "let nothing of an instance run", f"{_DEV}/cpcpodyaml/stop_cpcpodyaml.dspy", (_ID,), changes=True),
    Command("instances start", "let it run again", f"{_DEV}/cpcpodyaml/start_cpcpodyaml.dspy", (_ID,), changes=True),
    Command("instances remove", "remove a resource instance and all it has", f"{_DEV}/cpcpodyaml/delete_cpcpodyaml.dspy", (_ID,),
            changes=True, ask="remove the instance with its data"),
    Command("parts list", "list parts with prices and stock", f"{_DEV}/cpcwidget/get_cpcwidget.dspy", (_CENTRE, *_PAGE), _PARTS),
    Command("parts add", "add a part", f"{_DEV}/cpcwidget/add_cpcwidget.dspy", (
        _CENTRE, Take("TYPE", "type", "cpu, memory, disk, gpu"), Take("MODEL", "model", "its model"),
        Take("--price", "unit_price", "price of a unit", needed=True), Take("--unit", "resource_unit", "what is priced"),
        Take("--per", "charge_unit", "second, minute, hour, day"), Take("--money", "account_unit", "yuan, jiao, fen"),
        Take("--stock", "stock", "how much is there beside what hosts have"), Take("--cluster", "clusterid", "in this cluster"),
        Take("--more", "add_opt", "add to the stock of one that exists", "flag")), changes=True),
    Command("parts price", "change the price of a part", f"{_DEV}/cpcwidget/update_cpcwidget.dspy", (
        _CENTRE, _ID, Take("PRICE", "unit_price", "price of a unit")), changes=True),
    Command("parts remove", "remove a part", f"{_DEV}/cpcwidget/delete_cpcwidget.dspy", (_CENTRE, _ID), changes=True),
    Command("parts gpus", "free GPUs per model", f"{_DEV}/cpcwidget/obtaining_gpuinfo.dspy", (
        Take("--centre", "cpcid", "in this centre"), Take("--cluster", "clusterid", "in this cluster"))),
    Command("quote", "what parts cost for a time", f"{_DEV}/cpcwidget/accrual_price.dspy", (
        _CENTRE, Take("PART", "resources", "TYPE:MODEL:AMOUNT (memory in Mi, disk in Gi)", "parts"),
        Take("--for", "duration", "how long: 12h, 2d, 1w, 1mo", "days", needed=True),
        Take("--cluster", "clusterid", "stock of this cluster"))),
    Command("fits", "which products no node has room for", f"{_DEV}/cpcbuy/determine_accommodat.dspy", (
        _CENTRE, _CLUSTER, Take("FILE", "resources", "JSON file of products; - reads standard input", "file"),
        Take("--labels", "kyylabels", "KEY=VALUE of nodes"))),
    Command("usage", "what instances used and what it cost", f"{_DEV}/cpcbill/get_usage.dspy", (
        Take("--by", "by", "hour, day, instance, cluster, org"), *_SPAN, _ORG, *_PAGE[:2]), _USAGE),
    Command("export", "the same as CSV on standard output", f"{_DEV}/cpcbill/export_usage.dspy", (*_SPAN, _ORG)),
    Command("budget list", "list budgets and what is spent of them", f"{_DEV}/cpcbill/get_budget.dspy", (_ORG,), _BUDGETS),
    Command("budget set", "set what an organisation may spend in a month", f"{_DEV}/cpcbill/set_budget.dspy", (
        Take("ORG", "orgid", "organisation"), Take("AMOUNT", "amount", "yuan; '' is no limit; without it as it is", "maybe"),
        Take("--warn", "warn", "percent at which it is noted (80 in a new one)", "whole"),
        Take("--soft", "hard", "do not refuse beyond it", "not"),
        Take("--hard", "hard", "refuse beyond it (a new one does)", "flag"),
        Take("--stop", "stop", "also stop what runs", "flag"), Take("--no-stop", "stop", "stop nothing that runs", "not")),
            changes=True),
    Command("rebuild", "count the books of a centre again", f"{_DEV}/cpcwidget/rebuild_cpcwidget.dspy", (_CENTRE,), (
        ("TYPE", "type"), ("MODEL", "model"), ("CLUSTER", "cluster"), ("STOCK", "stock"),
        ("CONSUMED", "consumed")), changes=True),
    Command("audit", "who did what", f"{_DEV}/cpcaudit/get_audit.dspy", (
        Take("--action", "kind", "those that begin so: centre., part., instance."), Take("--by", "user", "of this user"),
        Take("--since", "since", "day"), _ORG, *_PAGE[:2]), _AUDIT),
    Command("operation", "how far something long is", f"{_DEV}/cpccluster/get_operation.dspy", (_ID,)),
)
