"""What whoever runs a node wants to know before pods do: what the machine can do, and what would be done for a pod."""
