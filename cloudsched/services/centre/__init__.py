"""What can be asked of compute centres: hosts, clusters installed on them, instances, parts and prices."""
