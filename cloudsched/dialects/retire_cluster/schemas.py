"""What is in the answers? One Struct for each object of contract 9; the OpenAPI document is made from them too.

It is long because the contract is: a table of members, in its order, without any code.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

Online = Literal["online", "offline"]
DocumentWord = Literal["pending", "running", "completed", "failed", "cancelled"]
CodeWord = Literal["pending", "queued", "assigned", "running", "success", "failed", "cancelled", "timeout"]
Priority = Literal["low", "normal", "high", "urgent"]
Health = Literal["healthy", "degraded", "unhealthy"]
Check = Literal["healthy", "warning", "unhealthy"]
Period = Literal["1h", "24h", "7d", "30d"]
Counts = dict[str, int]
Object = dict[str, Any]
Time = str
MaybeTime = str | None
Number = float


class Base(msgspec.Struct, kw_only=True):
    """All members are always there."""


# devices (9.3)


class Platform(Base):
    os: str
    arch: str
    python_version: str


class DeviceResources(Base):
    cpu_cores: int
    cpu_usage: Number
    memory_total_gb: Number
    memory_used_gb: Number
    storage_total_gb: Number
    storage_used_gb: Number


class DeviceTasks(Base):
    active: int
    completed: int
    failed: int


class Device(Base):
    """A device in the document view."""

    id: str
    hostname: str
    status: Online
    role: str
    platform: Platform
    resources: DeviceResources
    tasks: DeviceTasks
    last_seen: MaybeTime
    uptime_seconds: int
    device_id: str
    ip_address: str
    tags: list[str]
    last_heartbeat: MaybeTime
    cpu_usage: Number
    memory_usage: Number
    disk_usage: Number
    accepts_tasks: bool


class Devices(Base):
    devices: list[Device]
    total: int
    online: int
    offline: int
    count: int
    timestamp: Time


class Capabilities(Base):
    cpu_count: int
    memory_total_gb: Number
    storage_total_gb: Number
    has_gpu: bool
    computational: list[str]
    services: list[str]
    automation: list[str]


class DeviceRow(Base):
    """A device in the list view."""

    device_id: str
    role: str
    platform: str
    status: Online
    ip_address: str
    last_heartbeat: MaybeTime
    capabilities: Capabilities
    tags: list[str]
    uptime: str


class Battery(Base):
    level: Number | None
    charging: bool | None


class DetailedInfo(Base):
    capabilities: list[str]
    network_interfaces: list[str]
    sensors: list[str]
    battery: Battery | None


class PerformanceHistory(Base):
    cpu_usage_24h: list[Number]
    memory_usage_24h: list[Number]
    task_count_24h: list[int]


class DeviceWithHistory(Device):
    detailed_info: DetailedInfo
    performance_history: PerformanceHistory


class Sample(Base):
    timestamp: Time
    metrics: Object


class DeviceDetail(DeviceRow):
    device: DeviceWithHistory
    registration_time: MaybeTime
    total_heartbeats: int
    last_error: str | None
    metrics_history: list[Sample]
    full_capabilities: Object


class Load(Base):
    active_tasks: int
    capacity: int
    cpu_usage: Number
    memory_usage: Number


class DeviceStatus(Base):
    device_id: str
    status: Online
    last_heartbeat: MaybeTime
    uptime: str
    is_online: bool
    response_time_ms: Number | None
    current_load: Load
    last_metrics: Object
    timestamp: Time


class Totals(Base):
    cpu_cores: int
    memory_gb: Number
    storage_gb: Number


class SummaryCapabilities(Base):
    gpu_enabled: int
    mobile_devices: int
    server_grade: int


class DeviceSummary(Base):
    total_devices: int
    online_devices: int
    offline_devices: int
    by_role: Counts
    by_platform: Counts
    by_status: Counts
    resource_totals: Totals
    capabilities: SummaryCapabilities


class Probe(Base):
    seq: int
    time_ms: Number


class PingResults(Base):
    device_id: str
    reachable: bool
    average_latency_ms: Number | None
    packet_loss: Number
    results: list[Probe]


class Ping(Base):
    ping_results: PingResults
    device_id: str
    ping_successful: bool
    response_time_ms: Number | None
    ping_timestamp: Time
    duration_ms: Number


class Removed(Base):
    removed_device: str
    cancelled_tasks: int
    device_id: str
    removed_at: Time
    was_online: bool
    removal_reason: Literal["manual_removal_via_api"]


# tasks (9.4)


class Task(Base):
    """A task in the document view."""

    task_id: str
    task_type: str
    status: DocumentWord
    device_id: str | None
    priority: Priority
    created_at: Time
    started_at: MaybeTime
    completed_at: MaybeTime
    execution_time_seconds: Number | None
    result: Object | None
    id: str
    type: str
    created: Time
    completed: MaybeTime


class Tasks(Base):
    tasks: list[Task]
    total: int
    pending: int
    running: int
    completed: int
    failed: int
    cancelled: int


class TaskRow(Base):
    """A task in the list view."""

    task_id: str
    task_type: str
    status: CodeWord
    priority: Priority
    created_at: Time
    assigned_device_id: str | None
    assigned_at: MaybeTime
    started_at: MaybeTime
    completed_at: MaybeTime
    execution_time_seconds: Number | None
    retry_count: int


class Submitted(Base):
    task_id: str
    assigned_device: str | None
    estimated_completion: Time
    task: TaskRow
    submitted_at: Time


class SubmittedMany(Base):
    task_ids: list[str]
    count: int
    submitted_at: Time


class Usage(Base):
    peak_cpu_percent: Number
    peak_memory_mb: Number
    total_cpu_time_seconds: Number



class TaskWithLog(Task):
    detailed_log: list[str]
    resource_usage: Usage
    payload: Object
    requirements: Object
    metadata: Object
    timeout: Number | None
    retry_of: str | None
    error: str | None


class RequirementsShown(Base):
    """The ten members of contract 11.3."""

    min_cpu_cores: int | None
    min_memory_gb: Number | None
    min_storage_gb: Number | None
    required_platform: str | None
    required_role: str | None
    required_tags: list[str]
    gpu_required: bool
    internet_required: bool
    timeout_seconds: int
    max_retries: int


class TaskResult(Base):
    task_id: str
    status: CodeWord
    result_data: Any
    error_message: str | None
    error_traceback: str | None
    execution_time_seconds: Number | None
    worker_device_id: str | None
    started_at: MaybeTime
    completed_at: MaybeTime
    logs: list[str]


class TaskDetail(TaskRow):
    task: TaskWithLog
    payload: Object
    requirements: RequirementsShown
    metadata: Object
    error_history: list[str]
    result: TaskResult | None


class TaskStatus(TaskRow):
    is_terminal: bool
    can_retry: bool
    timestamp: Time


class Cancelled(Base):
    cancelled_task: str
    was_running: bool
    task_id: str
    cancelled_at: Time
    cancelled_by: Literal["api_request"]


class Retried(Base):
    new_task_id: str
    original_task_id: str
    task_id: str
    retried_at: Time
    retried_by: Literal["api_request"]


class TaskTypes(Base):
    supported_types: list[str]
    builtin_types: list[str]
    custom_types: list[str]
    total_count: int
    online_devices: int
    available_types: list[str]


class QueueStats(Base):
    total_tasks: int
    by_status: Counts
    by_priority: Counts
    by_device: Counts
    priority_queue_size: int
    device_queues: Counts


class TaskPerformance(Base):
    success_rate: Number
    average_execution_time: Number
    tasks_per_hour: Number
    device_utilization: dict[str, float]


class CurrentLoad(Base):
    pending_tasks: int
    running_tasks: int
    capacity_utilization: Number


class TaskStatistics(Base):
    queue_stats: QueueStats
    performance_metrics: TaskPerformance
    current_load: CurrentLoad
    timestamp: Time


# cluster (9.2)


class ClusterStats(Base):
    total_devices: int
    online_devices: int
    offline_devices: int
    health_percentage: Number
    total_resources: Totals
    by_role: Counts
    uptime: str
    by_platform: Counts
    by_status: Counts


class ServerInfo(Base):
    version: str
    uptime: str
    host: str
    port: int


class ClusterStatus(Base):
    cluster_stats: ClusterStats
    server_info: ServerInfo
    timestamp: Time
    cluster_status: Health
    nodes_online: int
    nodes_total: int
    cpu_cores: int
    cpu_usage: Number
    memory_total: Number
    memory_usage: Number
    tasks_active: int
    tasks_completed: int
    uptime: str


class DatabaseCheck(Base):
    status: Check
    response_time_ms: Number


class NetworkCheck(Base):
    status: Check
    connected_devices: int


class ResourcesCheck(Base):
    status: Check
    cpu_usage: Number
    memory_usage: Number


class Checks(Base):
    database: DatabaseCheck
    network: NetworkCheck
    resources: ResourcesCheck


class Components(Base):
    api: str
    cluster_server: str
    task_scheduler: str
    device_registry: str
    device_count: int
    timestamp: Time


class ClusterHealth(Base):
    overall_health: Health
    checks: Checks
    status: Health
    components: Components
    unhealthy_components: list[str]


class ClusterMetrics(Base):
    metrics: dict[str, dict[str, float]]
    period: Period
    devices: Object
    resources: Object
    performance: dict[str, float]
    tasks: QueueStats


class ClusterConfigServer(Base):
    host: str
    port: int
    max_connections: int


class ClusterConfigHeartbeat(Base):
    interval: int
    timeout: int
    max_missed: int


class ClusterConfigFeatures(Base):
    task_scheduling: bool
    api_enabled: bool
    auth_required: bool


class ConfigCluster(Base):
    heartbeat_interval: int
    offline_threshold: int
    task_timeout: int


class ConfigLogging(Base):
    level: Literal["debug", "info", "warning", "error"]
    max_size: str


class Config(Base):
    server: ClusterConfigServer
    cluster: ConfigCluster
    logging: ConfigLogging


class Configured(Base):
    config: Config


class ClusterConfig(Base):
    server: ClusterConfigServer
    heartbeat: ClusterConfigHeartbeat
    features: ClusterConfigFeatures
    config: Config


class ConfigChanged(Base):
    updated_fields: list[str]
    restart_required: bool


# logs (9.5), statistics (9.8)


class LogEntry(Base):
    timestamp: Time
    level: Literal["debug", "info", "warning", "error"]
    device_id: str | None
    component: str
    message: str
    details: Object


class Logs(Base):
    logs: list[LogEntry]
    total: int


class TaskStatsBody(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Exactly one of the groupings is there."""

    period: Period
    total_tasks: int
    by_status: Counts
    by_device: dict[str, Counts] | msgspec.UnsetType = msgspec.UNSET
    by_task_type: dict[str, Counts] | msgspec.UnsetType = msgspec.UNSET
    by_hour: dict[str, Counts] | msgspec.UnsetType = msgspec.UNSET
    average_execution_time: Number
    success_rate: Number


