"""What runs in the virtual machine. Imports nothing but the standard library and executor/stage1."""
