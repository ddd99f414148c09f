"""A Kubernetes node on this machine, on which deploy/ runs: `python deploy/cluster`."""
