"""What do the operations answer? Every sentence of contract 4, with its missing periods and slips (K1, K2, K6).

`{name}` and `{id}` are filled with what the caller wrote.
"""

from __future__ import annotations

ENABLED = "Cloud: {name} enabled."
DISABLED = "Cloud: {name} disabled."
SWITCH_UNKNOWN_CLOUD = "Could not find cloud {name}."

ADJUST_NOT_INTEGER = "Need to use an integer value for vm_allocation"
ADJUST_UNKNOWN_CLOUD = "Unable to find cluster with name: {name}"
ADJUST_NOTHING = "VM slots already set at {n}. Nothing to do."
ADJUST_DONE = "Attempt adjustment on cloud {name}, change to {n} slots"

SHUTDOWN_DONE = "VM {id} has been Destroyed."
SHUTDOWN_FAILED = "Destroying VM {id} failed. Leaving it for now."
SHUTDOWN_UNKNOWN_VM = "Could not find VM with ID: {id} on Cluster: {name}."
SHUTDOWN_NOT_INTEGER = "Unable to shutdown {n} VMs, use a number."
SHUTDOWN_UNKNOWN_CLOUD = "Could not find a Cluster with name: {name}."
SHUTDOWN_COUNT_UNKNOWN_CLOUD = "Could not find cloud named: {name}"

RETIRE_DONE = "Retired VM {id} on {name}."
RETIRE_COUNT_DONE = "Retired {n} VM(s) in {name}."
RETIRE_ALL_DONE = "Retired all VMs in {name}."
RETIRE_REFUSED = "Unable to retire VM."
RETIRE_REFUSED_ONE_OF = "Unable to retire VM {id}\n"
RETIRE_UNKNOWN_VM = "Could not find VM ID {id}."
RETIRE_NOT_INTEGER = "Unable to retire {n} VMs, use a number"
RETIRE_UNKNOWN_CLOUD = "Could not find Cloud {name}."
RETIRE_MANY_UNKNOWN_CLOUD = "Cloud not find Cloud {name}."

RESET_DONE = "Reset state of {name} on {id}"
RESET_UNKNOWN_VM = "Could not find VM ID {id}."
RESET_UNKNOWN_CLOUD = "Could not find Cloud {name}."

REMOVE_DONE = "Removed {name}'s VM ID {id} from CloudScheduler."
REMOVE_RETIRED_DONE = "Removed {name}'s VM ID {id} from CloudScheduler retired resources."
REMOVE_ALL_DONE = "Removed all VMs from {name}."
REMOVE_UNKNOWN_VM = "Could not find VM ID: {id} on Cloud: {name}"
REMOVE_UNKNOWN_CLOUD = "Could not find Cloud {name}."

STATISTICS_UNKNOWN_CLOUD = "Could not find cloud: {name} - check cloud_status for list of available clouds"
CLUSTER_UNKNOWN = "Cluster named {name} not found."
JOB_UNKNOWN = "Job not found."
