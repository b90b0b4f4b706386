"""What can be asked of Spark and Flink: clusters, jobs, modules, and the cloud nodes under them."""
