"""What `semshare bench` runs: speed and fidelity of reuse against the model's own cold answers."""
