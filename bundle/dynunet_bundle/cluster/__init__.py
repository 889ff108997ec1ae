"""Cases on the machines of a Ray cluster: ``predict``, ``prepare``, ``evaluate`` with ``--ray`` (docs/cluster.md)."""
