"""How are the text formats T1 to T20 laid out? Byte for byte as in contract 3, trailing blanks included (K5)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network

from cloudsched.dialects.cloud_scheduler.layout import Layout
from cloudsched.domain.entities import Node
from cloudsched.domain.scheduling.shares import Shares
from cloudsched.services import pool as pools
from cloudsched.services.pool import CloudFacts, Pool
from cloudsched.services.pool_views import Beat, JobRow, run_times

KNOWN_STATES = ("ConnectionRefused", "NoProxy", "Retiring", "ExpiredProxy", "Running", "Error", "Starting")
JOB_WORDS = {0: "New", 1: "Idle", 2: "Running", 3: "Removed", 4: "Complete", 5: "Held", 6: "Error"}
THREADS = {"scheduler": "Scheduler", "cleanup": "Cleanup", "node_poller": "VMPoller", "job_poller": "JobPoller",
           "machine_poller": "MachinePoller"}
NO_HEAP_REPORT = "You need to have Guppy installed to get developer information"

_ADDRESS_CHARS = 24
_PRIVATE = tuple(IPv4Network(text) for text in ("10.0.0.0/8", "192.168.0.0/16", "172.16.0.0/12"))


def pool_summary(pool: Pool) -> str:
    """T1."""
    lines = ["Resource pool Resources:\n",
             f"{'NAME':<15}  {'CLOUD TYPE':<10} {'NETWORK ADDRESS':<30} {'ENABLED':<10} \n"]
    lines += [f"{cloud.name:<15}  {cloud.type_name:<10} {cloud.cloud.address:<30} {_flag(cloud.cloud.enabled):<10}\n"
              for cloud in pool.clouds]
    return "".join(lines) if pool.clouds else "".join(lines) + "Pool is empty..."


def all_clusters(pool: Pool, layout: Layout) -> str:
    """T2."""
    return "Clusters in resource pool:\n" + "".join(f"{_cluster(cloud, layout)}\n" for cloud in pool.clouds)


def one_cluster(name: str, cloud: CloudFacts, *, layout: Layout) -> str:
    """T3; `name` as the caller wrote it."""
    return f"Cluster Info: {name}\n{_cluster(cloud, layout)}"


def unknown_cluster(name: str) -> str:
    """T3 of a cloud that is not there."""
    return f"Cluster Info: {name}\nCluster named {name} not found."


def _cluster(facts: CloudFacts, layout: Layout) -> str:
    cloud, memory = facts.cloud, str(facts.free_memory_mb)
    if layout is Layout.X:
        title, slots, memory = "VM SLOTS", f"{facts.free_slots:^15}", f"[{memory}]"
    else:
        title, slots = "VMS/MAX", f"{len(facts.nodes):>5} / {cloud.max_slots:<8}"
    return (
        f"Cluster: {facts.name} \n"
        f"{'ADDRESS':<25}  {'CLOUD TYPE':^15}  {title:^15}  {'MEMORY':^12} {'STORAGE':^15} {'PRIORITY':^12} "
        f"{'ENABLED':^12}\n"
        f"{cloud.address[:_ADDRESS_CHARS]:^25}  {facts.type_name:^15}  {slots}  {memory:^12} "
        f"{facts.free_storage_gb:^15} {cloud.priority:^12} {_flag(cloud.enabled):^12}\n"
    )


def vm_listing(clouds: Sequence[CloudFacts], retired: Sequence[tuple[CloudFacts, Node]], *, layout: Layout) -> str:
    """T4 over these clouds; `retired`: the rows of the shadows (B50: no heading without a row)."""
    rows = [(cloud, node) for cloud in clouds for node in cloud.nodes]
    text = (f"{'ID':<6} {'HOSTNAME':<25} {'VMTYPE':<20} {'USER':<10} {'STATUS':<12} {'CLUSTER':<23}\n"
            f"{_rows(rows, layout)}\nTotal VMs: {len(rows)}. Total Clouds: {len(clouds)}")
    if not retired:
        return text
    return f"{text}\n\nRetiring VMs from removing resources:\n{_rows(retired, layout)}"


def _rows(rows: Iterable[tuple[CloudFacts, Node]], layout: Layout) -> str:
    return "".join(f"{_vm(node, layout)} {cloud.name:<15}\n" for cloud, node in rows)


def _vm(node: Node, layout: Layout) -> str:
    host = node.hostname or node.address
    if layout is Layout.R and node.ssh_port != 22:
        host = f"{host}:{node.ssh_port}"
    return (f"{pools.shown_id(node):<6} {host:<25} {node.vm_type:<20} {node.user:<10} "
            f"{pools.shown_status(node):<12}")


def one_vm(vm_id: str, node: Node, *, layout: Layout) -> str:
    """T5; `vm_id` as the caller wrote it."""
    return f"VM Info for VM id: {vm_id}\n{_vm(node, layout)}\n"


def unknown_vm(vm_id: str, *, unknown_cloud: str | None = None) -> str:
    """T5 of a VM that is not there, of a cloud that may not be there either."""
    cloud = "" if unknown_cloud is None else f"Cluster {unknown_cloud} not found.\n"
    return f"VM Info for VM id: {vm_id}\n{cloud}VM with id: {vm_id} not found.\n"


def vm_statistics(nodes: Iterable[Node]) -> str:
    """T6: known states in their order, any other after them (B16), the trailing comma kept (K3)."""
    counts = Counter(pools.shown_status(node) for node in nodes)
    others = sorted(counts.keys() - set(KNOWN_STATES))
    return "".join(f"{counts[state]} {state}," for state in (*KNOWN_STATES, *others) if counts[state])


def job_list(rows: Sequence[JobRow]) -> str:
    """T7, and T8 for a single job."""
    header = (f"{'Global ID':<20} {'User':<15} {'VM Type':<15} {'Job Status':<10} {'Status':<12} {'Cloud':<15}\n")
    return header + "".join([_job(row) for row in rows])


def _job(row: JobRow) -> str:
    key, user, vm_type, number, scheduled, override, cloud = row
    status = override or ("Scheduled" if scheduled else "Unscheduled")
    word = JOB_WORDS.get(number) or str(number)
    return f"{key[-20:]:<20} {user[:15]:<15} {vm_type[:15]:<15} {word:<10} {status[:12]:<12} {cloud[:15]:<15}\n"


def cloud_settings(sections: Iterable[tuple[str, Iterable[tuple[str, str]]]]) -> str:
    """T9."""
    return "".join(f"{name} {''.join(f'[{key},{value}]' for key, value in entries)}\n" for name, entries in sections)


def share_table(shares: Shares) -> str:
    """T10, each table sorted by user-type."""
    return (f"Diff Types dictionary\n{_shares(shares.diff)}Current Types (vms)\n{_shares(shares.current)}"
            f"Desired Types (jobs)\n{_shares(shares.desired)}")


def _shares(table: Mapping[str, float]) -> str:
    return "".join(f"type: {user_type}, dist: {table[user_type]:.6f}\n" for user_type in sorted(table))


def boot_failures(reasons: Mapping[str, Iterable[str]]) -> str:
    """T11."""
    return "Job Failure Reasons:\n" + "".join(
        f"   Job ID: {key}\n" + "".join(f"      {text}\n" for text in texts) for key, texts in reasons.items())


def image_failures(images: Mapping[str, Iterable[str]]) -> str:
    """T12."""
    return "Image Failure List\n" + "".join(
        f"   Cloud: {cloud}\n" + "".join(f"      Image: {image}\n" for image in names) for cloud, names in images.items())


def heart_beats(beats: Mapping[str, Beat]) -> str:
    """T13."""
    return "Thread Heart beat times:\n" + "".join(
        f"   {name} Thread({beats[loop].interval_s:g}): {int(beats[loop].since_s)}\n" for loop, name in THREADS.items())


def addresses(nodes: Iterable[Node]) -> str:
    """T16: the VMs whose address is not private."""
    return "".join(f"[{node.hostname}]\n\taddress {node.address}\n" for node in nodes if not is_private(node.address))


def is_private(address: str) -> bool:
    """Is this an IPv4 address of a private network (B18)?"""
    try:
        number = IPv4Address(address)
    except ValueError:
        return False
    return any(number in network for network in _PRIVATE)


def machines_without_vm(machines: Iterable[tuple[str, str]]) -> str:
    """T17."""
    return ("List of Condor Entries with no match in Cloud Scheduler(host:startd):\n"
            + "".join(f"{name} : {address}\n" for name, address in machines))


def shared_objects(pool: Pool, *, unscheduled: int, scheduled: int) -> str:
    """T18: what each loop works on, in numbers."""
    resources = f"Resource Pool: {len(pool.clouds)} clouds, {sum(1 for _ in pool.nodes())} VMs\n"
    jobs = f"Job Pool: {unscheduled} new, {scheduled} scheduled\n"
    shown = {"job_poller": jobs, "machine_poller": resources}
    return "".join(f"{name} Thread:\n{shown.get(loop, resources + jobs)}\n" for loop, name in THREADS.items())


def boot_times(pool: Pool) -> str:
    """T19: one line, the double blank before `Avg` kept (K4)."""
    return "".join(_boot_times(cloud) for cloud in pool.clouds)


def _boot_times(cloud: CloudFacts) -> str:
    seconds = [int(node.boot_s or 0) for node in cloud.nodes]
    average = f" Avg: {sum(seconds) // len(seconds)} " if seconds else ""
    return f"Cluster: {cloud.name} {''.join(f'{value}, ' for value in seconds)}{average}"


def job_run_times(nodes: Iterable[Node]) -> str:
    """T20: integer averages with six decimals."""
    return "Run Times of Jobs on VMs\n" + "".join(f"{node.hostname} : avg {_average(node)}.000000\n" for node in nodes)


def _average(node: Node) -> int:
    times = run_times(node)
    return sum(times) // len(times) if times else 0


def _flag(value: int) -> str:
    return "True" if value else "False"
