"""Two Ray nodes of one core on this machine: prints their address, takes ``add`` and ``kill`` from its input."""

import os
import sys

os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}

from ray.cluster_utils import Cluster  # noqa: E402 - Ray reads the settings as it is imported

NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}

cluster = Cluster(initialize_head=True, head_node_args=NODE)
nodes = [cluster.add_node(**NODE)]
print(cluster.address, flush=True)
for line in sys.stdin:
    if line.strip() == "kill":
        cluster.remove_node(nodes.pop(), allow_graceful=False)
    elif line.strip() == "add":
        nodes.append(cluster.add_node(**NODE))
    print("done", flush=True)
cluster.shutdown()
