"""What does the info server answer? One table of its calls (contract 1.3, 1.4, 2.2)."""

from __future__ import annotations

import json
from functools import partial

from cloudsched import __version__, clock
from cloudsched.dialects.cloud_scheduler import messages, objects, text
from cloudsched.dialects.cloud_scheduler.calls import Call, Given, Rest, get, get_json
from cloudsched.dialects.cloud_scheduler.layout import Layout
from cloudsched.services import pool as pools
from cloudsched.services import pool_views as views
from cloudsched.services.pool import UnknownCloud, UnknownNode
from cloudsched.settings import Settings

# The word in `/jobs?state=` -> the XML-RPC method of that list.
JOB_METHODS = {"new": "get_newjobs", "sched": "get_schedjobs", "high": "get_highjobs", "idle": "get_idlejobs",
               "running": "get_runningjobs", "complete": "get_completejobs", "held": "get_heldjobs"}

# How long an answer may be shown again while no event was written. Small facts change without one: an address that
# became known, a job that waits for a machine again; poll times and idle clocks, which show in the JSON of clusters.
_KEPT_S = 2.0
_KEPT_JOBS_S = 5.0
_KEPT_JSON_S = 1.0


class Info:
    """The answers, over the settings of this instance."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._created_at = clock.now()

    def calls(self) -> tuple[Call, ...]:
        """The table; each path's rows in the order in which they are tried."""
        return (*self._pool_calls(), *self._vm_calls(), *self._job_calls(), *self._service_calls())

    def _pool_calls(self) -> tuple[Call, ...]:
        return (
            Call("get_version", self._version, (get("/"),)),
            Call("get_cloud_resources", self._pool_summary, (get("/cloud"),), kept_s=_KEPT_S),
            Call("get_cloud_config_values", self._cloud_settings, (get("/cloud/config"),)),
            Call("get_cluster_resources", self._clusters, (get("/clusters"),), kept_s=_KEPT_S),
            Call("get_json_resource", self._clusters_json, (get_json("/clusters.json"),), kept_s=_KEPT_JSON_S),
            Call("get_cluster_info", self._cluster, (Rest("GET", "/clusters/<cloud>", json="get_json_cluster"),),
                 required=("cluster_name",)),
            Call("get_json_cluster", self._cluster_json, (), required=("cluster_name",)),
        )

    def _vm_calls(self) -> tuple[Call, ...]:
        of_one = "/clusters/<cloud>/vms"
        return (
            Call("get_vm_stats", self._statistics, (get("/vms", metric="all"), get(of_one, metric="all")),
                 optional=("cluster_name",)),
            Call("get_total_vms", self._total, (get("/vms", metric="total"),)),
            Call("get_total_vms_cloud", self._total_of, (get(of_one, metric="total"),), required=("cluster_name",)),
            Call("get_vm_info", self._vm, (Rest("GET", f"{of_one}/<vm>", json="get_json_vm"),),
                 required=("cluster_name", "vm_id")),
            Call("get_json_vm", self._vm_json, (), required=("cluster_name", "vm_id")),
            Call("get_missing_vm_list", self._missing, _metric("missing")),
            Call("get_vm_startup_time", self._boot_times, _metric("startup_time", "startup-time")),
            Call("get_vm_job_run_times", self._run_times, _metric("job_run_times", "job-run-times")),
            Call("get_cluster_vm_resources", self._listing, (get("/vms", metric=Given.ABSENT), get("/vms/resources")),
                 kept_s=_KEPT_S),
            # The bare listing of one cloud has no XML-RPC method of its own (B17).
            Call("vms of one cloud", self._listing_of, (get(of_one, metric=Given.ABSENT),), hidden=True),
        )

    def _job_calls(self) -> tuple[Call, ...]:
        return (
            *(Call(method, partial(self._jobs, state), (get("/jobs", state=state),), kept_s=_KEPT_JOBS_S)
              for state, method in JOB_METHODS.items()),
            Call("jobs in an unknown state", self._no_jobs, (get("/jobs", state=Given.ANY),), hidden=True),
            Call("get_job", self._job, (Rest("GET", "/jobs/<job>", json="get_json_job"),), required=("jobid",)),
            Call("get_json_job", self._job_json, (), required=("jobid",)),
            Call("get_json_jobpool", self._job_pool, (get_json("/job-pool.json"), get_json("/job_pools.json"))),
        )

    def _service_calls(self) -> tuple[Call, ...]:
        return (
            Call("get_developer_information", self._developer, (get("/developer-info"), get("/developer_info"))),
            Call("get_ips_munin", self._addresses, (get("/ips"),)),
            Call("get_diff_types", self._shares, (get("/diff-types"),)),
            Call("get_job_failure_reasons", self._boot_failures, (get("/failures/boot"), get("/failures", type="boot"))),
            Call("get_image_failures", self._image_failures, (get("/failures/image"), get("/failures", type="image"))),
            Call("check_shared_objs", self._shared_objects, (get("/shared-objs"),)),
            Call("get_thread_heart_beats", self._heart_beats, (get("/thread-heart-beats"),)),
        )

    # the pool

    def _version(self, layout: Layout) -> str:
        return f"Cloud Scheduler version: {__version__}"

    def _pool_summary(self, layout: Layout) -> str:
        return text.pool_summary(pools.pool())

    def _cloud_settings(self, layout: Layout) -> str:
        return text.cloud_settings(views.cloud_settings(self._settings))

    def _clusters(self, layout: Layout) -> str:
        return text.all_clusters(pools.pool(), layout)

    def _clusters_json(self, layout: Layout) -> str:
        return json.dumps(objects.resource_pool(pools.pool(), layout=layout, settings=self._settings))

    def _cluster(self, layout: Layout, name: str) -> str:
        try:
            return text.one_cluster(name, pools.cloud_facts(name), layout=layout)
        except UnknownCloud:
            return text.unknown_cluster(name)

    def _cluster_json(self, layout: Layout, name: str) -> str:
        try:
            return json.dumps(objects.cluster(pools.cloud_facts(name), layout=layout, settings=self._settings))
        except UnknownCloud:
            return objects.UNKNOWN

    # VMs

    def _listing(self, layout: Layout) -> str:
        pool = pools.pool()
        return text.vm_listing(pool.clouds, pool.retired(), layout=layout)

    def _listing_of(self, layout: Layout, name: str) -> str:
        try:
            cloud = pools.cloud_facts(name)
        except UnknownCloud:
            return messages.CLUSTER_UNKNOWN.format(name=name)
        return text.vm_listing([cloud], [(cloud, node) for node in cloud.retired], layout=layout)

    def _statistics(self, layout: Layout, name: str = "") -> str:
        if not name:
            return text.vm_statistics(node for _, node in pools.pool().nodes())
        try:
            return text.vm_statistics(pools.cloud_facts(name).nodes)
        except UnknownCloud:
            return messages.STATISTICS_UNKNOWN_CLOUD.format(name=name)

    def _total(self, layout: Layout) -> str:
        return str(sum(1 for _ in pools.pool().nodes()))

    def _total_of(self, layout: Layout, name: str) -> str:
        try:
            return str(len(pools.cloud_facts(name).nodes))
        except UnknownCloud:
            return messages.CLUSTER_UNKNOWN.format(name=name)

    def _vm(self, layout: Layout, name: str, vm_id: str) -> str:
        try:
            return text.one_vm(vm_id, pools.find_node(pools.cloud_or_shadow(name), vm_id), layout=layout)
        except UnknownCloud:
            return text.unknown_vm(vm_id, unknown_cloud=name)
        except UnknownNode:
            return text.unknown_vm(vm_id)

    def _vm_json(self, layout: Layout, name: str, vm_id: str) -> str:
        try:
            cloud = pools.cloud_or_shadow(name)
            node = pools.find_node(cloud, vm_id)
        except (UnknownCloud, UnknownNode):
            return objects.UNKNOWN
        return json.dumps(objects.vm(cloud, node, layout=layout, settings=self._settings))

    def _missing(self, layout: Layout, name: str = "") -> str:
        return text.machines_without_vm(views.strays())

    def _boot_times(self, layout: Layout, name: str = "") -> str:
        return text.boot_times(pools.pool())

    def _run_times(self, layout: Layout, name: str = "") -> str:
        return text.job_run_times(node for _, node in pools.pool().nodes())

    # jobs

    def _jobs(self, state: str, layout: Layout) -> str:
        return text.job_list(views.job_list(state))

    def _no_jobs(self, layout: Layout, state: str) -> str:
        return ""

    def _job(self, layout: Layout, job_id: str) -> str:
        row = views.job_row(job_id)
        return messages.JOB_UNKNOWN if row is None else text.job_list([row])

    def _job_json(self, layout: Layout, job_id: str) -> str:
        facts = views.job_facts(job_id)
        if facts is None:
            return objects.UNKNOWN_JOB
        return json.dumps(objects.job(facts, layout=layout, settings=self._settings))

    def _job_pool(self, layout: Layout) -> str:
        new, scheduled = views.job_pool()
        return json.dumps(objects.job_pool(new, scheduled, layout=layout, settings=self._settings))

    # the service itself

    def _developer(self, layout: Layout) -> str:
        return text.NO_HEAP_REPORT

    def _addresses(self, layout: Layout) -> str:
        return text.addresses(node for _, node in pools.pool().nodes())

    def _shares(self, layout: Layout) -> str:
        return text.share_table(views.share_table())

    def _boot_failures(self, layout: Layout) -> str:
        return text.boot_failures(views.boot_failures())

    def _image_failures(self, layout: Layout) -> str:
        return text.image_failures(views.image_failures())

    def _shared_objects(self, layout: Layout) -> str:
        unscheduled, scheduled = views.job_counts()
        return text.shared_objects(pools.pool(), unscheduled=unscheduled, scheduled=scheduled)

    def _heart_beats(self, layout: Layout) -> str:
        return text.heart_beats(views.heart_beats(self._settings, created_at=self._created_at))


def _metric(*words: str) -> tuple[Rest, ...]:
    """A metric over all clouds; on the path of one cloud the cloud is ignored (contract 1.4)."""
    paths = ("/vms", "/clusters/<cloud>/vms")
    return tuple(get(path, metric=word) for path in paths for word in words)
