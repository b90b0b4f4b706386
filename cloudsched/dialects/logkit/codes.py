"""Which codes are there, and what do they mean? Contract 5.1."""

from __future__ import annotations

TEXTS = {
    "L200": "success",
    "L1001": "the runner's configuration could not be read",
    "L1002": "the runner could not be added",
    "L1003": "the runner could not be deleted",
    "L1004": "the runner could not be started",
    "L1005": "the runner could not be stopped",
    "L1006": "the runner could not be reset",
    "L1007": "the runner could not be updated",
    "L1008": "the runner's errors could not be read",
    "L1101": "the trial read failed",
    "L1201": "the trial parse failed",
    "L1301": "the trial transform failed",
    "L1401": "the trial send failed",
    "L2001": "the list of slaves or runners could not be read",
    "L2002": "the status of the slaves could not be read",
    "L2003": "the configurations of the slaves could not be read",
    "L2004": "the slave could not be registered",
    "L2005": "the slave's tag could not be changed",
    "L2006": "the runner could not be added to all slaves",
    "L2007": "the runner could not be deleted from all slaves",
    "L2008": "the runner could not be started on all slaves",
    "L2009": "the runner could not be stopped on all slaves",
    "L2010": "the runner could not be reset on all slaves",
    "L2011": "the runner could not be updated on all slaves",
    "L2012": "the slaves could not be removed from the list",
    "L2013": "the tag of the slaves could not be changed",
    "L2014": "the runner's configuration could not be read from the slaves",
}
OF_OPERATION = {"add": "L2006", "delete": "L2007", "start": "L2008", "stop": "L2009", "reset": "L2010", "update": "L2011"}