class TaskStats(Base):
    task_stats: TaskStatsBody


class Utilization(Base):
    cpu_avg: Number
    memory_avg: Number
    uptime_percent: Number


class Score(Base):
    device_id: str
    score: Number


class DeviceStatsBody(Base):
    utilization: dict[str, Utilization]
    performance_ranking: list[Score]


class DeviceStats(Base):
    device_stats: DeviceStatsBody


# what is not enveloped (9.1), errors (3)


class HealthBody(Base):
    status: Health
    timestamp: Time
    uptime_seconds: Number
    components: dict[str, str]


class RootEndpoints(Base):
    cluster: str
    devices: str
    tasks: str
    docs: str


class Root(Base):
    status: Literal["success"]
    message: str
    version: str
    endpoints: RootEndpoints
    server_time: Time
    uptime: str


class ApiServerInfo(Base):
    host: str
    port: int
    start_time: Time
    uptime: str
    debug_mode: bool


class ApiFeatures(Base):
    cluster_management: bool
    device_management: bool
    task_execution: bool
    authentication: bool
    rate_limiting: bool


class ApiInfo(Base):
    status: Literal["success"]
    api_version: str
    server_info: ApiServerInfo
    features: ApiFeatures
    endpoints: dict[str, list[str]]


class Authentication(Base):
    required: bool
    method: str
    header: str


class Documentation(Base):
    title: str
    version: str
    description: str
    base_url: str
    authentication: Authentication
    endpoints: dict[str, dict[str, str]]


class Docs(Base):
    status: Literal["success"]
    documentation: Documentation


class CommandOutput(Base):
    status: Literal["success"]
    command: str
    format: str
    output: str | Object | list[Any]
    exit_code: int


class Pagination(Base):
    page: int
    page_size: int
    total_items: int
    total_pages: int
    has_next: bool
    has_previous: bool


class ErrorBody(Base):
    code: str
    message: str
    details: Object


class Error(msgspec.Struct, kw_only=True):
    status: Literal["error"]
    error: ErrorBody
    error_code: str
    message: str
    error_details: Object | msgspec.UnsetType = msgspec.UNSET
    data: None
    timestamp: Time
    request_id: str
