"""How does the Cloud Scheduler API speak? The info listener (8111) and the admin listener (8112), for clients of its
XML-RPC generation (X) and its REST generation (R). Words of that API ("VM", "cluster") stay in this folder.

    app         the two Flask apps                  calls, info, admin   the table of operations and their answers
    rest        requests by path and parameters     xmlrpc               requests by method
    text        formats T1 to T20                   objects              formats J1 to J5
    messages    the sentences of section 4          literal              Python 2 dictionary literals
    rawpath     names with any character            kept                 answers shown again

Contract references are to the Cloud Scheduler contract.
"""

from __future__ import annotations

from cloudsched.dialects.cloud_scheduler.app import admin_app, info_app

__all__ = ["admin_app", "info_app"]
