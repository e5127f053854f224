"""The Mesos v1 HTTP protocol: drivers on pymesos, typed resources, master detection."""
