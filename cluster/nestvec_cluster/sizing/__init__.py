"""What a deployment needs: memory, disk, pods and nodes, from what it is to hold.

Arithmetic alone: nothing here is measured when it is called. Each constant says where it is from;
`benchmarks/size.py` holds the sums against processes that run.
"""
