"""What `morphogen doctor` looks at on this machine, in the lake and in the cluster."""
