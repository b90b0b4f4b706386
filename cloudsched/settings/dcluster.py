"""What can be set of Spark and Flink clusters (the dcluster dialect)?"""

from __future__ import annotations

from dataclasses import dataclass

from .declare import boolean, hosts, integer, names, path, seconds, secret, text, word

_MB = {"low": 64, "high": 16 * 1024 * 1024}


@dataclass(frozen=True)
class Dcluster:
    """Spark and Flink clusters and their jobs."""

    place: str = text("local", "Where clusters run: local, or kubernetes:CLOUD.")
    env: str = text("dev", "The environment in names of clusters: TYPE-ENV-TENANT-TIMESTAMP.")
    clusters_max: int = integer(20, "Most clusters at once; others wait. 0: not limited.", low=0, high=100_000)
    capacity_cores_m: int = integer(0, "Thousandths of cores that clusters may have together. 0: twice what the machine has, for "
                                       "the place local; not limited elsewhere.", low=0)
    capacity_memory_mb: int = integer(0, "MiB that clusters may have together. 0: what the machine has, for the place local; "
                                         "not limited elsewhere.", low=0)
    workers_max: int = integer(1000, "Most workers of one cluster.", low=1, high=100_000)
    worker_cores_m: int = integer(1000, "Thousandths of cores of a worker, unless the request says.", low=10, high=10_000_000)
    worker_memory_mb: int = integer(1024, "Memory of a worker, unless the request says.", **_MB)
    master_cores_m: int = integer(500, "Thousandths of cores of a master, unless the request says.", low=10, high=10_000_000)
    master_memory_mb: int = integer(512, "Memory of a master, unless the request says.", **_MB)
    launch_timeout_s: float = seconds(300, "A cluster that is not complete after this time has failed.", low=1, high=86400)
    poll_interval_s: float = seconds(2, "Pause between two looks at a cluster.", low=0.1, high=3600)
    heal_attempts: int = integer(5, "How often a cluster without all its workers is mended before that is given up.",
                                 low=0, high=1000)
    idle_limit_s: float = seconds(3600, "Clusters that run nothing for so long are ended. 0: never. A request may say its own "
                                     "(idleLimitSeconds).", low=0, high=1e9)
    long_living_idle_limit_s: float = seconds(28800, "The same for tenants' long-living clusters. 0: never.", low=0, high=1e9)
    sweep_interval_s: float = seconds(60, "Pause between two searches for clusters that run without a record.",
                                      low=1, high=86400)
    threads: int = integer(8, "Calls to places that are under way at once.", low=1, high=256)
    jobs_per_cluster: int = integer(4, "Most jobs on one cluster at once; others wait.", low=1, high=10_000)
    job_poll_interval_s: float = seconds(1, "Pause between two looks at a running job.", low=0.1, high=3600)
    log_keep_kb: int = integer(1024, "How much of a job's log is kept: its beginning and, of the rest, the end.",
                               low=16, high=1024 * 1024)
    external_spark_url: str = text("", "spark://HOST:PORT of the cluster for jobs with useExternalCluster.")
    external_flink_url: str = text("", "http://HOST:PORT of the cluster for jobs with useExternalCluster.")
    external_clusters: tuple[str, ...] = hosts(
        "Where clusters of jobs with useExternalCluster may be, beside these two. Empty: nowhere else. Host names must be listed "
        "as such; networks are for addresses.")
    external_give_up_s: float = seconds(300, "How long a cluster that is not ours may be away: a job that it has not taken by "
                                             "then has failed, one that is being ended counts as ended.", low=1, high=1e9)
    driver_host: str = text("", "Address of this machine where executors of external Spark clusters reach drivers, which listen "
                                "there. Empty: only clusters on this machine can be used.")
    spark_home: str = path("", "Where Spark is.", shown_default="the pyspark package")
    flink_home: str = path("", "Where Flink is.", shown_default="the apache-flink-libraries package")
    java_home: str = path("", "Where Java 17 is.", shown_default="JAVA_HOME, else java in the PATH")
    python: str = path("", "What runs .py jobs on this machine.",
                       shown_default="the server's own Python, or one of the system where run_as cannot reach that")
    run_as: str = text("auto", "The user who runs the processes of clusters on this machine: auto (nobody when the server is "
                               "root, else the server's), or a name. As root only where it says root.")
    node_instance_type: str = text("", "Instance type that is launched (as with /node/launch) when pods of a cluster with "
                                       "launchNewNode find no node. Empty: none is.")
    node_pending_s: float = seconds(60, "How long they find none before that.", low=1, high=86400)
    trusted_settings: bool = boolean(False, "May settings of requests bring code into the processes of clusters and jobs on "
                                            "this machine (agents, class paths, commands)? Off: they are refused.")
    kube_namespace: str = text("", "Namespace of Spark and Flink clusters in Kubernetes.",
                               shown_default="that of the cloud, else default")
    kube_spark_image: str = text("apache/spark:4.3.0", "Image of Spark's masters, workers and drivers in Kubernetes.")
    kube_spark_home: str = text("/opt/spark", "Where Spark is in that image.")
    kube_spark_user: int = integer(185, "User id that it runs as.", low=1, high=2**31 - 1)
    kube_flink_image: str = text("flink:2.3.0", "Image of Flink's masters, workers and clients in Kubernetes.")
    kube_flink_home: str = text("/opt/flink", "Where Flink is in that image.")
    kube_flink_user: int = integer(9999, "User id that it runs as.", low=1, high=2**31 - 1)
    kube_code_dir: str = text("", "Directory of both images with code of more than 1 MB; smaller code is sent along.")
    kube_operator: bool = boolean(False, "Create SparkCluster and FlinkDeployment objects for operators instead, where the "
                                         "Kubernetes cluster has their definitions.")
    on_demand_label: str = text("eks.amazonaws.com/capacityType=ON_DEMAND", "Label of Kubernetes nodes for useOnDemandMaster.")
    node_group_label: str = text("cloudsched.io/node-group", "Label and taint of Kubernetes nodes for launchNewNode.")
    node_group: str = text("dcluster", "Its value.")
    storage_class: str = text("", "Storage class of workers' own disks.", shown_default="the Kubernetes cluster's own")
    dynamic_disk_gb: int = integer(50, "Size of a worker's own disk with launchDynamicDisk.", low=1, high=65_536)
    nodes_cloud: str = text("", "EC2 cloud of /node/launch and the like.", shown_default="the only one of the region")
    nodes_max: int = integer(100, "Most nodes of one /node/launch.", low=1, high=10_000)
    nodes_idle_limit_s: float = seconds(3600, "Launched nodes that no cluster and no job has used for so long are destroyed.",
                                        low=1, high=1e9)
    nodes_drain_s: float = seconds(120, "How long draining one Kubernetes node may take before it is kept.", low=1, high=3600)
    modules: str = path("", "What jobs may run beside the samples: a TOML or INI file, or a directory with modules.toml or "
                            "modules.ini in it.")
    alert_after_s: float = seconds(21600, "A job that runs longer is told of once: as an event, by mail, to webhooks. A module "
                                          "may say another time.", low=1, high=31_536_000)
    unmonitored_clients: tuple[str, ...] = names((), "Clients whose jobs are not told of, unless that was switched on while "
                                                     "the server ran.")
    smtp_host: str = text("", "Mail server for alerts. Empty: no mail, events and webhooks alone.")
    smtp_port: int = integer(0, "Its port; 0: 587 with STARTTLS, 465 with TLS, 25 in the clear.", low=0, high=65535)
    smtp_security: str = word("starttls", "How the mail server is spoken to: starttls, tls from the first byte, or none: in the "
                                          "clear, without a login.", words=("starttls", "tls", "none"))
    smtp_user: str = text("", "Name for the mail server. Empty: no login.")
    smtp_password: str = secret("", "Password for the mail server.")
    smtp_ca_file: str = path("", "PEM file with the authority that signed the mail server's certificate.",
                             shown_default="those of the system")
    mail_from: str = text("", "Sender of mail.", shown_default="cloudsched@ and the name of this machine")
    webhook_attempts: int = integer(12, "A webhook delivery that failed this often is given up.", low=1, high=100)
    webhook_timeout_s: float = seconds(10, "Time limit of one webhook delivery.", low=0.1, high=120)
    webhook_private: bool = boolean(False, "Let webhooks go to private addresses. Loopback always may.")
    webhook_ca_file: str = path("", "PEM file with the authority that signed the receivers' certificates.",
                                shown_default="those of the system")
    price_centre: str = text("", "Id of the compute centre whose parts' prices clusters are shown with. Empty: without a price.")
    price_cpu_model: str = text("STANDARD", "Model of its cores.")
    price_memory_model: str = text("STANDARD", "Model of its memory.")
