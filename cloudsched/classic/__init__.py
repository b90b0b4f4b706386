"""What do the configuration files of the original Cloud Scheduler say?

Readers for the five files of contract section 6, and the one edit the server makes to
them (contract 4.2). Standard library alone, so that the small clients can use it too.

    server_conf.read_server_conf(...)   cloud_scheduler.conf          6.1
    server_conf.read_status_conf(...)   cloud_scheduler_status.conf   6.2
    clouds_conf.read_clouds(path)       cloud_resources.conf          6.3
    clouds_conf.raw_sections(path)      the same file, unjudged       T9
    vm_slots.set_vm_slots(path, ...)    the same file, one line       4.2, B14
    limits.read_user_limits(path)       user-limit file               6.4
    limits.read_aliases(path)           cloud-alias file              6.5
"""
